"""Tiny detectors that find white squares, a bundle of them, and footage with moving squares."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cachenet.shared.bundle.manifest import FORMAT, MANIFEST, Bundle, Manifest, Model, file_digest
from cachenet.shared.inference.decoders import Decoder
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Input, Picture
from cachenet.shared.media import recording

#: Width and height of the detectors' input, and side of the squares that they find there, pixels.
WIDTH, HEIGHT, SQUARE = 128, 96, 24
INPUT = Input(WIDTH, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), fit="stretch", colour="bgr", height=HEIGHT)
_STRIDE = 4


def detector_bundle(directory: Path) -> Path:
    """Write the bundle ``squares`` and return ``directory``: an exact full detector, a base detector that is up to two
    pixels off, and the submodel ``near``, which is as exact as the full one."""
    models = {
        "full": _model(directory, "full", "full", exact=True, score=0.5),
        "base": _model(directory, "base", "base", exact=False, score=0.1),
        "near": _model(directory, "near", "submodel", exact=True, score=0.1),
    }
    manifest = Manifest(FORMAT, "squares", "detection", ("square",), models, {"built-by": "tests.detectors"})
    (directory / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    Bundle(directory)
    return directory


def local_detector(bundle: Bundle) -> Detector:
    """The full detector of ``bundle``, in this process."""
    model = bundle.manifest.models["full"]
    assert model.decoder is not None
    return Detector(Session(bundle.path("full"), "cpu").run_all, model.input, model.decoder)


def replace_detector(directory: Path, name: str, data: bytes, decoder: Decoder | None = None) -> Bundle:
    """Replace one model of the bundle in ``directory``; ``decoder``: None for the same decoder."""
    path = directory / name / "1" / "model.onnx"
    path.write_bytes(data)
    fields = msgspec.json.decode((directory / MANIFEST).read_bytes())
    fields["models"][name] |= {"sha256": file_digest(path), "bytes": len(data)}
    if decoder is not None:
        fields["models"][name]["decoder"] = msgspec.to_builtins(decoder)
    (directory / MANIFEST).write_bytes(msgspec.json.encode(fields))
    return Bundle(directory)


def _model(directory: Path, name: str, role: Literal["full", "base", "submodel"], exact: bool, score: float) -> Model:
    path = directory / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(square_detector(exact, name))
    milliseconds = 4.0 if role == "full" else 1.0
    return Model(
        role, f"{name}/1/model.onnx", path.stat().st_size, file_digest(path), INPUT, 1.0, 1000, 1000, milliseconds,
        () if role == "full" else (0.95 if exact else 0.8,), (), Decoder("heatmap", (0,), score),
    )  # fmt: skip


def square_detector(exact: bool, name: str) -> bytes:
    """An ONNX file: white in a window around each cell, the centre of that white if ``exact``, and peaks."""
    away = np.mgrid[:SQUARE, :SQUARE][::-1] - (SQUARE - 1) / 2  # (2, side, side), pixels across and down
    window = np.concatenate([np.ones((1, SQUARE, SQUARE)), away])[:, None] / SQUARE**2
    constants = {
        "grey": np.full((1, 3, 1, 1), 1 / 3),
        "dark": np.array(0.6),
        "contrast": np.array(2.5),
        "window": window,
        "tiny": np.array(1e-6),
        "step": np.array(_STRIDE if exact else 1e9),
        "half": np.array(0.5),
        "size": np.full((1, 2, HEIGHT // _STRIDE, WIDTH // _STRIDE), np.log(SQUARE / _STRIDE)),
    }
    rows = {"first": [0], "second": [1], "last": [3], "axis": [1]}
    pads = [(SQUARE - _STRIDE) // 2] * 4
    nodes = [
        helper.make_node("Conv", ["image", "grey"], ["brightness"]),
        helper.make_node("Sub", ["brightness", "dark"], ["above"]),
        helper.make_node("Relu", ["above"], ["light"]),
        helper.make_node("Mul", ["light", "contrast"], ["white"]),
        helper.make_node("Conv", ["white", "window"], ["moments"], strides=[_STRIDE, _STRIDE], pads=pads),
        helper.make_node("Slice", ["moments", "first", "second", "axis"], ["mass"]),
        helper.make_node("Slice", ["moments", "second", "last", "axis"], ["moment"]),
        helper.make_node("Add", ["mass", "tiny"], ["some"]),
        helper.make_node("Div", ["moment", "some"], ["pixels"]),
        helper.make_node("Div", ["pixels", "step"], ["cells"]),
        helper.make_node("Add", ["cells", "half"], ["centre"]),
        helper.make_node("MaxPool", ["mass"], ["highest"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Equal", ["mass", "highest"], ["is_peak"]),
        helper.make_node("Cast", ["is_peak"], ["peak"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["mass", "peak"], ["score"]),
        helper.make_node("Concat", ["centre", "size", "score"], ["objects"], axis=1),
    ]
    tensors = {key: value.astype(np.float32) for key, value in constants.items()}
    return _onnx(nodes, tensors | {key: np.array(value) for key, value in rows.items()}, name)


def constant_detector(output: np.ndarray, name: str = "constant") -> bytes:
    """An ONNX file that gives the same output for every picture."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
        helper.make_node("Add", ["output", "zero"], ["objects"]),
    ]
    return _onnx(nodes, {"nothing": np.float32(0), "output": output.astype(np.float32)}, name)


def _onnx(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], name: str) -> bytes:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])],
        [helper.make_tensor_value_info("objects", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def boxes(frame: int, squares: int = 2) -> list[tuple[float, float]]:
    """Left and top of each square in a frame, pixels of a picture of twice the detectors' input."""
    return [
        (abs((40 + 90 * k + (6 + k) * frame) % 400 - 200) + 2.0, abs((60 + 50 * k + 2 * frame) % 260 - 130) + 2.0)
        for k in range(squares)
    ]


def footage(frames: int, squares: int = 2, seed: int = 0) -> list[Picture]:
    """Pictures of 256 x 192 pixels: white squares of 48 pixels, with a soft texture, before a dark ground."""
    rng = np.random.default_rng(seed)
    ground = cv2.GaussianBlur(rng.integers(0, 140, (192, 256, 3), np.uint8), (0, 0), 3)
    ground = np.clip(3 * (ground.astype(int) - 70) + 70, 0, 120).astype(np.uint8)
    skin = cv2.GaussianBlur(rng.integers(0, 256, (48, 48, 3), np.uint8), (0, 0), 2)
    skin = np.clip(3 * (skin.astype(int) - 128) + 235, 200, 255).astype(np.uint8)
    pictures = []
    for frame in range(frames):
        picture = ground.copy()
        for left, top in boxes(frame, squares):
            x, y = round(left), round(top)
            part = picture[y : y + 48, x : x + 48]
            part[:] = skin[: part.shape[0], : part.shape[1]]
        pictures.append(picture)
    return pictures


def record(directory: Path, pictures: list[Picture]) -> Path:
    """Write pictures as a recorded stream; return ``directory``."""
    writer = recording.RecordingWriter(directory, "%06d.png")
    for picture in pictures:
        writer.add(picture)
    writer.finish(
        recording.Recording(
            name="squares", seed=None, frames=len(pictures), fps=10.0, labels=(), truth=None, files="%06d.png"
        )
    )
    return directory
