"""Whatever is wrong with an update, the device goes on with the set that it has, now and after a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.outputs.report import Sink
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.updates import probe as probing
from cachenet.edge_agent.updates.loader import ModelLoader
from cachenet.edge_agent.updates.store import Store
from cachenet.shared.bundle.manifest import Bundle
from tests import faulty
from tests.bundles import tiny_bundle
from tests.edge_agent.agents import Pictures, current, shot, stored, tend_until
from tests.faulty import with_golden, with_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_golden(tiny_bundle(tmp_path_factory.mktemp("bundle")))


@contextmanager
def device(store: Path) -> Iterator[Agent]:
    """An agent without a network that has begun to answer."""
    agent = Agent(Settings(provider="cpu"), [Pictures(0)], None, Store(store), None)
    assert agent.updater is not None
    agent.keeper.start()
    agent.updater.start()
    try:
        agent.cameras[0].await_deployment()
        yield agent
    finally:
        agent.stopped.set()
        agent.updater.stop()
        agent.keeper.stop()


def faulty_base(kind: str) -> Callable[[Bundle, Path], Bundle]:
    return lambda bundle, directory: with_model(bundle, directory, faulty.KINDS[kind]())


@pytest.mark.parametrize("make", list(map(faulty_base, faulty.KINDS)), ids=faulty.KINDS)
def test_a_bad_candidate_changes_nothing_now_and_after_a_restart(
    make: Callable[[Bundle, Path], Bundle], bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "_TIME_CPU_S", 2.0)
    bad = make(bundle, tmp_path / "bad")
    store = tmp_path / "store"
    current(stored(Store(store), bundle), bundle.data)
    with device(store) as agent:
        camera, updater = agent.cameras[0], agent.updater
        assert updater is not None
        stored(Store(store), bad)
        camera.answer(0, shot(), Sink(""))
        updater.announce(bad.data)
        tend_until(camera, lambda: updater.state == "failed")
        camera.answer(1, shot(), Sink(""))
        assert camera.version == bundle.version
    with device(store) as again:
        assert again.cameras[0].version == bundle.version
        assert again.updater is not None and again.updater.state == "failed"


def test_a_model_that_fails_on_what_the_camera_sees_is_taken_back(bundle: Bundle, tmp_path: Path) -> None:
    """It passes every probe: its first failure in use brings the set before back while frames go on."""
    newer = Bundle(tiny_bundle(tmp_path / "newer", seed=1))
    store = tmp_path / "store"
    current(stored(Store(store), bundle), bundle.data)
    with device(store) as agent:
        camera, updater = agent.cameras[0], agent.updater
        assert updater is not None
        stored(Store(store), newer)
        updater.announce(newer.data)
        tend_until(camera, lambda: camera.version == newer.version)
        camera.answer(0, shot(), Sink(""))
        tend_until(camera, lambda: updater._store.recall() == newer.data)
        assert camera.cascade is not None and camera.cascade.base is not None
        break_model(agent.keeper, newer)
        camera.answer(1, shot(80), Sink(""))
        tend_until(camera, lambda: camera.version == bundle.version)
        assert updater.status == "failed (base: inference failed (broken))"
        assert camera.deployment.failures["base"] == 1
        camera.answer(2, shot(160), Sink(""))
    assert Store(store).recall() == bundle.data


def break_model(keeper: ModelLoader, bundle: Bundle) -> None:
    """Every run of the resident base model fails from now on."""
    session = keeper._sessions[bundle.manifest.models["base"].sha256]

    class Broken:
        def run(self, *_: object) -> None:
            raise RuntimeError("broken")

    session._session = Broken()  # type: ignore[assignment, union-attr]


def test_a_submodel_that_hangs_is_never_loaded_and_others_are(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One of the current set that was not among the first models to be had."""
    monkeypatch.setattr(probing, "_TIME_CPU_S", 5.0)
    hanging = with_model(bundle, tmp_path / "hanging", faulty.looping(), "animals")
    store = tmp_path / "store"
    current(stored(Store(store), hanging), hanging.data)
    with device(store) as agent:
        camera = agent.cameras[0]
        assert camera.cascade is not None
        camera.cascade.pending_fetch = "animals"
        tend_until(camera, lambda: "animals cannot be used: animals: takes more than 5 s" in caplog.text)
        camera.cascade.pending_fetch = "vehicles"
        tend_until(camera, lambda: "vehicles" in camera.deployment.submodels)
        assert camera.deployment.submodels == ("vehicles",)
