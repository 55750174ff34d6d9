"""Exports a trained heatmap detector to ONNX, with normalisations folded and peaks found inside the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper
from torch import nn

from cachenet.models.detect.network import BOX_CHANNELS, STRIDE, Convolution, HeatmapNet, Residual
from cachenet.models.export.export import fold
from cachenet.models.export.graph import Graph, write_graph
from cachenet.models.train.networks import array
from cachenet.shared.inference.image import Size, pixels

#: Tensors of the graph before the choice of peaks, for training: boxes, and the logits of the scores.
HEADS = ("boxes", "logits")


def export(network: HeatmapNet, size: Size, path: Path, metadata: dict[str, str]) -> None:
    """Write ``network`` to ``path``.

    Input ``image`` ``(n, 3, height, width)`` float32 normalised. Output ``objects``
    ``(n, 4 + classes, height / 8, width / 8)``: offset right and down from the cell's corner and logarithm of width and
    height, in cells, then the score of each label, 0 wherever a neighbour is higher. Weights are stored as float16.

    Args:
        network: Network in evaluation mode.
        size: Size of the input, pixels.
        metadata: Properties of the file, written under ``cachenet.*``.
    """
    graph = Graph()
    fine = _run(graph, "fine", "image", network.fine)
    middle = _run(graph, "middle", fine, network.middle)
    coarse = _run(graph, "coarse", middle, network.coarse)
    middle = _residual(graph, "middle_joined", _join(graph, "middle", middle, coarse), network.middle_joined)
    fine = _run(graph, "fine_joined", _join(graph, "fine", fine, middle), network.fine_joined)
    assert network.head.bias is not None
    weight, bias = array(network.head.weight), array(network.head.bias)
    boxes = graph.convolution(HEADS[0], fine, weight[:BOX_CHANNELS], bias[:BOX_CHANNELS], 1, 0, relu=False)
    logits = graph.convolution(HEADS[1], fine, weight[BOX_CHANNELS:], bias[BOX_CHANNELS:], 1, 0, relu=False)
    scores = graph.node("Sigmoid", [logits], "scores")
    highest = graph.node("MaxPool", [scores], "highest", kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1])
    lower = graph.node("Less", [scores, highest], "lower")
    nothing = graph.fixed("nothing", np.zeros(1, np.float32))
    peaks = graph.node("Where", [lower, nothing, scores], "peaks")
    graph.node("Concat", [boxes, peaks], "objects", axis=1)
    width, height = pixels(size)
    channels = BOX_CHANNELS + network.shape.classes
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, height, width])
    objects = helper.make_tensor_value_info(
        "objects", TensorProto.FLOAT, ["n", channels, height // STRIDE, width // STRIDE]
    )
    write_graph(graph, "cachenet", [image], [objects], path, metadata)


def _run(graph: Graph, name: str, x: str, part: nn.Sequential) -> str:
    for number, layer in enumerate(part):
        if isinstance(layer, Convolution):
            x = _convolution(graph, f"{name}.{number}", x, layer)
        else:
            assert isinstance(layer, Residual)
            x = _residual(graph, f"{name}.{number}", x, layer)
    return x


def _residual(graph: Graph, name: str, x: str, layer: Residual) -> str:
    return graph.node("Add", [x, _convolution(graph, name, x, layer.convolution)], f"{name}.sum")


def _convolution(graph: Graph, name: str, x: str, layer: Convolution) -> str:
    conv, norm = layer[0], layer[1]
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    weight, bias = fold(conv, norm)
    return graph.convolution(name, x, weight, bias, int(conv.stride[0]), 1, relu=True)


def _join(graph: Graph, name: str, fine: str, coarse: str) -> str:
    """``fine`` plus the maps of half its resolution."""
    scales = graph.fixed(f"{name}.scales", np.array([1, 1, 2, 2], np.float32))
    larger = graph.node(
        "Resize",
        [coarse, "", scales],
        f"{name}.larger",
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    return graph.node("Add", [fine, larger], f"{name}.with_coarse")
