"""What a camera has learned is there after a restart, and no disk stands in the way of a frame."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cachenet.edge_agent import learner_file
from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.camera import Camera
from cachenet.edge_agent.learner_file import SAVE_EVERY_S, LearnerFile
from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.settings import Settings, default_store
from cachenet.shared.bundle.manifest import MANIFEST, Bundle
from cachenet.shared.cascade.features import FEATURE_COUNT, Array, Stage
from cachenet.shared.cascade.risk_estimator import FIRST_ANSWERS, RiskEstimator
from cachenet.shared.cascade.risk_model import RiskPrior
from cachenet.shared.command import atomic_files
from tests.bundles import tiny_bundle
from tests.edge_agent.agents import Pictures


def prior(count: int) -> RiskPrior:
    """One that says that all is risky, and soon learns better."""
    weights = (*(0.0,) * count, 2.0)
    return RiskPrior((0.0,) * count, (1.0,) * count, weights, tuple((3.0 * np.eye(count + 1)).ravel().tolist()))


def learning_bundle(directory: Path, temperature: float = 1.0, submodels: bool = True) -> Bundle:
    manifest = Bundle(tiny_bundle(directory)).manifest
    changed = msgspec.structs.replace(
        manifest,
        priors={stage: prior(FEATURE_COUNT[stage]) for stage in FEATURE_COUNT},
        models={
            name: msgspec.structs.replace(model, temperature=temperature)
            for name, model in manifest.models.items()
            if submodels or model.role != "submodel"
        },
    )
    (directory / MANIFEST).write_bytes(msgspec.json.encode(changed))
    return Bundle(directory)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return learning_bundle(tmp_path_factory.mktemp("bundle"))


def run(bundle: Bundle, store: Path, frames: int = 20) -> Camera:
    """A camera after ``frames`` answers, which has learned from the full model on the device."""
    agent = Agent(Settings(provider="cpu", store=str(store)), [Pictures(frames)], (), None, bundle)
    agent.run(JsonLinesWriter(""))
    assert agent.cameras[0].tally.frames == frames
    return agent.cameras[0]


def begun(bundle: Bundle, store: Path) -> dict[Stage, tuple[Array, Array]]:
    """What a camera knows before its first frame."""
    estimator = run(bundle, store, frames=0).cascade
    assert estimator is not None
    return estimator.estimator.state


def same(one: dict[Stage, tuple[Array, Array]], other: dict[Stage, tuple[Array, Array]]) -> bool:
    arrays = [[array for stage in FEATURE_COUNT for array in state.get(stage, ())] for state in (one, other)]
    return all(np.array_equal(a, b) for a, b in zip(*arrays, strict=True))


def fresh(bundle: Bundle) -> dict[Stage, tuple[Array, Array]]:
    return RiskEstimator(len(bundle.manifest.labels), bundle.manifest.priors).state


def test_a_restart_continues_with_the_learned_state(bundle: Bundle, tmp_path: Path) -> None:
    camera = run(bundle, tmp_path)
    assert camera.cascade is not None
    learned = camera.cascade.estimator.state
    assert not same(learned, fresh(bundle)), "the camera has learned"
    assert same(begun(bundle, tmp_path), learned)


def test_a_bundle_without_priors_learns_once_and_not_again_after_a_restart(tmp_path: Path) -> None:
    root = tiny_bundle(tmp_path / "bundle")
    manifest = msgspec.structs.replace(Bundle(root).manifest, priors={})
    (root / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    first = run(Bundle(root), tmp_path / "store", frames=FIRST_ANSWERS + 10).cascade
    assert first is not None and first.estimator.ready
    again = run(Bundle(root), tmp_path / "store", frames=0).cascade
    assert again is not None and again.estimator.ready
    assert again.estimator.fitted == first.estimator.fitted
    assert same(again.estimator.state, first.estimator.state)


def test_a_bundle_with_other_submodels_continues_with_the_learned_state(bundle: Bundle, tmp_path: Path) -> None:
    other = learning_bundle(tmp_path / "other", submodels=False)
    assert other.version != bundle.version
    camera = run(bundle, tmp_path / "store")
    assert camera.cascade is not None
    assert same(begun(other, tmp_path / "store"), camera.cascade.estimator.state)


def test_a_bundle_with_another_base_model_starts_from_its_prior(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = learning_bundle(tmp_path / "other", temperature=2.0)
    run(bundle, tmp_path / "store")
    caplog.set_level(logging.DEBUG, "cachenet.edge_agent.learner_file")
    assert same(begun(other, tmp_path / "store"), fresh(other))
    assert [record.levelno for record in caplog.records if "is not used" in record.message] == [logging.DEBUG]


@pytest.mark.parametrize("damage", [lambda data: data[:0], lambda data: data[:-1], lambda data: data + bytes(1 << 20)])
def test_a_damaged_file_costs_what_was_learned_and_nothing_else(
    bundle: Bundle, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    run(bundle, tmp_path)
    (file,) = (tmp_path / "learned").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert same(begun(bundle, tmp_path), fresh(bundle))


def test_a_disk_that_cannot_be_written_or_read_stops_no_frame(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "learned").write_text("a file where the directory should be")
    run(bundle, tmp_path)
    assert same(begun(bundle, tmp_path), fresh(bundle))


def test_a_run_without_learning_leaves_the_saved_state(bundle: Bundle, tmp_path: Path) -> None:
    learned = run(bundle, tmp_path).cascade
    assert learned is not None
    begun(learning_bundle(tmp_path / "other", temperature=2.0), tmp_path)
    assert same(begun(bundle, tmp_path), learned.estimator.state)


def test_cameras_keep_what_they_have_learned_apart(tmp_path: Path) -> None:
    names = ["", "camera", "a", "a.b", "A"]
    assert len({LearnerFile(tmp_path, name).path for name in names}) == len(names)


def test_a_bundle_directory_writes_nothing_to_the_default_store(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a run can be repeated."""
    monkeypatch.setenv("HOME", str(tmp_path))
    run(bundle, Path(default_store()))
    assert not list(tmp_path.iterdir())


