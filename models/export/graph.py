"""Writes ONNX graphs without an exporter: only needed operators, readable names, reproducible bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from cachenet.shared.command import atomic_files

#: Operator set; the ONNX Runtime of JetPack 5 supports it.
_OPSET = 17
Weights = npt.NDArray[np.float32]


class Graph:
    """Nodes and weights of a graph. Every method returns the name of the new tensor.

    Args:
        large: Minimum size of kernels that are stored in INT8; None for none.

    >>> graph = Graph()
    >>> graph.node("Relu", ["image"], "positive")
    'positive'
    """

    def __init__(self, large: int | None = None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._large = large

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: Weights) -> str:
        """Add a weight, stored as float16."""
        self.weights.append(numpy_helper.from_array(value.astype(np.float16), f"{name}.half"))
        return self.node("Cast", [f"{name}.half"], name, to=TensorProto.FLOAT)

    def fixed(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add a constant of any type, stored unchanged."""
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def kernel(self, name: str, value: Weights) -> str:
        """Add a weight, stored as float16, or as INT8 if it is large."""
        large = self._large is not None and value.size >= self._large
        return self.small_constant(name, value) if large else self.constant(name, value)

    def small_constant(self, name: str, value: Weights) -> str:
        """Add a weight, stored as INT8 with a scale for each output channel, the first axis."""
        axes = tuple(range(1, value.ndim))
        scale = np.maximum(np.abs(value).max(axes, keepdims=True), 1e-12) / 127
        self.weights.append(numpy_helper.from_array(np.rint(value / scale).astype(np.int8), f"{name}.steps"))
        self.weights.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}.scale"))
        steps = self.node("Cast", [f"{name}.steps"], f"{name}.cast", to=TensorProto.FLOAT)
        return self.node("Mul", [steps, f"{name}.scale"], name)

    def conv(self, name: str, x: str, weight: Weights, bias: Weights, stride: int, **attributes: Any) -> str:
        """Add a convolution; ``attributes`` are further ones of the operator."""
        inputs = [x, self.kernel(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
        return self.node(
            "Conv", inputs, name, kernel_shape=list(weight.shape[2:]), strides=[stride, stride], **attributes
        )

    def convolution(self, name: str, x: str, weight: Weights, bias: Weights, stride: int, edge: int, relu: bool) -> str:
        """Add a convolution with ``edge`` pixels of padding on each side, and a ReLU if wanted."""
        y = self.conv(name, x, weight, bias, stride, pads=[edge] * 4)
        return self.node("Relu", [y], f"{name}.relu") if relu else y


def write_classifier(graph: Graph, classes: int, path: Path, metadata: dict[str, str], side: int | None = None) -> None:
    """Write a classifier from the input ``image`` to the output ``scores``.

    Args:
        metadata: Properties of the file, written under ``cachenet.*``.
        side: Side of the images, pixels; None for any size.
    """
    sizes: list[str | int | None] = ["n", 3, side, side] if side is not None else ["n", 3, "h", "w"]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, sizes)
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", classes])
    write_graph(graph, "cachenet", [image], [scores], path, metadata)


def write_graph(
    graph: Graph,
    name: str,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    path: Path,
    metadata: dict[str, str],
) -> None:
    """Write a graph called ``name`` to ``path``; ``metadata`` becomes properties of the file under ``cachenet.*``."""
    model = helper.make_model(
        helper.make_graph(graph.nodes, name, inputs, outputs, graph.weights),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        producer_name="cachenet",
        ir_version=8,
    )
    helper.set_model_props(model, {f"cachenet.{key}": value for key, value in metadata.items()})
    onnx.checker.check_model(model, full_check=True)
    atomic_files.write(path, model.SerializeToString(deterministic=True))
