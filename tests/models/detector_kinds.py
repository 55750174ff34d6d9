"""Small ONNX detectors: one that finds coloured squares, and ones whose outputs are fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from cachenet.shared.inference.image import Picture

WIDTH, HEIGHT = 160, 96
#: Side of a square in pictures of the detector's size, pixels: three cells.
SIDE = 24


def save(
    path: Path,
    nodes: Sequence[NodeProto],
    outputs: Sequence[str],
    weights: Mapping[str, npt.NDArray[Any]] | None = None,
    shape: Sequence[int | str] = (1, 3, HEIGHT, WIDTH),
    metadata: dict[str, str] | None = None,
    kind: int = TensorProto.FLOAT,
    types: Mapping[str, int] | None = None,
) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "detector",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info(name, (types or {}).get(name, TensorProto.FLOAT), None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, str(path))
    return path


def squares(path: Path, metadata: dict[str, str] | None = None) -> Path:
    """A heatmap detector of red and blue squares of ``SIDE`` pixels on a dark ground; takes RGB in 0..1."""
    rows, columns = HEIGHT // 8, WIDTH // 8
    box = np.zeros((1, 4, rows, columns), np.float32)
    box[:, :2], box[:, 2:] = 0.5, np.log(SIDE / 8)
    red_and_blue = np.array([[1, -1, -1], [-1, -1, 1]], np.float32).reshape(2, 3, 1, 1)
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "red_and_blue"], ["colours"]),
        node("Relu", ["colours"], ["positive"]),
        node("AveragePool", ["positive"], ["means"], kernel_shape=[24, 24], strides=[8, 8], pads=[8, 8, 8, 8]),
        node("MaxPool", ["means"], ["highest"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Equal", ["means", "highest"], ["is_peak"]),
        node("Cast", ["is_peak"], ["peak"], to=TensorProto.FLOAT),
        node("Mul", ["means", "peak"], ["scores"]),
        node("Concat", ["box", "scores"], ["heatmap"], axis=1),
    ]
    return save(path, nodes, ["heatmap"], {"box": box, "red_and_blue": red_and_blue}, metadata=metadata)


def scene(*objects: tuple[str, int, int], size: tuple[int, int] = (WIDTH, HEIGHT)) -> Picture:
    """A dark picture with squares: colour, left and top."""
    picture = np.full((size[1], size[0], 3), 10, np.uint8)
    for colour, left, top in objects:
        picture[top : top + SIDE, left : left + SIDE] = (0, 0, 255) if colour == "red" else (255, 0, 0)
    return picture


def fixed(path: Path, outputs: Mapping[str, npt.NDArray[Any]], **more: Any) -> Path:
    """A detector that always gives ``outputs``, of an input that it takes and does not use."""
    node = helper.make_node
    nodes: list[NodeProto] = [
        node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        node("ReduceMean", ["floats"], ["mean"], keepdims=0),
        node("Mul", ["mean", "nothing"], ["zero"]),
    ]
    weights: dict[str, npt.NDArray[Any]] = {"nothing": np.float32(0).reshape(())}
    types = {}
    for name, value in outputs.items():
        weights[f"{name}_value"] = value
        types[name] = int(helper.np_dtype_to_tensor_dtype(value.dtype))
        nodes += [
            node("Cast", ["zero"], [f"{name}_zero"], to=types[name]),
            node("Add", [f"{name}_value", f"{name}_zero"], [name]),
        ]
    return save(path, nodes, list(outputs), weights, types=types, **more)
