"""Teacher runtime: INT8 if faster and in agreement; the decision is stored; runtimes are never mixed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from cachenet.models.certify import traces
from cachenet.models.data import sample
from cachenet.models.data.cifar10 import INPUT, LABELS
from cachenet.models.data.dataset import LabelledFrames, from_labelled
from cachenet.models.export import quantise
from cachenet.models.export.classifier import Classifier, load_classifier, serving_graph
from cachenet.models.export.quantise import PrecisionComparison
from cachenet.models.train import teacher_runtime
from cachenet.models.train.label import look
from tests.hampered import write_base

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """A base model as the full model."""
    path = tmp_path_factory.mktemp("full") / "model.onnx"
    properties = {"labels": ",".join(LABELS), "input": msgspec.json.encode(INPUT).decode()}
    write_base(path, properties)
    return load_classifier(path)


@pytest.fixture(scope="module")
def tune(classifier: Classifier) -> LabelledFrames:
    split = sample.load().take(np.arange(300))
    return from_labelled(split, look(classifier, traces.as_pictures(split.images), 1), classifier.input)


@pytest.fixture
def full(classifier: Classifier, tmp_path: Path) -> Path:
    path = tmp_path / "full.onnx"
    path.write_bytes(serving_graph(classifier, {}).SerializeToString())
    return path


def find(
    full: Path, classifier: Classifier, tune: LabelledFrames, outputs: int = 100_000
) -> teacher_runtime.TeacherRuntime:
    return teacher_runtime.choose_runtime(full, classifier.input, tune, outputs, full.parent)


def test_int8_is_chosen_for_many_outputs_and_nearly_agrees(
    full: Path, classifier: Classifier, tune: LabelledFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_runtime, "_MIN_AGREEMENT", 0.9)
    monkeypatch.setattr(quantise, "compare", lambda *_: PrecisionComparison(0.5, 0.5))
    quick = find(full, classifier, tune)
    assert quick.name.startswith("int8-")
    logits = traces.run_model(quick.session, classifier.input, traces.as_pictures(tune.images))
    assert (logits.argmax(1) == tune.full_labels).mean() > 0.9
    assert not np.array_equal(logits, tune.scores)

    monkeypatch.setattr(quantise, "compare", lambda *_: PrecisionComparison(0.5, 2.0))
    assert find(full, classifier, tune).name == quick.name, "the decision is stored"
    outputs = look(classifier, traces.as_pictures(tune.images[:200]), 1)
    other = from_labelled(sample.load().take(np.arange(200)), outputs, classifier.input)
    assert find(full, classifier, other).name == "as-it-is", "other frames need a new decision"


@pytest.mark.parametrize("why", ["few outputs", "slower", "disagrees", "cannot be quantised"])
def test_the_model_is_used_as_it_is_if_int8_does_not_suit(
    full: Path, classifier: Classifier, tune: LabelledFrames, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise, "compare", lambda *_: PrecisionComparison(0.5, 2.0 if why == "slower" else 0.5))
    monkeypatch.setattr(teacher_runtime, "_MIN_AGREEMENT", 1.01 if why == "disagrees" else 0.5)
    if why == "cannot be quantised":
        monkeypatch.setattr(quantise, "int8", lambda *_: 1 / 0)
    assert find(full, classifier, tune, 10 if why == "few outputs" else 100_000).name == "as-it-is"


def test_a_full_disk_is_no_decision(
    full: Path, classifier: Classifier, tune: LabelledFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(quantise, "int8", fails)
        find(full, classifier, tune)
    monkeypatch.setattr(teacher_runtime, "_MIN_AGREEMENT", 0.5)
    monkeypatch.setattr(quantise, "compare", lambda *_: PrecisionComparison(0.5, 0.5))
    assert find(full, classifier, tune).name.startswith("int8-")
