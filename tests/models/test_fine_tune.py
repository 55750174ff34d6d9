"""Fine-tuning: a submodel joins the bundle if it is shown to be better; otherwise nothing changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from cachenet.models.certify import traces
from cachenet.models.cli import app
from cachenet.models.data import sample
from cachenet.models.train import fine_tune
from cachenet.models.train.fine_tune import RecentFrames, RecentFramesError
from cachenet.shared.bundle.manifest import MANIFEST, Bundle, Manifest
from cachenet.shared.bundle.trust import Key, generate
from cachenet.shared.inference.engine import Session
from tests.hampered import FROG, SHIP, TRUCK, frogs_and_ships, hampered_bundle, pictures

pytestmark = pytest.mark.slow

#: Number of the sample's images to build from; devices send the others.
DATA = 500


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(hampered_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("data"), 0, DATA)


def logits(bundle: Bundle, model: str, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> traces.Logits:
    spec = bundle.manifest.models[model].input
    return traces.run_model(Session(bundle.path(model), "cpu"), spec, traces.as_pictures(sample.load().images[rows]))


@pytest.fixture(scope="module")
def recent(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as a server writes it."""
    rows = frogs_and_ships(DATA, 2 * DATA)
    frequencies = np.zeros(10)
    frequencies[[FROG, SHIP, TRUCK]] = 1 / 3
    path = tmp_path_factory.mktemp("recent") / "recent.npz"
    np.savez(
        path,
        pictures=sample.load().images[rows][:, :, :, ::-1],
        scores=logits(bundle, "full", rows),
        frequencies=frequencies,
    )
    return path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["fine-tune", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def updated(bundle: Bundle, data: Path, recent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with its update, signed, and the key beside it."""
    directory = tmp_path_factory.mktemp("updated")
    private, _ = generate(directory / "keys")
    out = directory / "out"
    flags = ("--data", data, "--recent", recent, "--out", out, "--key", private, "--work", directory / "work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fine_tune, "_EPOCH_FRAMES", 2000)  # few frames suffice for a large gain
        code, output = run(bundle.directory, *flags)
    assert code == 0, output
    return directory


def update(manifest: Manifest) -> str:
    return next(name for name in manifest.models if name.startswith("update-"))


def test_the_update_distinguishes_labels_that_the_base_model_confuses(bundle: Bundle, updated: Path) -> None:
    after = Bundle(updated / "out")
    name = update(after.manifest)
    assert set(after.manifest.models) == {"full", "base", name}
    assert set(after.manifest.models[name].classes) == {FROG, SHIP, TRUCK}
    rows = frogs_and_ships(DATA, 2 * DATA)
    labels = logits(bundle, "full", rows).argmax(1)
    right = {one: float((logits(after, one, rows).argmax(1) == labels).mean()) for one in ("base", name)}
    assert right[name] > right["base"] + 0.3
    frequencies = np.bincount([FROG, SHIP, TRUCK], minlength=10) / 3
    assert (
        after.manifest.expected_coverage(name, frequencies)
        > after.manifest.expected_coverage("base", frequencies) + 0.1
    )


def test_the_rest_of_the_bundle_is_unchanged(bundle: Bundle, updated: Path) -> None:
    after = Bundle(updated / "out").manifest
    assert (after.priors, after.certificates) == (bundle.manifest.priors, bundle.manifest.certificates)
    assert {name: after.models[name] for name in ("full", "base")} == bundle.manifest.models


def test_an_update_is_signed_with_the_key(updated: Path) -> None:
    after = Bundle(updated / "out")
    assert Key(updated / "keys" / "bundle.pub").verify(after.data, after.signature)


def test_without_a_proven_gain_nothing_is_written(
    bundle: Bundle, data: Path, recent: Path, updated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tune, "_MIN_GAIN", 1.0)
    monkeypatch.setattr(fine_tune, "_EPOCH_FRAMES", 100)
    out, work = tmp_path / "out", updated / "work"  # with the stored outputs of the full model
    code, output = run(bundle.directory, "--data", data, "--recent", recent, "--out", out, "--work", work)
    assert code == 3
    assert "not proven" in output
    assert not list(tmp_path.iterdir())


def test_a_base_model_of_other_preprocessing_is_not_fine_tuned(
    bundle: Bundle, data: Path, recent: Path, updated: Path, tmp_path: Path
) -> None:
    """A user's base model of another size: stored frames are cropped for the full model."""
    other = tmp_path / "other"
    shutil.copytree(bundle.directory, other)
    base = bundle.manifest.models["base"]
    base = msgspec.structs.replace(base, input=msgspec.structs.replace(base.input, side=24))
    manifest = msgspec.structs.replace(bundle.manifest, models={**bundle.manifest.models, "base": base})
    (other / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    out = tmp_path / "out"
    code, output = run(other, "--data", data, "--recent", recent, "--out", out, "--work", updated / "work")
    assert (code, output.count("\n")) == (2, 1), output
    assert "base sees other pictures than the full model" in output
    assert not out.exists()


def test_the_oldest_update_is_removed_when_there_are_too_many(
    updated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tune, "_MAX_UPDATES", 1)
    before = Bundle(updated / "out")
    first = update(before.manifest)
    name = fine_tune._name(before.manifest.models, ["ship"])
    assert name == "update-002-ship"
    file = tmp_path / name / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(before.path(first).read_bytes())
    model = before.manifest.models[first]
    after = fine_tune._add(before, msgspec.structs.replace(model, file=f"{name}/1/model.onnx"), name, tmp_path)
    assert set(after.models) == {"full", "base", name}


def test_sign_test_probabilities() -> None:
    assert fine_tune._sign_test(0, 0) == 1.0
    assert fine_tune._sign_test(5, 5) == pytest.approx(1 / 32)
    assert fine_tune._sign_test(60, 100) == pytest.approx(0.0284, abs=1e-3)
    assert fine_tune._sign_test(50, 100) > 0.5


def test_a_certain_error_is_worse_than_uncertainty() -> None:
    sure, unsure, wrong = [0.99, 0.01, 0], [0.6, 0.4, 0], [0.01, 0.99, 0]
    new, resident = np.array([sure, unsure, wrong]), np.array([unsure] * 3)
    full = np.zeros(3, np.int64)
    assert fine_tune._compare(new, [resident], full).tolist() == [1, 0, -1]


def test_an_update_is_compared_with_the_most_certain_resident_model() -> None:
    sure, unsure = np.array([[0.99, 0.01]]), np.array([[0.6, 0.4]])
    assert fine_tune._compare(sure, [unsure, sure], np.zeros(1, np.int64)).tolist() == [0]


def test_files_without_usable_recent_frames_are_refused(bundle: Bundle, recent: Path, tmp_path: Path) -> None:
    (tmp_path / "none.npz").write_bytes(b"PK nonsense")
    with np.load(recent) as stored:
        np.savez(tmp_path / "few.npz", **{name: rows[:10] for name, rows in stored.items()})
        np.savez(tmp_path / "other.npz", **{**stored, "scores": stored["scores"][:, :5]})
    for name, why in (("none", "no file"), ("gone", "no file"), ("few", "are needed"), ("other", "another bundle")):
        with pytest.raises(RecentFramesError, match=why):
            fine_tune.read(tmp_path / f"{name}.npz", bundle)
    code, output = run(bundle.directory, "--data", tmp_path, "--recent", tmp_path / "none.npz", "--out", tmp_path / "o")
    assert code == 2 and len(output.strip().splitlines()) == 1


def test_the_working_set_covers_nine_tenths_of_the_frequency() -> None:
    nothing = np.zeros((0, 32, 32, 3), np.uint8), np.zeros((0, 4), np.float32)
    assert RecentFrames(*nothing, np.array([0.05, 0.5, 0.0, 0.45])).labels == (1, 3)


def test_training_frames_are_sampled_by_weight() -> None:
    images = np.zeros((40, 8, 8, 3), np.uint8)
    data = fine_tune.FineTuneData(images, np.eye(40, 10, dtype=np.float32))
    weights = np.zeros(40)
    weights[3] = 1.0
    for epoch in (data.epoch(8, weights), data.epoch(8, weights)):
        for _, scores in epoch(0, np.random.default_rng(0)):
            assert (scores.argmax(1) == 3).all()
    assert data.steps(64) == 1
