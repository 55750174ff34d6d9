"""Cost of an ONNX classifier: arithmetic and operators of its graph, and time on this machine."""

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

from cachenet.models.export.onnx_file import copied, inputs
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Size, pixels

#: Operators that remain after constant folding and fusion.
_RUN = ("Conv", "Gemm", "MatMul", "Add", "GlobalAveragePool", "MaxPool", "AveragePool", "Concat", "Resize")

#: Number of the input that holds the weights, by operator with multiply-adds; the last three are of INT8 models.
_WEIGHTS = {"Conv": 1, "Gemm": 1, "MatMul": 1, "ConvInteger": 1, "MatMulInteger": 1}
_WEIGHTS |= {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}


@dataclass(frozen=True)
class Cost:
    """Machine-independent cost of a run: multiply-adds, dispatched operators, and whether it is in INT8."""

    macs: int
    operators: int
    int8: bool


def model_cost(model: ModelProto, side: Size) -> Cost:
    """Return the cost of one image of size ``side``."""
    kinds = [node.op_type for node in model.graph.node]
    return Cost(macs(model, side), operators(model), "QuantizeLinear" in kinds)


def operators(model: ModelProto) -> int:
    """Return the number of operators that a run dispatches."""
    return sum(node.op_type in _RUN for node in model.graph.node)


def parameters(model: ModelProto) -> int:
    """Return the number of weights."""
    return sum(math.prod(weight.dims) for weight in model.graph.initializer)


def macs(model: ModelProto, side: Size) -> int:
    """Return the multiply-adds of one image of size ``side`` in convolutions and matrix products."""
    shapes = {weight.name: list(weight.dims) for weight in model.graph.initializer}
    for value in infer_shapes(model, side).value_info:
        shapes[value.name] = [size.dim_value for size in value.type.tensor_type.shape.dim]
    return sum(node_macs(node, shapes) for node in model.graph.node)


def infer_shapes(model: ModelProto, side: Size) -> GraphProto:
    """Return the graph for one image of size ``side`` with inferred types and shapes."""
    fixed = copied(model)
    width, height = pixels(side)
    for value in inputs(fixed.graph):
        sizes = value.type.tensor_type.shape.dim
        for size, known in zip(sizes, (1, sizes[1].dim_value or 3, height, width), strict=True):
            size.dim_value = known
    return shape_inference.infer_shapes(fixed, data_prop=True).graph


def run_seconds(paths: Sequence[Path], image: npt.NDArray[np.float32], runs: int) -> list[float]:
    """Return the shortest time of a run of each model on one thread; the models take turns.

    Other processes only add to a time: on a busy machine the median was 19 ms for a model of 3 ms.

    Args:
        paths: ONNX files.
        image: Input of all models.
        runs: Runs of each model.
    """
    sessions = [Session(path, "cpu", 1) for path in paths]
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(runs):
        for session, own in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run_all(image)
            own.append(time.perf_counter() - start)
    return [min(own) for own in times]


def node_macs(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    """Return the multiply-adds of one node, given the shapes of all tensors."""
    if node.op_type not in _WEIGHTS:
        return 0
    weight = shapes.get(node.input[_WEIGHTS[node.op_type]], [])
    if "Conv" in node.op_type:
        out = shapes.get(node.output[0], [])
        return math.prod(weight[1:]) * math.prod(out[1:]) if weight and out else 0
    return math.prod(shapes.get(node.input[0], [])[1:-1]) * math.prod(weight)
