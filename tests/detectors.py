"""Tiny detectors: the colours of blocks of a picture as objects."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cachenet.shared.bundle.manifest import FORMAT, MANIFEST, Bundle, Manifest, Model, file_digest
from cachenet.shared.inference.decoders import Decoder
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Input

LABELS = ("red", "blue")
#: Cells of the detectors' output in each direction.
CELLS = 4


def detection_bundle(directory: Path, side: int = 32, submodels: tuple[str, ...] = ()) -> Path:
    """Write a bundle ``tiny`` of detectors of the labels red and blue; return ``directory``.

    Args:
        side: Side of the full model's input, pixels; 32 is sent as PNG, more than 64 as JPEG.
    """
    roles: dict[str, Literal["full", "base", "submodel"]] = {"full": "full", "base": "base"}
    models = {name: _model(directory, name, role, side) for name, role in roles.items()}
    models |= {name: _model(directory, name, "submodel", side) for name in submodels}
    manifest = Manifest(FORMAT, "tiny", "detection", LABELS, models, {"built-by": "tests.detectors"})
    (directory / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    Bundle(directory)
    return directory


def local_detector(bundle: Bundle) -> Detector:
    """The full model of ``bundle`` in this process."""
    model = bundle.manifest.models[bundle.manifest.only("full")]
    assert model.decoder is not None
    return Detector(Session(bundle.directory / model.file, "cpu").run_all, model.input, model.decoder)


def scene(*blocks: tuple[int, int, str], side: int = 32) -> np.ndarray:
    """A black BGR picture ``(side, side, 3)`` with red and blue blocks of ``(column, row, colour)``."""
    picture = np.zeros((side, side, 3), np.uint8)
    step = side // CELLS
    for column, row, colour in blocks:
        where = slice(row * step, (row + 1) * step), slice(column * step, (column + 1) * step)
        picture[where] = (0, 0, 230) if colour == "red" else (210, 0, 0)
    return picture


def _model(directory: Path, name: str, role: Literal["full", "base", "submodel"], side: int) -> Model:
    file = f"{name}/1/model.onnx"
    path = directory / file
    path.parent.mkdir(parents=True)
    block_detector(path, side, name)
    spec = Input(side, (0.0,) * 3, (255.0,) * 3, fit="stretch")
    return Model(
        role, file, path.stat().st_size, file_digest(path), spec, 1.0, 1, 1, 0.05, (1.0,) * len(LABELS),
        decoder=Decoder("heatmap", (0, 1)),
    )  # fmt: skip


def block_detector(path: Path, side: int, name: str = "detector") -> None:
    """Write a detector of kind ``heatmap``: each of 4x4 blocks is red or blue to the degree of that channel."""
    step = side // CELLS
    boxes = np.zeros((1, 4, CELLS, CELLS), np.float32)  # width and height: one cell, whose logarithm is 0
    boxes[:, :2] = 0.5
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["image"], ["means"], kernel_shape=[step, step], strides=[step, step]),
            helper.make_node("Gather", ["means", "channels"], ["scores"], axis=1),
            helper.make_node("Concat", ["boxes", "scores"], ["output"], axis=1),
        ],
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 6, CELLS, CELLS])],
        [numpy_helper.from_array(boxes, "boxes"), numpy_helper.from_array(np.array([0, 2]), "channels")],
    )
    # An old operator set and file version: any ONNX Runtime that this project runs on reads them.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
