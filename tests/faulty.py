"""Models that must never take the place of one that works: each kind of fault in a valid bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cachenet.shared.bundle import golden_frames
from cachenet.shared.bundle.manifest import MANIFEST, Bundle, Manifest, digest, file_digest
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import crop, encode, preprocessor
from cachenet.shared.media.pictures import decode
from tests.bundles import LABELS, SIDE

CLASSES = len(LABELS)


def _model(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], name: str) -> bytes:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = made.SerializeToString()
    return data


def _mean() -> list[onnx.NodeProto]:
    """From the image to ``mean``, (n, 1)."""
    return [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[1]),
    ]


_ONES = {"ones": np.ones((1, CLASSES), np.float32)}


def not_a_number() -> bytes:
    nodes = [*_mean(), helper.make_node("MatMul", ["mean", "nan"], ["logits"])]
    return _model(nodes, {"nan": np.full((1, CLASSES), np.nan, np.float32)}, "nan")


def failing() -> bytes:
    """A reshape that fits no batch: an error of the runtime at every run."""
    nodes = [*_mean(), helper.make_node("Reshape", ["mean", "shape"], ["logits"])]
    return _model(nodes, {"shape": np.array([7, CLASSES], np.int64)}, "failing")


def looping() -> bytes:
    """A loop of 2^60 iterations."""
    return _loop([], {"often": np.array(2**60)})


def looping_when_bright() -> bytes:
    """A loop of 2^60 iterations where the mean of the normalised picture is over 1.5, and of none elsewhere."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["brightness"], keepdims=0),
        helper.make_node("Greater", ["brightness", "limit"], ["bright"]),
        helper.make_node("Where", ["bright", "many", "none"], ["often"]),
    ]
    numbers = {"limit": np.array(1.5, np.float32), "many": np.array(2**60), "none": np.array(0)}
    return _loop(nodes, numbers)


def _loop(before: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> bytes:
    """A model that loops ``often`` times, which ``constants`` or the nodes ``before`` say."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["going_on"]),
            helper.make_node("Add", ["sum", "sum"], ["more"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("iteration", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("going_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        *_mean(),
        *before,
        helper.make_node("MatMul", ["mean", "ones"], ["begin"]),
        helper.make_node("Loop", ["often", "true", "begin"], ["logits"], body=body),
    ]
    return _model(nodes, {**_ONES, **constants, "true": np.array(True)}, "looping")


def bomb() -> bytes:
    """A few bytes of model that fill 2^40 with ones."""
    nodes = [
        *_mean(),
        helper.make_node("Shape", ["mean"], ["here"]),
        helper.make_node("Mul", ["here", "many"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["huge"], value=numpy_helper.from_array(np.ones(1, np.float32))),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=1),
        helper.make_node("MatMul", ["sum", "ones"], ["logits"]),
    ]
    return _model(nodes, {**_ONES, "many": np.array([2**20, 2**18], np.int64)}, "bomb")


def other_labels() -> bytes:
    """Finite scores of the right shape that have nothing to do with the picture."""
    nodes = [*_mean(), helper.make_node("MatMul", ["mean", "row"], ["zero"]),
             helper.make_node("Add", ["zero", "bias"], ["logits"])]  # fmt: skip
    bias = np.zeros((1, CLASSES), np.float32)
    bias[0, -1] = 20
    return _model(nodes, {"row": np.zeros((1, CLASSES), np.float32), "bias": bias}, "other")


def garbage() -> bytes:
    return bytes(range(256)) * 20


KINDS: dict[str, Callable[[], bytes]] = {
    "garbage": garbage,
    "nan": not_a_number,
    "failing": failing,
    "looping": looping,
    "bomb": bomb,
    "other-labels": other_labels,
}


def with_golden(directory: Path) -> Bundle:
    """Give the bundle in ``directory`` golden frames of random blocks, and what its models say of them."""
    manifest = Bundle(directory).manifest
    rng = np.random.default_rng(0)
    pictures = tuple(encode(rng.integers(0, 256, (48, 64, 3), np.uint8))[1] for _ in range(4))
    scores = {}
    for name, model in manifest.models.items():
        session, prepare = Session(directory / model.file, "cpu"), preprocessor(model.input)
        rows = (session.run(prepare(crop(decode(picture), model.input)))[0] for picture in pictures)
        scores[name] = tuple(tuple(map(float, row)) for row in rows)
    data = golden_frames.encode(golden_frames.GoldenFrames(pictures, scores))
    (directory / "golden.msgpack").write_bytes(data)
    described = {"file": "golden.msgpack", "bytes": len(data), "sha256": digest(data)}
    _edit(directory, lambda fields: fields.update(golden=described))
    return Bundle(directory)


def without_golden(directory: Path) -> Path:
    """Take the golden frames of the bundle in ``directory`` away."""
    _edit(directory, lambda fields: fields.update(golden=None))
    return directory


def with_model(bundle: Bundle, directory: Path, data: bytes, name: str = "base") -> Bundle:
    """A copy of ``bundle`` in ``directory`` whose model ``name`` is the file ``data``."""
    shutil.copytree(bundle.directory, directory)
    path = directory / bundle.manifest.models[name].file
    path.write_bytes(data)

    def replace(fields: dict[str, Any]) -> None:
        fields["models"][name].update(bytes=len(data), sha256=file_digest(path))

    _edit(directory, replace)
    return Bundle(directory)


def _edit(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    fields = msgspec.json.decode((directory / MANIFEST).read_bytes())
    change(fields)
    data = msgspec.json.encode(msgspec.convert(fields, Manifest))
    (directory / MANIFEST).write_bytes(data)
