"""Teaching: the full model looks once, an interrupted look goes on, and nobody else's work is taken for it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from cachenet.models.data.frames import find
from cachenet.models.export.classifier import PRESETS, Classifier, ClassifierError, understand
from cachenet.models.train import label as teaching
from cachenet.models.train.label import teach
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
    return understand(write(tmp_path / "m.onnx", **made), UNIT)  # type: ignore[arg-type]


def test_it_says_of_every_frame_what_the_model_says_by_itself(tmp_path: Path, pictures: Path) -> None:
    frames = find(pictures)
    lesson = teach(classifier(tmp_path), frames, tmp_path / "work", 1)
    assert lesson.pictures.shape == (40, 16, 16, 3)
    assert lesson.embeddings.shape == (40, CHANNELS)
    assert lesson.files.tolist() == list(range(40))
    assert list(frames.broken) == [pictures / "99.png"]
    session = ort.InferenceSession(str(tmp_path / "m.onnx"))
    spec = classifier(tmp_path).input
    for index in (0, 39):
        picture = crop(cv2.imread(str(pictures / f"{index:02}.png")), spec)
        alone = session.run(None, {"image": preprocessor(spec)(picture)})[0][0]
        np.testing.assert_allclose(lesson.scores[index], alone, rtol=1e-4)


def test_an_interrupted_look_goes_on_and_ends_as_an_uninterrupted_one(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teaching, "_CHUNK", 10)
    whole = teach(classifier(tmp_path), find(pictures), tmp_path / "whole", 1)

    class Interrupted(Exception):
        pass

    def stop(done: int) -> None:
        if done >= 20:
            raise Interrupted

    with pytest.raises(Interrupted):
        teach(classifier(tmp_path), find(pictures), tmp_path / "work", 1, stop)
    looked = []
    monkeypatch.setattr(teaching, "_look", lambda *given, look=teaching._look: looked.append(1) or look(*given))
    resumed = teach(classifier(tmp_path), find(pictures), tmp_path / "work", 1)
    assert len(looked) == 2, "of four chunks, two were there"
    for name in ("pictures", "scores", "embeddings", "files"):
        assert np.array_equal(getattr(resumed, name), getattr(whole, name))


def test_another_model_or_other_files_are_looked_at_anew(tmp_path: Path, pictures: Path) -> None:
    first = teach(classifier(tmp_path), find(pictures), tmp_path / "work", 1)
    second = teach(classifier(tmp_path, head="MatMul"), find(pictures), tmp_path / "work", 1)
    assert len(list((tmp_path / "work").iterdir())) == 2
    assert second.scores.shape == first.scores.shape == (40, CLASSES)
    cv2.imwrite(str(pictures / "00.png"), np.zeros((20, 24, 3), np.uint8))
    changed = teach(classifier(tmp_path), find(pictures), tmp_path / "work", 1)
    assert not np.array_equal(changed.scores[0], first.scores[0])


def test_where_no_file_can_be_read_the_first_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"broken")
    with pytest.raises(ClassifierError, match=r"a\.png: neither JPEG, PNG"):
        teach(classifier(tmp_path), find(tmp_path / "bad"), tmp_path / "work", 1)


def test_a_model_of_a_fixed_batch_is_run_one_by_one(tmp_path: Path, pictures: Path) -> None:
    one = classifier(tmp_path, shape=(1, 3, 16, 16))
    assert teach(one, find(pictures), tmp_path / "work", 1).scores.shape == (40, CLASSES)


def test_a_model_that_gives_no_numbers_for_some_of_the_frames_is_refused(tmp_path: Path, pictures: Path) -> None:
    """It divides by nothing where a picture is of one dark grey, which no probe is."""
    path = write(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    steps = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Sub", ["mean", "level"], ["off"]),
        helper.make_node("Abs", ["off"], ["far"]),
        helper.make_node("Sub", ["far", "near"], ["farther"]),
        helper.make_node("Relu", ["farther"], ["rest"]),
        helper.make_node("Div", ["rest", "rest"], ["one"]),
        helper.make_node("Mul", ["image", "one"], ["whole"]),
    ]
    model.graph.node[0].input[0] = "whole"
    for place, node in enumerate(steps):
        model.graph.node.insert(place, node)
    for name, value in (("level", 51 / 255), ("near", 1e-3)):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value).reshape(1, 1, 1, 1), name))
    onnx.save(model, str(path))
    read = understand(path, UNIT)
    assert np.isfinite(teach(read, find(pictures), tmp_path / "work", 1).scores).all()
    cv2.imwrite(str(pictures / "50.png"), np.full((20, 24, 3), 51, np.uint8))
    with pytest.raises(ClassifierError, match=r"m\.onnx gives NaN .* for some of the frames"):
        teach(read, find(pictures), tmp_path / "work", 1)
