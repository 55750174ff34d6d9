"""Updates: a submodel joins the bundle when it is proven better where it is needed, and else nothing changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from cachenet.models.certify import recorded
from cachenet.models.cli import app
from cachenet.models.data import sample
from cachenet.models.train import fine_tune
from cachenet.models.train.fine_tune import Recent, RecentError
from cachenet.shared.bundle.manifest import MANIFEST, Bundle, Manifest
from cachenet.shared.bundle.trust import Key, generate
from cachenet.shared.inference.engine import Session
from tests.hampered import FROG, SHIP, TRUCK, frogs_and_ships, hampered_bundle, pictures

pytestmark = pytest.mark.slow

#: The first so many of the sample are trained with, the others are what devices send.
DATA = 500


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(hampered_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("data"), 0, DATA)


def said(bundle: Bundle, model: str, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> recorded.Logits:
    spec = bundle.manifest.models[model].input
    return recorded.run(Session(bundle.path(model), "cpu"), spec, recorded.as_pictures(sample.load().images[rows]))


@pytest.fixture(scope="module")
def recent(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a server writes it."""
    rows = frogs_and_ships(DATA, 2 * DATA)
    seen = np.zeros(10)
    seen[[FROG, SHIP, TRUCK]] = 1 / 3
    path = tmp_path_factory.mktemp("recent") / "recent.npz"
    np.savez(path, pictures=sample.load().images[rows][:, :, :, ::-1], scores=said(bundle, "full", rows), seen=seen)
    return path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["specialise", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def updated(bundle: Bundle, data: Path, recent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with its update, signed, and the key beside it."""
    directory = tmp_path_factory.mktemp("updated")
    private, _ = generate(directory / "keys")
    out = directory / "out"
    flags = ("--data", data, "--recent", recent, "--out", out, "--key", private, "--work", directory / "work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fine_tune, "_LOOKS", 2000)  # so little suffices where so much is to be gained
        code, words = run(bundle.directory, *flags)
    assert code == 0, words
    return directory


def update(manifest: Manifest) -> str:
    return next(name for name in manifest.models if name.startswith("update-"))


def test_what_the_base_model_cannot_tell_the_update_can(bundle: Bundle, updated: Path) -> None:
    after = Bundle(updated / "out")
    name = update(after.manifest)
    assert set(after.manifest.models) == {"full", "base", name}
    assert set(after.manifest.models[name].classes) == {FROG, SHIP, TRUCK}
    rows = frogs_and_ships(DATA, 2 * DATA)
    answers = said(bundle, "full", rows).argmax(1)
    right = {one: float((said(after, one, rows).argmax(1) == answers).mean()) for one in ("base", name)}
    assert right[name] > right["base"] + 0.3
    seen = np.bincount([FROG, SHIP, TRUCK], minlength=10) / 3
    assert after.manifest.expected_coverage(name, seen) > after.manifest.expected_coverage("base", seen) + 0.1


def test_all_else_of_the_bundle_stays_as_it_was(bundle: Bundle, updated: Path) -> None:
    after = Bundle(updated / "out").manifest
    assert (after.priors, after.certificates) == (bundle.manifest.priors, bundle.manifest.certificates)
    assert {name: after.models[name] for name in ("full", "base")} == bundle.manifest.models


def test_an_update_is_signed_with_the_key(updated: Path) -> None:
    after = Bundle(updated / "out")
    assert Key(updated / "keys" / "bundle.pub").vouches(after.data, after.signature)


def test_what_is_not_proven_changes_nothing(
    bundle: Bundle, data: Path, recent: Path, updated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tune, "_LEAST", 1.0)
    monkeypatch.setattr(fine_tune, "_LOOKS", 100)
    out, work = tmp_path / "out", updated / "work"  # where the full model has been heard
    code, words = run(bundle.directory, "--data", data, "--recent", recent, "--out", out, "--work", work)
    assert code == 3
    assert "not proven" in words
    assert not list(tmp_path.iterdir())


def test_a_base_model_that_sees_other_pictures_is_not_refined(
    bundle: Bundle, data: Path, recent: Path, updated: Path, tmp_path: Path
) -> None:
    """One that a user gave, of another size: what is kept of frames is as the full model sees them."""
    other = tmp_path / "other"
    shutil.copytree(bundle.directory, other)
    base = bundle.manifest.models["base"]
    base = msgspec.structs.replace(base, input=msgspec.structs.replace(base.input, side=24))
    manifest = msgspec.structs.replace(bundle.manifest, models={**bundle.manifest.models, "base": base})
    (other / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    out = tmp_path / "out"
    code, words = run(other, "--data", data, "--recent", recent, "--out", out, "--work", updated / "work")
    assert (code, words.count("\n")) == (2, 1), words
    assert "base sees other pictures than the full model" in words
    assert not out.exists()


def test_the_oldest_update_makes_room(updated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fine_tune, "_MOST", 1)
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


def test_winning_by_luck_proves_nothing() -> None:
    assert fine_tune._tail(0, 0) == 1.0
    assert fine_tune._tail(5, 5) == pytest.approx(1 / 32)
    assert fine_tune._tail(60, 100) == pytest.approx(0.0284, abs=1e-3)
    assert fine_tune._tail(50, 100) > 0.5


def test_to_be_sure_and_wrong_is_worse_than_not_to_be_sure() -> None:
    sure, unsure, wrong = [0.99, 0.01, 0], [0.6, 0.4, 0], [0.01, 0.99, 0]
    new, resident = np.array([sure, unsure, wrong]), np.array([unsure] * 3)
    full = np.zeros(3, np.int64)
    assert fine_tune._compare(new, [resident], full).tolist() == [1, 0, -1]


def test_the_surest_of_the_resident_models_is_what_an_update_is_compared_with() -> None:
    sure, unsure = np.array([[0.99, 0.01]]), np.array([[0.6, 0.4]])
    assert fine_tune._compare(sure, [unsure, sure], np.zeros(1, np.int64)).tolist() == [0]


def test_files_that_hold_no_recent_frames_are_refused(bundle: Bundle, recent: Path, tmp_path: Path) -> None:
    (tmp_path / "none.npz").write_bytes(b"PK nonsense")
    with np.load(recent) as stored:
        np.savez(tmp_path / "few.npz", **{name: rows[:10] for name, rows in stored.items()})
        np.savez(tmp_path / "other.npz", **{**stored, "scores": stored["scores"][:, :5]})
    for name, why in (("none", "no file"), ("gone", "no file"), ("few", "are needed"), ("other", "another bundle")):
        with pytest.raises(RecentError, match=why):
            fine_tune.read(tmp_path / f"{name}.npz", bundle)
    code, words = run(bundle.directory, "--data", tmp_path, "--recent", tmp_path / "none.npz", "--out", tmp_path / "o")
    assert code == 2 and len(words.strip().splitlines()) == 1


def test_the_working_set_is_nine_tenths_of_what_is_seen() -> None:
    nothing = np.zeros((0, 32, 32, 3), np.uint8), np.zeros((0, 4), np.float32)
    assert Recent(*nothing, np.array([0.05, 0.5, 0.0, 0.45])).labels == (1, 3)


def test_what_is_taught_is_drawn_by_weight_and_the_same_for_a_seed() -> None:
    images = np.zeros((40, 8, 8, 3), np.uint8)
    taught = fine_tune.FineTuned(images, np.eye(40, 10, dtype=np.float32))
    weights = np.zeros(40)
    weights[3] = 1.0
    for epoch in (taught.epoch(8, weights), taught.epoch(8, weights)):
        for _, scores in epoch(0, np.random.default_rng(0)):
            assert (scores.argmax(1) == 3).all()
    assert taught.steps(64) == 1