class Disk:
    """Counts what is written, and may hang."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written, self.free = 0, threading.Event()
        self.free.set()
        monkeypatch.setattr(atomic_files, "write", self._write)

    def _write(self, _path: Path, _data: bytes) -> None:
        assert self.free.wait(60)
        self.written += 1


def train(estimator: RiskEstimator) -> None:
    """Have all weights change."""
    for model in estimator.models.values():
        model.reset(0.5)


def test_at_most_one_save_a_minute_and_none_where_nothing_was_learned(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, now = Disk(monkeypatch), [0.0]
    file = LearnerFile(tmp_path, "", lambda: now[0])
    estimator = RiskEstimator(10, bundle.manifest.priors)
    for _ in range(10 * int(SAVE_EVERY_S)):  # ten minutes in seconds
        now[0] += 1.0
        train(estimator)
        file.save(estimator, "v")
        if file._writer is not None:
            file._writer.join()
    assert disk.written == 10
    for _ in range(10 * int(SAVE_EVERY_S)):
        now[0] += 1.0
        file.save(estimator, "v")
    file.close(estimator, "v")
    assert disk.written == 10


def test_a_disk_that_hangs_holds_up_neither_frames_nor_the_end(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, now = Disk(monkeypatch), [0.0]
    monkeypatch.setattr(learner_file, "_CLOSE_TIMEOUT_S", 0.05)
    disk.free.clear()
    file = LearnerFile(tmp_path, "", lambda: now[0])
    estimator = RiskEstimator(10, bundle.manifest.priors)
    before = threading.active_count()
    for _ in range(5):
        now[0] += SAVE_EVERY_S
        train(estimator)
        file.save(estimator, "v")
    assert threading.active_count() == before + 1, "no second save before the first has ended"
    file.close(estimator, "v")
    assert disk.written == 0
    disk.free.set()
