"""An ONNX graph, written by hand: no operator that is not needed, names that say what they are, the same bytes every
time, and no dependence on an exporter's version."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from cachenet.shared.command import atomic_files

_OPSET = 17  # old enough for the ONNX Runtime of JetPack 5
Weights = npt.NDArray[np.float32]


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

    def fixed(self, name: str, value: npt.NDArray[Any]) -> str:
        """A constant that an operator wants to know beforehand, as it is."""
        self.weights.append(numpy_helper.from_array(value, name))
        return name

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

    def convolution(self, name: str, x: str, weight: Weights, bias: Weights, stride: int, edge: int, relu: bool) -> str:
        y = self.node(
            "Conv",
            [x, self.kernel(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)],
            name,
            kernel_shape=list(weight.shape[2:]),
            strides=[stride, stride],
            pads=[edge] * 4,
        )
        return self.node("Relu", [y], f"{name}.relu") if relu else y


def write(graph: Graph, classes: int, path: Path, metadata: dict[str, str], side: int | None = None) -> None:
    """Write a graph from ``image`` to ``scores`` of ``classes`` classes to ``path``; it takes pictures of ``side``
    pixels, or of any size."""
    image: list[str | int | None] = ["n", 3, side, side] if side is not None else ["n", 3, "h", "w"]
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, image)
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", classes])
    save(graph, "cachenet", [given], [scores], path, metadata)


def save(
    graph: Graph,
    name: str,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    path: Path,
    metadata: dict[str, str],
) -> None:
    """Write a graph called ``name`` to ``path``; ``metadata`` goes into the file's properties under ``cachenet.*``."""
    model = helper.make_model(
        helper.make_graph(graph.nodes, name, inputs, outputs, graph.weights),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        producer_name="cachenet",
        ir_version=8,
    )
    helper.set_model_props(model, {f"cachenet.{key}": value for key, value in metadata.items()})
    onnx.checker.check_model(model, full_check=True)
    atomic_files.write(path, model.SerializeToString(deterministic=True))
