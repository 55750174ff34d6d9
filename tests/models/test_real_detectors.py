"""Detectors as their authors publish them, on a real frame, against plain decoders from their descriptions."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from cachenet.models.export.detector import load_detector
from cachenet.models.export.preprocessing import parse_preprocessing
from cachenet.shared.cascade.detect.detections import Detections, counts, f1
from cachenet.shared.inference.image import Picture

DETECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "detectors"
#: Clip of Debian's package opencv-doc.
CLIP = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")
pytestmark = [
    pytest.mark.skipif(not DETECTORS.is_dir(), reason="the detectors are not part of the project"),
    pytest.mark.skipif(not CLIP.is_file(), reason="the clip of Debian's opencv-doc is not installed"),
]
#: Label, score, and left, top, right, bottom as shares.
Found = tuple[int, float, list[float]]


@pytest.fixture(scope="module")
def frames() -> list[Picture]:
    """Six frames, each ten seconds after the one before."""
    clip, pictures = cv2.VideoCapture(str(CLIP)), []
    for number in range(600):
        _, picture = clip.read()
        if number % 100 == 50:
            pictures.append(np.asarray(picture, np.uint8))
    return pictures


def run(name: str, tensor: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    session = ort.InferenceSession(str(DETECTORS / name), providers=["CPUExecutionProvider"])
    batch = np.ascontiguousarray(tensor.transpose(2, 0, 1)[None], np.float32)
    return np.asarray(session.run(None, {session.get_inputs()[0].name: batch})[0][0])


def nanodet(name: str, picture: Picture) -> list[Found]:
    mean, std = np.array([103.53, 116.28, 123.675]), np.array([57.375, 57.12, 58.395])
    rows = run(name, (cv2.resize(picture, (416, 416)) - mean) / std)
    found, row = [], 0
    for stride in (8, 16, 32, 64):
        for y in range(math.ceil(416 / stride)):
            for x in range(math.ceil(416 / stride)):
                label = int(rows[row, :80].argmax())
                sides = []
                for side in range(4):
                    odds = np.exp(rows[row, 80 + 8 * side : 88 + 8 * side].astype(float))
                    sides.append(sum(k * odds[k] for k in range(8)) / odds.sum() * stride)
                box = [x * stride - sides[0], y * stride - sides[1], x * stride + sides[2], y * stride + sides[3]]
                found.append((label, float(rows[row, label]), [value / 416 for value in box]))
                row += 1
    return found


def yolox(name: str, picture: Picture) -> list[Found]:
    side = 192 if "192" in name else 416
    share = min(side / picture.shape[0], side / picture.shape[1])
    small = cv2.resize(picture, (round(picture.shape[1] * share), round(picture.shape[0] * share)))
    padded = np.full((side, side, 3), 114.0)
    padded[: small.shape[0], : small.shape[1]] = small
    rows = run(name, padded)
    found, row = [], 0
    for stride in (8, 16, 32):
        for y in range(side // stride):
            for x in range(side // stride):
                across, down, wide, high, objectness, *classes = rows[row].astype(float)
                left = (across + x) * stride - math.exp(wide) * stride / 2
                top = (down + y) * stride - math.exp(high) * stride / 2
                box = [left, top, left + math.exp(wide) * stride, top + math.exp(high) * stride]
                size = [small.shape[1], small.shape[0]] * 2
                score = objectness * max(classes)
                found.append((classes.index(max(classes)), score, [b / s for b, s in zip(box, size, strict=True)]))
                row += 1
    return found


def fastestdet(name: str, picture: Picture) -> list[Found]:
    grid = run(name, cv2.resize(picture, (352, 352)) / 255.0)
    found = []
    for y in range(22):
        for x in range(22):
            objectness, across, down, wide, high, *classes = grid[:, y, x].astype(float)
            width, height = 1 / (1 + math.exp(-wide)), 1 / (1 + math.exp(-high))
            left, top = (x + math.tanh(across)) / 22 - width / 2, (y + math.tanh(down)) / 22 - height / 2
            score = objectness**0.6 * max(classes) ** 0.4
            found.append((classes.index(max(classes)), score, [left, top, left + width, top + height]))
    return found


def overlap(one: list[float], other: list[float]) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return wide * high / (sum(areas) - wide * high) if wide > 0 and high > 0 else 0.0


def suppressed(found: list[Found], least: float) -> list[Found]:
    """Non-maximum suppression at 0.6, as in the data's description, and boxes inside the picture."""
    chosen: list[Found] = []
    for one in sorted(found, key=lambda one: -one[1]):
        if one[1] >= least and all(one[0] != other[0] or overlap(one[2], other[2]) <= 0.6 for other in chosen):
            chosen.append(one)
    return [(label, score, [min(max(value, 0.0), 1.0) for value in box]) for label, score, box in chosen]


