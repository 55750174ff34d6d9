"""A user's detector becomes one in the form of bundle models: input, outputs, labels and preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cachenet.models.data import coco
from cachenet.models.export.detector import DetectorModel, detector_graph, is_detector, load_detector
from cachenet.models.export.preprocessing import DETECTOR_PRESETS, parse_preprocessing
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.engine import Session
from tests.models import test_find_decoder as exporters
from tests.models.detector_kinds import HEIGHT, SIDE, WIDTH, fixed, scene, squares
from tests.models.test_classifier import write

UNIT = parse_preprocessing("unit,stretch")


def found_in(model: DetectorModel, picture: Any) -> list[tuple[str, list[int]]]:
    """Label and box in pixels of each detection, by label."""
    found = model.detector()(picture)
    size = np.array([picture.shape[1], picture.shape[0]] * 2)
    boxes = np.round(found.boxes * size).astype(int).tolist()
    return sorted((model.labels[label], box) for label, box in zip(found.labels.tolist(), boxes, strict=True))


def test_a_detector_finds_the_objects_of_a_picture_of_any_size(tmp_path: Path) -> None:
    model = load_detector(squares(tmp_path / "m.onnx"), UNIT, ("red", "blue"))
    assert (model.decoder.kind, model.decoder.classes, model.labels) == ("heatmap", (0, 1), ("red", "blue"))
    assert model.input.size == (WIDTH, HEIGHT)
    picture = scene(("red", 16, 24), ("blue", 96, 40))
    expected = [("blue", [96, 40, 96 + SIDE, 40 + SIDE]), ("red", [16, 24, 16 + SIDE, 24 + SIDE])]
    assert found_in(model, picture) == expected
    assert found_in(model, picture.repeat(2, 0).repeat(3, 1)) == [
        (label, [3 * left, 2 * top, 3 * right, 2 * bottom]) for label, [left, top, right, bottom] in expected
    ]
    assert found_in(model, scene()) == []


def test_a_bundles_detector_is_read_again_as_it_was_written(tmp_path: Path) -> None:
    model = load_detector(squares(tmp_path / "m.onnx"), UNIT, ("red", "blue"))
    onnx.save(detector_graph(model, {"note": "a test"}), str(tmp_path / "again.onnx"))
    assert is_detector(tmp_path / "again.onnx")
    again = load_detector(tmp_path / "again.onnx")
    assert (again.input, again.decoder, again.labels) == (model.input, model.decoder, model.labels)
    picture = scene(("red", 16, 24), ("blue", 96, 40))
    assert found_in(again, picture) == found_in(model, picture)
    session = Session(tmp_path / "again.onnx", "cpu")
    served = Detector(session.run_all, model.input, model.decoder)(picture)
    np.testing.assert_allclose(served.boxes, model.detector()(picture).boxes, atol=1e-6)
    one = load_detector(tmp_path / "again.onnx", labels=("blue",))
    assert found_in(one, picture) == [("blue", [96, 40, 96 + SIDE, 40 + SIDE])]


def test_labels_are_all_classes_in_order_or_some_known_ones(tmp_path: Path) -> None:
    path = squares(tmp_path / "m.onnx", {"names": "{0: 'red', 1: 'blue'}"})
    assert load_detector(path, UNIT).labels == ("red", "blue")
    assert load_detector(path, UNIT, ("rouge", "bleu")).labels == ("rouge", "bleu")
    one = load_detector(path, UNIT, ("blue",))
    assert (one.labels, one.decoder.classes) == (("blue",), (1,))
    assert found_in(one, scene(("red", 16, 24), ("blue", 96, 40))) == [("blue", [96, 40, 96 + SIDE, 40 + SIDE])]
    both = load_detector(path, UNIT, ("blue", "red"))
    assert (both.labels, both.decoder.classes) == (("blue", "red"), (1, 0))
    numbered = load_detector(path, UNIT, ("1: bleu",))
    assert (numbered.labels, numbered.decoder.classes) == (("bleu",), (1,))
    for wrong in (("0: a", "0: b"), ("0: a", "1: a"), ("2: a",)):
        with pytest.raises(UserError, match="a number or a name twice, or a number of no class"):
            load_detector(path, UNIT, wrong)
    with pytest.raises(UserError, match="no class 'green'; --labels names all its 2 classes in order, or some of red"):
        load_detector(path, UNIT, ("red", "blue", "green"))


@pytest.mark.parametrize(
    ("made", "labels", "classes"),
    [
        ("YOLOX", coco.NAMES, tuple(range(80))),
        ("DETR", coco.NAMES, coco.NUMBERS),
        ("TensorFlow", coco.NAMES, coco.NUMBERS),
        ("torchvision", coco.NAMES, coco.NUMBERS),
        ("YOLOv10", coco.NAMES, tuple(range(80))),
        ("UltraFace", ("object",), (1,)),
        ("NanoDet with other bins", ("0", "1", "2"), (0, 1, 2)),
    ],
)
def test_classes_without_names_are_cocos_by_their_number(
    tmp_path: Path, made: str, labels: tuple[str, ...], classes: tuple[int, ...]
) -> None:
    outputs = exporters.FORMS[made][0](np.random.default_rng(1))
    model = load_detector(fixed(tmp_path / "m.onnx", outputs), UNIT)
    assert (model.labels, model.decoder.classes) == (labels, classes)


def test_the_numbers_of_coco_are_those_of_the_data_set() -> None:
    assert len(coco.NAMES) == len(set(coco.NAMES)) == len(coco.NUMBERS) == 80
    numbers = dict(zip(coco.NAMES, coco.NUMBERS, strict=True))
    assert [numbers[name] for name in ("person", "stop sign", "backpack", "toilet", "tv", "toothbrush")] == [
        *(1, 13, 27, 70, 72, 90)
    ]


@pytest.mark.parametrize("made", [name for name, (_, form) in exporters.FORMS.items() if form.kind == "ssd"])
def test_finished_boxes_of_each_exporter_become_corners_in_shares(tmp_path: Path, made: str) -> None:
    """The boxes of ``exporters`` are written in shares, before each exporter's own form."""
    make, form = exporters.FORMS[made]
    outputs = make(np.random.default_rng(3))
    first = fixed(tmp_path / "m.onnx", outputs, shape=(1, 3, exporters.HEIGHT, exporters.WIDTH))
    model = load_detector(first, UNIT, kind="ssd")
    graph = detector_graph(model, {})
    onnx.save(graph, str(tmp_path / "served.onnx"))
    boxes, *others = Session(tmp_path / "served.onnx", "cpu").run_all(
        np.zeros((1, 3, exporters.HEIGHT, exporters.WIDTH), np.float32)
    )
    table = np.asarray(outputs[form.outputs[0]], np.float32)
    expected = table.reshape(-1, table.shape[-1])[:, list(form.columns)]
    if form.pixels:
        expected = expected / np.array([exporters.WIDTH, exporters.HEIGHT] * 2)
    np.testing.assert_allclose(boxes.reshape(-1, 4), expected, atol=1e-6)
    if len(others) == 2:
        numbers, scores = others
        assert len(numbers) == len(scores) == len(expected)
        assert (numbers == np.round(numbers)).all() and ((scores >= 0) & (scores <= 1)).all()


