"""Labelling: outputs are computed once, an interrupted run continues, and other outputs are never reused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from cachenet.models.data.frames import find
from cachenet.models.export.classifier import PRESETS, Classifier, ClassifierError, load_classifier
from cachenet.models.train import label
from cachenet.models.train.label import label_frames
from cachenet.shared.inference.image import crop, preprocessor
from tests.models.test_classifier import CHANNELS, CLASSES, write

pytestmark = pytest.mark.slow

UNIT = PRESETS["unit"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    directory = tmp_path / "pictures"
    directory.mkdir()
    for number in range(40):
        cv2.imwrite(str(directory / f"{number:02}.png"), rng.integers(0, 256, (20, 24, 3), np.uint8))
    (directory / "99.png").write_bytes(b"broken")
    return directory


def classifier(tmp_path: Path, **made: object) -> Classifier:
    return load_classifier(write(tmp_path / "m.onnx", **made), UNIT)  # type: ignore[arg-type]


def test_outputs_equal_those_of_the_model_on_each_frame(tmp_path: Path, pictures: Path) -> None:
    frames = find(pictures)
    outputs = label_frames(classifier(tmp_path), frames, tmp_path / "work", 1)
    assert outputs.pictures.shape == (40, 16, 16, 3)
    assert outputs.embeddings.shape == (40, CHANNELS)
    assert outputs.files.tolist() == list(range(40))
    assert list(frames.broken) == [pictures / "99.png"]
    session = ort.InferenceSession(str(tmp_path / "m.onnx"))
    spec = classifier(tmp_path).input
    for index in (0, 39):
        picture = crop(cv2.imread(str(pictures / f"{index:02}.png")), spec)
        alone = session.run(None, {"image": preprocessor(spec)(picture)})[0][0]
        np.testing.assert_allclose(outputs.scores[index], alone, rtol=1e-4)


@pytest.mark.usefixtures("no_recordings")
def test_an_interrupted_run_continues_and_gives_the_same_outputs(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label, "_CHUNK", 10)
    complete = label_frames(classifier(tmp_path), find(pictures), tmp_path / "whole", 1)

    class Interrupted(Exception):
        pass

    def stop(done: int) -> None:
        if done >= 20:
            raise Interrupted

    with pytest.raises(Interrupted):
        label_frames(classifier(tmp_path), find(pictures), tmp_path / "work", 1, stop)
    runs = []
    monkeypatch.setattr(label, "_run_all", lambda *args, run=label._run_all: runs.append(1) or run(*args))
    resumed = label_frames(classifier(tmp_path), find(pictures), tmp_path / "work", 1)
    assert len(runs) == 2, "two of four chunks were stored"
    for name in ("pictures", "scores", "embeddings", "files"):
        assert np.array_equal(getattr(resumed, name), getattr(complete, name))


def test_outputs_of_another_model_or_of_other_files_are_not_reused(tmp_path: Path, pictures: Path) -> None:
    first = label_frames(classifier(tmp_path), find(pictures), tmp_path / "work", 1)
    second = label_frames(classifier(tmp_path, head="MatMul"), find(pictures), tmp_path / "work", 1)
    assert len(list((tmp_path / "work").iterdir())) == 2
    assert second.scores.shape == first.scores.shape == (40, CLASSES)
    cv2.imwrite(str(pictures / "00.png"), np.zeros((20, 24, 3), np.uint8))
    changed = label_frames(classifier(tmp_path), find(pictures), tmp_path / "work", 1)
    assert not np.array_equal(changed.scores[0], first.scores[0])


def test_an_error_names_the_first_file_if_none_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"broken")
    with pytest.raises(ClassifierError, match=r"a\.png: neither JPEG, PNG"):
        label_frames(classifier(tmp_path), find(tmp_path / "bad"), tmp_path / "work", 1)


def test_a_model_of_batch_size_one_is_run_frame_by_frame(tmp_path: Path, pictures: Path) -> None:
    one = classifier(tmp_path, shape=(1, 3, 16, 16))
    assert label_frames(one, find(pictures), tmp_path / "work", 1).scores.shape == (40, CLASSES)


def test_a_model_that_gives_nan_for_some_frames_is_refused(tmp_path: Path, pictures: Path) -> None:
    """The model divides by zero on an image of one dark grey, which no probe image has."""
    path = write(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    steps = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Sub", ["mean", "level"], ["off"]),
        helper.make_node("Abs", ["off"], ["far"]),
        helper.make_node("Sub", ["far", "near"], ["farther"]),
        helper.make_node("Relu", ["farther"], ["rest"]),
        helper.make_node("Div", ["rest", "rest"], ["one"]),
        helper.make_node("Mul", ["image", "one"], ["scaled"]),
    ]
    model.graph.node[0].input[0] = "scaled"
    for index, node in enumerate(steps):
        model.graph.node.insert(index, node)
    for name, value in (("level", 51 / 255), ("near", 1e-3)):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value).reshape(1, 1, 1, 1), name))
    onnx.save(model, str(path))
    read = load_classifier(path, UNIT)
    assert np.isfinite(label_frames(read, find(pictures), tmp_path / "work", 1).scores).all()
    cv2.imwrite(str(pictures / "50.png"), np.full((20, 24, 3), 51, np.uint8))
    with pytest.raises(ClassifierError, match=r"m\.onnx gives NaN .* for some of the frames"):
        label_frames(read, find(pictures), tmp_path / "work", 1)
