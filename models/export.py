"""A trained network as an ONNX file: normalisation folded into the convolutions, weights as float16, same bytes every
time.

The graph is written by hand rather than traced. It is a page of code for this family of networks, and what it gives
is exact: no operator that is not needed, names that say what they are, no dependence on an exporter's version.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from models.networks import Block, ResNet
from shared import files

_OPSET = 17  # old enough for the ONNX Runtime of JetPack 5
Weights = npt.NDArray[np.float32]


def export(network: ResNet, path: Path, metadata: dict[str, str], large: int | None = None) -> None:
    """Write ``network`` to ``path``: input ``image`` (n, 3, h, w) float32 normalised, output ``scores`` (n, classes)
    logits; the tensor ``embedding`` (n, channels) is what the head sees.

    Weights are stored as float16, or as bytes those of ``large`` numbers or more, and made float32 when the model is
    loaded (constant folding), so arithmetic is float32. ``metadata`` goes into the file's properties under
    ``cachenet.*``.
    """
    graph = Graph(large)
    x = graph.convolution("stem", "image", network.stem[0], network.stem[1], relu=True)  # type: ignore[arg-type]
    for s, stage in enumerate(network.stages):
        for b, block in enumerate(stage.children()):
            assert isinstance(block, Block)
            x = _block(graph, f"stage{s + 1}.block{b + 1}", x, block)
    x = graph.node("GlobalAveragePool", [x], "pooled")
    x = graph.node("Flatten", [x], "embedding")
    head = network.head
    graph.node(
        "Gemm",
        [x, graph.constant("head.weight", _array(head.weight)), graph.constant("head.bias", _array(head.bias))],
        "scores",
        transB=1,
    )
    write(graph, network.shape.classes, path, metadata)


def write(graph: Graph, classes: int, path: Path, metadata: dict[str, str], side: int | None = None) -> None:
    """Write a graph from ``image`` to ``scores`` of ``classes`` classes to ``path``; it takes pictures of ``side``
    pixels, or of any size."""
    image: list[str | int | None] = ["n", 3, side, side] if side is not None else ["n", 3, "h", "w"]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "cachenet",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", classes])],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        producer_name="cachenet",
        ir_version=8,
    )
    helper.set_model_props(model, {f"cachenet.{key}": value for key, value in metadata.items()})
    onnx.checker.check_model(model, full_check=True)
    files.write(path, model.SerializeToString(deterministic=True))


def _block(graph: Graph, name: str, x: str, block: Block) -> str:
    y = graph.convolution(f"{name}.conv1", x, block.conv1, block.norm1, relu=True)
    y = graph.convolution(f"{name}.conv2", y, block.conv2, block.norm2, relu=False)
    if isinstance(block.shortcut, nn.Sequential):
        x = graph.convolution(f"{name}.shortcut", x, block.shortcut[0], block.shortcut[1], relu=False)  # type: ignore[arg-type]
    return graph.node("Relu", [graph.node("Add", [y, x], f"{name}.sum")], f"{name}.out")


class Graph:
    """Nodes and weights under construction. Every method returns the name of the tensor it made. ``large``: kernels of
    so many numbers or more take a byte each."""

    def __init__(self, large: int | None = None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._large = large

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: Weights) -> str:
        self.weights.append(numpy_helper.from_array(value.astype(np.float16), f"{name}.half"))
        return self.node("Cast", [f"{name}.half"], name, to=TensorProto.FLOAT)

    def kernel(self, name: str, value: Weights) -> str:
        large = self._large is not None and value.size >= self._large
        return self.small_constant(name, value) if large else self.constant(name, value)

    def small_constant(self, name: str, value: Weights) -> str:
        """A weight in eight bits, with a scale for each output channel, its first axis; like ``constant`` it is made
        whole when the model is loaded."""
        axes = tuple(range(1, value.ndim))
        scale = np.maximum(np.abs(value).max(axes, keepdims=True), 1e-12) / 127
        self.weights.append(numpy_helper.from_array(np.rint(value / scale).astype(np.int8), f"{name}.steps"))
        self.weights.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}.scale"))
        steps = self.node("Cast", [f"{name}.steps"], f"{name}.cast", to=TensorProto.FLOAT)
        return self.node("Mul", [steps, f"{name}.scale"], name)

    def convolution(self, name: str, x: str, conv: nn.Conv2d, norm: nn.BatchNorm2d, relu: bool) -> str:
        weight, bias = fold(conv, norm)
        y = self.node(
            "Conv",
            [x, self.kernel(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)],
            name,
            kernel_shape=list(conv.kernel_size),
            strides=list(conv.stride),
            pads=[int(conv.padding[0]), int(conv.padding[1])] * 2,
        )
        return self.node("Relu", [y], f"{name}.relu") if relu else y


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Weights, Weights]:
    """Weight and bias of the one convolution that does what ``conv`` and then ``norm`` do when evaluating."""
    assert norm.running_mean is not None and norm.running_var is not None
    gain = _array(norm.weight) / np.sqrt(_array(norm.running_var) + norm.eps)
    return _array(conv.weight) * gain[:, None, None, None], _array(norm.bias) - _array(norm.running_mean) * gain


def _array(tensor: object) -> Weights:
    array: Weights = tensor.detach().cpu().float().numpy()  # type: ignore[attr-defined]
    return array
