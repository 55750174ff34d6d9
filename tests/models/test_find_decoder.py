"""The decoder of a detector follows from its outputs, or the user is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cachenet.models.export.find_decoder import DecoderError, Form, find_decoder
from cachenet.shared.inference.decoders import DECODER_KINDS

WIDTH, HEIGHT = 160, 96
SIZE = (WIDTH, HEIGHT)
#: Cells of the strides 8, 16 and 32, and with 64.
CELLS3, CELLS4 = 20 * 12 + 10 * 6 + 5 * 3, 20 * 12 + 10 * 6 + 5 * 3 + 3 * 2
Rng = np.random.Generator
Arrays = dict[str, npt.NDArray[Any]]


def scores(rng: Rng, *shape: int) -> npt.NDArray[np.float32]:
    return (rng.random(shape) ** 4).astype(np.float32)


def logits(rng: Rng, *shape: int) -> npt.NDArray[np.float32]:
    return rng.normal(0, 2, shape).astype(np.float32)


def centred(rng: Rng, count: int) -> npt.NDArray[np.float32]:
    """Centre and size in pixels."""
    return np.concatenate([rng.random((count, 2)) * SIZE, rng.random((count, 2)) * 50], 1).astype(np.float32)


def corners(rng: Rng, count: int) -> npt.NDArray[np.float32]:
    """Corners in shares."""
    boxes = rng.random((count, 2, 2)) * 0.5 + [[[0], [0.5]]]
    return boxes.reshape(count, 4).astype(np.float32)


def yolox(rng: Rng) -> Arrays:
    return {"output": np.concatenate([logits(rng, 1, CELLS3, 4), scores(rng, 1, CELLS3, 81)], 2)}


def yolov5(rng: Rng, cells: int = 3 * CELLS3) -> Arrays:
    table = np.concatenate([centred(rng, cells), scores(rng, cells, 81)], 1)[None]
    return {"output": table, "map": logits(rng, 1, 3, 12, 20, 85)}


def yolov8(rng: Rng) -> Arrays:
    return {"output0": np.concatenate([centred(rng, CELLS3), scores(rng, CELLS3, 80)], 1).T[None]}


def nanodet(rng: Rng, classes: int = 80, bins: int = 8) -> Arrays:
    return {"out": np.concatenate([scores(rng, 1, CELLS4, classes), logits(rng, 1, CELLS4, 4 * bins)], 2)}


def fastestdet(rng: Rng) -> Arrays:
    classes = scores(rng, 1, 80, 6, 10)
    parts = [scores(rng, 1, 1, 6, 10), logits(rng, 1, 4, 6, 10), classes / classes.sum(1, keepdims=True)]
    return {"758": np.concatenate(parts, 1)}


def detr(rng: Rng, classes: int = 92, no_object: bool = True) -> Arrays:
    odds = logits(rng, 1, 50, classes)
    odds[..., -1] += 9 * no_object
    return {"logits": odds, "pred_boxes": rng.random((1, 50, 4)).astype(np.float32)}


def heatmap(rng: Rng) -> Arrays:
    peaks = scores(rng, 1, 2, 12, 20) * (rng.random((1, 2, 12, 20)) < 0.1)
    return {"heatmap": np.concatenate([logits(rng, 1, 4, 12, 20), peaks], 1).astype(np.float32)}


def tensorflow(rng: Rng) -> Arrays:
    found = {"num_detections": np.float32([20]), "detection_boxes": corners(rng, 20)[None, :, [1, 0, 3, 2]]}
    numbers = rng.integers(1, 91, (1, 20)).astype(np.float32)
    return found | {"detection_scores": scores(rng, 1, 20), "detection_classes": numbers}


def torchvision(rng: Rng) -> Arrays:
    count = int(rng.integers(0, 9))
    boxes = corners(rng, count) * np.float32([*SIZE, *SIZE])
    return {"boxes": boxes, "labels": rng.integers(1, 91, count), "scores": scores(rng, count)}


def mmdetection(rng: Rng) -> Arrays:
    boxes = np.concatenate([corners(rng, 20) * np.float32([*SIZE, *SIZE]), scores(rng, 20, 1)], 1)
    return {"dets": boxes[None], "labels": rng.integers(0, 80, (1, 20))}


def end_to_end(rng: Rng) -> Arrays:
    boxes, numbers = corners(rng, 300) * np.float32([*SIZE, *SIZE]), rng.integers(0, 80, (300, 1))
    return {"output0": np.concatenate([boxes, scores(rng, 300, 1), numbers], 1).astype(np.float32)[None]}


def yolov7(rng: Rng) -> Arrays:
    rows = end_to_end(rng)["output0"][0, :9]
    return {"output": np.concatenate([np.zeros((9, 1)), rows[:, :4], rows[:, 5:], rows[:, 4:5]], 1)}


def openvino(rng: Rng) -> Arrays:
    numbers = rng.integers(0, 80, (50, 1))
    rows = np.concatenate([np.zeros((50, 1)), numbers, scores(rng, 50, 1), corners(rng, 50)], 1)
    return {"detection_out": rows.astype(np.float32)[None, None]}


def with_background(rng: Rng) -> Arrays:
    odds = scores(rng, 1, 300, 2) + 0.01
    return {"scores": odds / odds.sum(2, keepdims=True), "boxes": corners(rng, 300)[None]}


def with_scores(rng: Rng) -> Arrays:
    return {"boxes": corners(rng, CELLS3)[None] * np.float32([*SIZE, *SIZE]), "scores": scores(rng, 1, CELLS3, 80)}


FORMS: dict[str, tuple[Callable[[Rng], Arrays], Form]] = {
    "YOLOX": (yolox, Form("yolox", ("output",), 80)),
    "YOLOv5": (yolov5, Form("yolov5", ("output",), 80)),
    "YOLOv6": (lambda rng: yolov5(rng, CELLS3), Form("yolov5", ("output",), 80)),
    "YOLOv8": (yolov8, Form("yolov8", ("output0",), 80)),
    "NanoDet-Plus": (nanodet, Form("nanodet", ("out",), 80)),
    "NanoDet with other bins": (lambda rng: nanodet(rng, 3, 11), Form("nanodet", ("out",), 3, bins=11)),
    "FastestDet": (fastestdet, Form("fastestdet", ("758",), 80)),
    "DETR": (detr, Form("detr", ("logits", "pred_boxes"), 91, no_object=True)),
    "deformable DETR": (lambda rng: detr(rng, 91, False), Form("detr", ("logits", "pred_boxes"), 91)),
    "heatmap": (heatmap, Form("heatmap", ("heatmap",), 2)),
    "TensorFlow": (
        tensorflow,
        Form("ssd", ("detection_boxes", "detection_classes", "detection_scores"), first=1, columns=(1, 0, 3, 2)),
    ),
    "torchvision": (torchvision, Form("ssd", ("boxes", "labels", "scores"), first=1, pixels=True)),
    "MMDetection": (mmdetection, Form("ssd", ("dets", "labels"), table=(None, 4), pixels=True)),
    "YOLOv10": (end_to_end, Form("ssd", ("output0",), table=(5, 4), pixels=True)),
    "YOLOv7 with NMS": (yolov7, Form("ssd", ("output",), columns=(1, 2, 3, 4), table=(5, 6), pixels=True)),
    "OpenVINO": (openvino, Form("ssd", ("detection_out",), first=1, columns=(3, 4, 5, 6), table=(1, 2))),
    "UltraFace": (with_background, Form("ssd", ("boxes", "scores"), 1, first=1)),
    "YOLO-NAS": (with_scores, Form("ssd", ("boxes", "scores"), 80, pixels=True)),
}


def outputs_of(make: Callable[[Rng], Arrays], seed: int) -> dict[str, list[npt.NDArray[Any]]]:
    """Outputs for some pictures."""
    made = [make(np.random.default_rng((seed, picture))) for picture in range(5)]
    return {name: [one[name] for one in made] for name in made[0]}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("seed", range(5))
def test_the_form_of_each_exporter_is_found(name: str, seed: int) -> None:
    make, expected = FORMS[name]
    assert find_decoder("m.onnx", outputs_of(make, seed), SIZE) == expected


@pytest.mark.parametrize("name", FORMS)
def test_a_named_decoder_gives_the_same_form(name: str) -> None:
    make, expected = FORMS[name]
    assert find_decoder("m.onnx", outputs_of(make, 0), SIZE, expected.kind) == expected


def test_the_number_of_classes_tells_whether_the_last_is_no_object() -> None:
    outputs = outputs_of(lambda rng: detr(rng, 4, False), 0)
    assert find_decoder("m.onnx", outputs, SIZE, classes=3).no_object
    assert not find_decoder("m.onnx", outputs, SIZE, classes=4).no_object


@pytest.mark.parametrize(
    "outputs",
    [
        {"features": np.ones((1, 7, 9), np.float32)},
        {"features": np.full((1, CELLS3, 85), np.nan, np.float32)},
        {"mask": np.ones((1, 21, 12, 20), np.float32)},
        {"names": np.array([["a"]])},
        {"a": np.zeros((0,), np.float32), "b": np.zeros((), np.float32)},
    ],
)
def test_unknown_outputs_are_one_line_that_lists_the_decoders(outputs: Arrays) -> None:
    with pytest.raises(DecoderError, match=r"m\.onnx: its outputs \(.*\) are of no detector.*--decoder") as refused:
        find_decoder("m.onnx", {name: [value] * 3 for name, value in outputs.items()}, SIZE)
    assert all(f"{kind}: " in str(refused.value) for kind in DECODER_KINDS)
    assert "\n" not in str(refused.value)


def test_outputs_of_several_decoders_are_one_line_that_names_them() -> None:
    both = {**outputs_of(yolox, 0), **outputs_of(heatmap, 0)}
    with pytest.raises(DecoderError, match="may be of yolox or heatmap; name one with --decoder") as refused:
        find_decoder("m.onnx", both, SIZE)
    assert "\n" not in str(refused.value)
    assert find_decoder("m.onnx", both, SIZE, "heatmap").outputs == ("heatmap",)


def test_a_named_decoder_that_does_not_fit_is_one_line_with_what_it_takes() -> None:
    with pytest.raises(DecoderError, match=r"do not fit heatmap, which takes \(1, 4 \+ classes, rows, columns\)"):
        find_decoder("m.onnx", outputs_of(yolox, 0), SIZE, "heatmap")