#: Plain decoder, least score, decoder that is to be found, and number of labels.
PUBLISHED: dict[str, tuple[Callable[[str, Picture], list[Found]], float, str, int]] = {
    "nanodet_plus_m_416.onnx": (nanodet, 0.4, "nanodet", 80),
    "yolox_nano_416.onnx": (yolox, 0.4, "yolox", 80),
    "person_nano_192.onnx": (yolox, 0.4, "yolox", 1),
    "fastestdet_352.onnx": (fastestdet, 0.7, "fastestdet", 80),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_detector_is_recognised_and_finds_what_a_plain_decoder_finds(
    name: str, frames: list[Picture]
) -> None:
    decode, least, kind, labels = PUBLISHED[name]
    model = load_detector(DETECTORS / name)
    assert (model.decoder.kind, model.decoder.score, len(model.labels)) == (kind, least, labels)
    assert model.labels[0] == ("person" if labels == 80 else "object")
    found, expected = model.detector()(frames[1]), suppressed(decode(name, frames[1]), least)
    assert len(expected) >= 4
    assert found.labels.tolist() == [label for label, _, _ in expected]
    np.testing.assert_allclose(found.scores, [score for _, score, _ in expected], atol=2e-3)
    np.testing.assert_allclose(found.boxes, [box for _, _, box in expected], atol=2e-3)


def people(name: str, frames: list[Picture]) -> list[Detections]:
    detect = load_detector(DETECTORS / name, labels=("person",)).detector()
    return [detect(frame) for frame in frames]


def agreement(some: list[Detections], others: list[Detections]) -> float:
    totals = np.sum([counts(one, other) for one, other in zip(some, others, strict=True)], 0)
    return f1(*totals.tolist())


def test_published_detectors_agree_about_people(frames: list[Picture]) -> None:
    """Measured: .70 to .89. Boxes that are half of their width beside the people would agree with none."""
    found = {name: people(name, frames) for name in PUBLISHED}
    for name, others in found.items():
        assert agreement(others, found["yolox_nano_416.onnx"]) > 0.6, name


def with_suppression(path: Path) -> None:
    """YOLOX with decoding and ONNX's non-maximum suppression in the graph, at ``path``."""
    model, node = onnx.load(str(DETECTORS / "yolox_nano_416.onnx")), helper.make_node
    cells = [(x, y, stride) for stride in (8, 16, 32) for y in range(416 // stride) for x in range(416 // stride)]
    constants: dict[str, npt.NDArray[Any]] = {
        "grid": np.float32([[x, y] for x, y, _ in cells])[None],
        "strides": np.float32([[stride] for _, _, stride in cells])[None],
        "half": np.float32([0.5]),
        "parts": np.array([2, 2, 1, 80]),
        "most": np.array([50]),
        "overlap": np.float32([0.6]),
        "least": np.float32([0.2]),
        "one": np.array([1]),
        "two": np.array([2]),
        "flat": np.array([-1]),
        "zero": np.array([0]),
    }
    model.graph.node.extend(
        [
            node("Split", [model.graph.output[0].name, "parts"], ["xy", "logs", "objectness", "classes"], axis=2),
            node("Add", ["xy", "grid"], ["in_cells"]),
            node("Mul", ["in_cells", "strides"], ["centres"]),
            node("Exp", ["logs"], ["sizes_in_cells"]),
            node("Mul", ["sizes_in_cells", "strides"], ["sizes"]),
            node("Mul", ["sizes", "half"], ["halves"]),
            node("Sub", ["centres", "halves"], ["low"]),
            node("Add", ["centres", "halves"], ["high"]),
            node("Concat", ["low", "high"], ["all_boxes"], axis=2),
            node("Mul", ["objectness", "classes"], ["products"]),
            node("Transpose", ["products"], ["all_scores"], perm=[0, 2, 1]),
            node("NonMaxSuppression", ["all_boxes", "all_scores", "most", "overlap", "least"], ["chosen"]),
            node("Gather", ["chosen", "one"], ["class_column"], axis=1),
            node("Gather", ["chosen", "two"], ["row_column"], axis=1),
            node("Reshape", ["class_column", "flat"], ["labels"]),
            node("Reshape", ["row_column", "flat"], ["rows"]),
            node("Squeeze", ["all_boxes", "zero"], ["boxes_2d"]),
            node("Gather", ["boxes_2d", "rows"], ["boxes"], axis=0),
            node("GatherND", ["all_scores", "chosen"], ["scores"]),
        ]
    )
    model.opset_import[0].version = 13
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    del model.graph.output[:]
    for name, kind in (("boxes", TensorProto.FLOAT), ("labels", TensorProto.INT64), ("scores", TensorProto.FLOAT)):
        model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    onnx.save(model, str(path))


def test_suppression_in_the_graph_gives_the_same_people(tmp_path: Path, frames: list[Picture]) -> None:
    with_suppression(tmp_path / "suppressed.onnx")
    inside = load_detector(tmp_path / "suppressed.onnx", parse_preprocessing("yolox"), ("0: person",))
    assert inside.decoder.kind == "ssd"
    detect, outside = inside.detector(), people("yolox_nano_416.onnx", frames)
    for frame, expected in zip(frames, outside, strict=True):
        found = detect(frame)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-4)
