"""A synthetic task: a grey camera of varying brightness, and models that separate dark from bright."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.real.recording import Recording

#: Width and height of a frame; the models see the left half.
SIZE = (64, 32)
FRAMES = 260


def task(directory: Path, name: str = "lamp") -> Path:
    """Write a video, two models, labels and truth, and the task file ``NAME.toml``; its path."""
    writer = cv2.VideoWriter(str(directory / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, SIZE)
    assert writer.isOpened()
    for number in range(FRAMES):
        picture = np.full((SIZE[1], SIZE[0], 3), 100, np.uint8)
        picture[:, : SIZE[0] // 2] = brightness(number)
        writer.write(picture)
    writer.release()
    by_brightness(directory / "full.onnx", limit=128)
    by_brightness(directory / "base.onnx", limit=110)
    (directory / "labels.txt").write_text("dark\nbright\n")
    (directory / "truth.csv").write_text("".join(f"{int(brightness(n) > 128)}\n" for n in range(140, FRAMES)))
    file = directory / f"{name}.toml"
    file.write_text(
        'video = "clip.avi"\nregion = [0, 0, 32, 32]\nfull = "full.onnx"\nbase = "base.onnx"\n'
        'preprocessing = "raw"\nlabels = "labels.txt"\ntruth = "truth.csv"\nheld_out = [0, 140]\nplay = [140, 260]\n'
    )
    return file


def brightness(number: int) -> int:
    """Brightness of frame ``number``, 0..255: dark or bright for 30 frames in turn. The first five of them have 120,
    which is dark to the full model and bright to the base model."""
    return 120 if number % 30 < 5 else (40, 200)[number // 30 % 2]


def by_brightness(path: Path, limit: float, classes: int = 2) -> None:
    """A classifier whose label 1 wins where the mean grey level exceeds ``limit``."""
    weights = np.zeros((3, classes), np.float32)
    weights[:, 1] = 1 / 30
    bias = np.zeros(classes, np.float32)
    bias[1] = -limit / 10
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["features"]),
            helper.make_node("Gemm", ["features", "weights", "bias"], ["logits"]),
        ],
        "by_brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def recording(full: list[int], base: list[int] | None = None, grey: list[int] | None = None) -> Recording:
    """A recording from the labels of both models (logit 4 for the label, 0 for others) and grey levels."""
    n = len(full)
    scores = {
        name: np.eye(3, dtype=np.float32)[labels] * 4 for name, labels in (("full", full), ("base", base or full))
    }
    levels = np.array(grey or [0] * n, np.uint8)
    return Recording(
        **scores,
        grey=np.repeat(levels, 96 * 96).reshape(n, 96, 96),
        blocks=np.zeros((n, 12, 16), np.float32),
        thumbnails=np.zeros((n, 24, 32), np.float32),
        full_ms=np.full(n, 8.0),
        base_ms=np.full(n, 2.0),
        grey_ms=np.full(n, 0.5),
        sign_ms=np.full(n, 0.25),
    )
