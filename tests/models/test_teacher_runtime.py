"""The teacher's voice: quicker where that is the same, decided once, and never mixed with another."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from cachenet.models.certify import recorded
from cachenet.models.data import sample
from cachenet.models.data.cifar10 import INPUT, LABELS
from cachenet.models.data.dataset import LabelledFrames, labelled
from cachenet.models.export import quantise
from cachenet.models.export.classifier import Classifier, served, understand
from cachenet.models.export.export import export
from cachenet.models.export.quantise import PrecisionComparison
from cachenet.models.train import teacher_runtime
from cachenet.models.train.label import look
from tests.hampered import base_network

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """A base model in the full one's place."""
    path = tmp_path_factory.mktemp("full") / "model.onnx"
    properties = {"labels": ",".join(LABELS), "input": msgspec.json.encode(INPUT).decode()}
    export(base_network(), path, properties)
    return understand(path)


@pytest.fixture(scope="module")
def tune(classifier: Classifier) -> LabelledFrames:
    split = sample.load().take(np.arange(300))
    return labelled(split, look(classifier, recorded.as_pictures(split.images), 1), classifier.input)


@pytest.fixture
def full(classifier: Classifier, tmp_path: Path) -> Path:
    path = tmp_path / "full.onnx"
    path.write_bytes(served(classifier, {}).SerializeToString())
    return path


def find(
    full: Path, classifier: Classifier, tune: LabelledFrames, looks: int = 100_000
) -> teacher_runtime.TeacherRuntime:
    return teacher_runtime.find(full, classifier.input, tune, looks, full.parent)


def test_with_much_to_say_it_is_quicker_and_says_nearly_the_same(
    full: Path, classifier: Classifier, tune: LabelledFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_runtime, "_THE_SAME", 0.9)
    monkeypatch.setattr(quantise, "compare", lambda *_: PrecisionComparison(0.5, 0.5))
    quick = find(full, classifier, tune)
    assert quick.name.startswith("int8-")
    said = recorded.run(quick.session, classifier.input, recorded.as_pictures(tune.images))
    assert (said.argmax(1) == tune.answers).mean() > 0.9
    assert not np.array_equal(said, tune.scores)

    monkeypatch.setattr(quantise, "compare", lambda *_: PrecisionComparison(0.5, 2.0))
    assert find(full, classifier, tune).name == quick.name, "decided once"
    lesson = look(classifier, recorded.as_pictures(tune.images[:200]), 1)
    other = labelled(sample.load().take(np.arange(200)), lesson, classifier.input)
    assert find(full, classifier, other).name == "as-it-is", "and anew for other frames to try it on"


@pytest.mark.parametrize("why", ["little to say", "slower", "says otherwise", "cannot be quantised"])
def test_otherwise_it_speaks_as_it_is(
    full: Path, classifier: Classifier, tune: LabelledFrames, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise, "compare", lambda *_: PrecisionComparison(0.5, 2.0 if why == "slower" else 0.5))
    monkeypatch.setattr(teacher_runtime, "_THE_SAME", 1.01 if why == "says otherwise" else 0.5)
    if why == "cannot be quantised":
        monkeypatch.setattr(quantise, "int8", lambda *_: 1 / 0)
    assert find(full, classifier, tune, 10 if why == "little to say" else 100_000).name == "as-it-is"


def test_a_full_disk_is_no_verdict(
    full: Path, classifier: Classifier, tune: LabelledFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(quantise, "int8", fails)
        find(full, classifier, tune)
    monkeypatch.setattr(teacher_runtime, "_THE_SAME", 0.5)
    monkeypatch.setattr(quantise, "compare", lambda *_: PrecisionComparison(0.5, 0.5))
    assert find(full, classifier, tune).name.startswith("int8-")