def test_boxes_after_suppression_in_the_graph_are_those_before_it(tmp_path: Path) -> None:
    """With ONNX's own operator: another number of boxes for each picture."""
    path = squares(tmp_path / "m.onnx")
    model, node = onnx.load(str(path)), helper.make_node
    cells = HEIGHT // 8 * (WIDTH // 8)
    y, x = np.divmod(np.arange(cells), WIDTH // 8)
    left, top = x * 8 - 8, y * 8 - 8
    boxes = np.stack([left, top, left + SIDE, top + SIDE], 1).astype(np.float32)[None]
    model.graph.node.extend(
        [
            node("Reshape", ["means", "flat"], ["table"]),  # not suppressed by the heatmap
            node("NonMaxSuppression", ["all_boxes", "table", "most", "overlap", "least"], ["chosen"]),
            node("Gather", ["chosen", "second"], ["kind"], axis=1),
            node("Gather", ["chosen", "third"], ["row"], axis=1),
            node("Reshape", ["kind", "all"], ["labels"]),
            node("Reshape", ["row", "all"], ["rows"]),
            node("Squeeze", ["all_boxes", "first"], ["boxes_2d"]),
            node("Gather", ["boxes_2d", "rows"], ["boxes"], axis=0),
            node("GatherND", ["table", "chosen"], ["sure"]),
        ]
    )
    constants = {
        "all_boxes": boxes,
        "flat": np.array([1, 2, cells]),
        "most": np.array([100]),
        "overlap": np.float32([0.1]),
        "least": np.float32([0.4]),
        "first": np.array([0]),
        "second": np.array([1]),
        "third": np.array([2]),
        "all": np.array([-1]),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    del model.graph.output[:]
    for name, kind in (("boxes", TensorProto.FLOAT), ("labels", TensorProto.INT64), ("sure", TensorProto.FLOAT)):
        model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    onnx.save(model, str(tmp_path / "suppressed.onnx"))
    suppressed = load_detector(tmp_path / "suppressed.onnx", UNIT, ("0: red", "1: blue"))
    assert (suppressed.decoder.kind, suppressed.decoder.classes) == ("ssd", (0, 1))
    picture = scene(("red", 16, 24), ("red", 64, 64), ("blue", 96, 40))
    assert len(found_in(suppressed, picture)) == 3
    assert found_in(suppressed, picture) == found_in(load_detector(path, UNIT, ("red", "blue")), picture)


@pytest.mark.parametrize(
    ("made", "preset"),
    [("YOLOX", "yolox"), ("YOLOv5", "yolo"), ("YOLOv8", "yolo"), ("NanoDet-Plus", "nanodet"), ("DETR", "detr")],
)
def test_preprocessing_is_the_usual_one_of_the_decoder(tmp_path: Path, made: str, preset: str) -> None:
    outputs = exporters.FORMS[made][0](np.random.default_rng(1))
    model = load_detector(fixed(tmp_path / "m.onnx", outputs))
    size = {"side": WIDTH, "height": HEIGHT}
    assert model.input == msgspec.structs.replace(DETECTOR_PRESETS[preset], **size)
    stated = load_detector(tmp_path / "m.onnx", parse_preprocessing("unit,corner"))
    assert (stated.input.fit, stated.input.std) == ("corner", (255.0, 255.0, 255.0))


def test_whole_numbers_are_pixels_in_any_layout(tmp_path: Path) -> None:
    outputs = exporters.tensorflow(np.random.default_rng(1))
    path = fixed(tmp_path / "m.onnx", outputs, shape=("n", "h", "w", 3), kind=TensorProto.UINT8)
    model = load_detector(path)
    assert model.input == DETECTOR_PRESETS["ssd"]
    assert model.native.layout == "nhwc"
    assert len(model.detector()(np.zeros((90, 120, 3), np.uint8))) > 0


def test_ultralytics_metadata_has_size_and_labels(tmp_path: Path) -> None:
    names = {number: f"thing {number}" for number in range(80)}
    about = {"task": "detect", "names": repr(names), "imgsz": f"[{HEIGHT}, {WIDTH}]"}
    outputs = exporters.yolov8(np.random.default_rng(1))
    model = load_detector(fixed(tmp_path / "m.onnx", outputs, shape=(1, 3, "h", "w"), metadata=about))
    assert (model.input.size, model.input.fill, model.labels[79]) == ((WIDTH, HEIGHT), 114, "thing 79")
    other = fixed(tmp_path / "s.onnx", outputs, metadata=about | {"task": "segment"})
    with pytest.raises(UserError, match="is a model for segment; export one for detection"):
        load_detector(other)


def test_a_classifier_is_no_detector(tmp_path: Path) -> None:
    assert not is_detector(write(tmp_path / "a.onnx"))
    assert not is_detector(write(tmp_path / "b.onnx", outputs=2))
    assert is_detector(squares(tmp_path / "c.onnx"))
    yolox = exporters.FORMS["YOLOX"][0](np.random.default_rng(1))
    assert is_detector(fixed(tmp_path / "d.onnx", yolox))
    torchvision = exporters.torchvision(np.random.default_rng(1))
    assert is_detector(fixed(tmp_path / "e.onnx", torchvision))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "does not say how pictures are to be prepared for its decoder heatmap; give --preprocessing"),
        ({"kind": "detr"}, "do not fit detr, which takes logits and boxes"),
        ({"preprocessing": parse_preprocessing("unit,grey")}, "takes three channels"),
        ({"preprocessing": msgspec.structs.replace(UNIT, fit="letterbox", crop=0.8)}, "sees the whole frame"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = squares(tmp_path / "m.onnx")
    with pytest.raises(UserError, match=message) as refused:
        load_detector(path, **options)
    assert "\n" not in str(refused.value)


def test_damaged_metadata_and_odd_batches_are_one_line(tmp_path: Path) -> None:
    for metadata, message in (({"cachenet.decoder": "{"}, "cachenet.decoder is damaged"),):
        with pytest.raises(UserError, match=message):
            load_detector(squares(tmp_path / "m.onnx", metadata), UNIT)
    yolox = exporters.FORMS["YOLOX"][0](np.random.default_rng(1))
    with pytest.raises(UserError, match="batches of 4 only"):
        load_detector(fixed(tmp_path / "b.onnx", yolox, shape=(4, 3, HEIGHT, WIDTH)))
