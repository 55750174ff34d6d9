"""What an ONNX classifier costs: read from its graph, and in time here."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, shape_inference

from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Size, pixels

#: Operators that are left when a runtime has folded constants and fused what can be fused.
_RUN = ("Conv", "Gemm", "MatMul", "Add", "GlobalAveragePool", "MaxPool", "AveragePool", "Concat", "Resize")

#: Which input of an operator that multiplies holds its weights; the later ones are those of models in INT8.
_WEIGHTS = {"Conv": 1, "Gemm": 1, "MatMul": 1, "ConvInteger": 1, "MatMulInteger": 1}
_WEIGHTS |= {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}


@dataclass(frozen=True)
class Cost:
    """What tells how long a run of a model takes, whatever the machine. ``operators``: that are dispatched."""

    macs: int
    operators: int
    int8: bool


def cost(model: ModelProto, side: Size) -> Cost:
    """Of one picture of that size."""
    kinds = [node.op_type for node in model.graph.node]
    return Cost(macs(model, side), operators(model), "QuantizeLinear" in kinds)


def operators(model: ModelProto) -> int:
    """How many are dispatched in a run."""
    return sum(node.op_type in _RUN for node in model.graph.node)


def parameters(model: ModelProto) -> int:
    """Numbers in the weights."""
    return sum(math.prod(weight.dims) for weight in model.graph.initializer)


def macs(model: ModelProto, side: Size) -> int:
    """Multiply-adds of one picture of that size through convolutions and matrix products; the rest is small."""
    shapes = {weight.name: list(weight.dims) for weight in model.graph.initializer}
    for value in inferred(model, side).value_info:
        shapes[value.name] = [size.dim_value for size in value.type.tensor_type.shape.dim]
    return sum(node_macs(node, shapes) for node in model.graph.node)


def inferred(model: ModelProto, side: Size) -> GraphProto:
    """The graph for one picture of that size, with what can be known of every tensor's type and sizes."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    weights = {weight.name for weight in fixed.graph.initializer}
    width, height = pixels(side)
    for given in fixed.graph.input:
        if given.name not in weights:
            sizes = given.type.tensor_type.shape.dim
            for size, known in zip(sizes, (1, sizes[1].dim_value or 3, height, width), strict=True):
                size.dim_value = known
    return shape_inference.infer_shapes(fixed, data_prop=True).graph


def seconds(paths: Sequence[Path], image: npt.NDArray[np.float32], runs: int) -> list[float]:
    """What a run of each model takes on one thread: medians of ``runs``, by turns: a fair comparison."""
    sessions = [Session(path, "cpu", 1) for path in paths]
    took: list[list[float]] = [[] for _ in sessions]
    for _ in range(runs):
        for session, times in zip(sessions, took, strict=True):
            begun = time.perf_counter()
            session.run(image)
            times.append(time.perf_counter() - begun)
    return [float(np.median(times)) for times in took]


def node_macs(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    """Multiply-adds of one node, given the sizes of all tensors."""
    if node.op_type not in _WEIGHTS:
        return 0
    weight = shapes.get(node.input[_WEIGHTS[node.op_type]], [])
    if "Conv" in node.op_type:
        out = shapes.get(node.output[0], [])
        return math.prod(weight[1:]) * math.prod(out[1:]) if weight and out else 0
    return math.prod(shapes.get(node.input[0], [])[1:-1]) * math.prod(weight)
