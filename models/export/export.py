"""Exports a trained residual network to ONNX, with normalisations folded into the convolutions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from cachenet.models.export.graph import Graph, Weights, write_classifier
from cachenet.models.train.networks import Block, ResNet, array


def export(network: ResNet, path: Path, metadata: dict[str, str]) -> None:
    """Write ``network`` to ``path``.

    Input ``image`` ``(n, 3, h, w)`` float32 normalised, output ``scores`` ``(n, classes)`` logits, tensor ``embedding``
    ``(n, channels)``. Weights are stored as float16; constant folding makes them float32 when the model is loaded.

    Args:
        network: Network in evaluation mode.
        metadata: Properties of the file, written under ``cachenet.*``.
    """
    graph = Graph()
    x = trunk(graph, network, "embedding")
    head = network.head
    graph.node(
        "Gemm",
        [x, graph.constant("head.weight", array(head.weight)), graph.constant("head.bias", array(head.bias))],
        "scores",
        transB=1,
    )
    write_classifier(graph, network.shape.classes, path, metadata)


def trunk(graph: Graph, network: ResNet, embedding: str) -> str:
    """Add the network from the tensor ``image`` to ``embedding``, the input of its head ``(n, channels)``."""
    x = _convolution(graph, "stem", "image", network.stem[0], network.stem[1], relu=True)  # type: ignore[arg-type]
    for s, stage in enumerate(network.stages):
        for b, block in enumerate(stage.children()):
            assert isinstance(block, Block)
            x = _block(graph, f"stage{s + 1}.block{b + 1}", x, block)
    return graph.node("Flatten", [graph.node("GlobalAveragePool", [x], "pooled")], embedding)


def _block(graph: Graph, name: str, x: str, block: Block) -> str:
    y = _convolution(graph, f"{name}.conv1", x, block.conv1, block.norm1, relu=True)
    y = _convolution(graph, f"{name}.conv2", y, block.conv2, block.norm2, relu=False)
    if isinstance(block.shortcut, nn.Sequential):
        x = _convolution(graph, f"{name}.shortcut", x, block.shortcut[0], block.shortcut[1], relu=False)  # type: ignore[arg-type]
    return graph.node("Relu", [graph.node("Add", [y, x], f"{name}.sum")], f"{name}.out")


def _convolution(graph: Graph, name: str, x: str, conv: nn.Conv2d, norm: nn.BatchNorm2d, relu: bool) -> str:
    weight, bias = fold(conv, norm)
    return graph.convolution(name, x, weight, bias, int(conv.stride[0]), int(conv.padding[0]), relu)


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Weights, Weights]:
    """Return weight and bias of the convolution that equals ``conv`` followed by ``norm`` in evaluation mode."""
    assert norm.running_mean is not None and norm.running_var is not None
    gain = array(norm.weight) / np.sqrt(array(norm.running_var) + norm.eps)
    return array(conv.weight) * gain[:, None, None, None], array(norm.bias) - array(norm.running_mean) * gain
