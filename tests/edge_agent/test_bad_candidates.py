"""Whatever is wrong with an update, the device goes on with the set that it has, now and after a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.updates import probe as probing
from cachenet.edge_agent.updates.loader import ModelLoader
from cachenet.edge_agent.updates.store import Store
from cachenet.shared.bundle.manifest import Bundle
from tests import faulty
from tests.bundles import tiny_bundle
from tests.edge_agent.agents import Pictures, install_current, install_files, maintain_until, shot
from tests.faulty import with_golden, with_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_golden(tiny_bundle(tmp_path_factory.mktemp("bundle")))


@contextmanager
def device(store: Path) -> Iterator[Agent]:
    """An agent without a network that has begun to answer."""
    agent = Agent(Settings(provider="cpu"), [Pictures(0)], (), Store(store), None)
    assert agent.updater is not None
    agent.loader.start()
    agent.updater.start()
    try:
        agent.cameras[0].wait_for_bundle()
        yield agent
    finally:
        agent.stopped.set()
        agent.updater.stop()
        agent.loader.stop()


def faulty_base(kind: str) -> Callable[[Bundle, Path], Bundle]:
    return lambda bundle, directory: with_model(bundle, directory, faulty.KINDS[kind]())


@pytest.mark.parametrize("make", list(map(faulty_base, faulty.KINDS)), ids=faulty.KINDS)
def test_a_bad_candidate_changes_nothing_now_and_after_a_restart(
    make: Callable[[Bundle, Path], Bundle], bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "_CPU_TIMEOUT_S", 2.0)
    bad = make(bundle, tmp_path / "bad")
    store = tmp_path / "store"
    install_current(install_files(Store(store), bundle), bundle.data)
    with device(store) as agent:
        camera, updater = agent.cameras[0], agent.updater
        assert updater is not None
        install_files(Store(store), bad)
        camera.answer(0, shot(), JsonLinesWriter(""))
        updater.announce(bad.data)
        maintain_until(camera, lambda: updater.state == "failed")
        camera.answer(1, shot(), JsonLinesWriter(""))
        assert camera.version == bundle.version
    with device(store) as again:
        assert again.cameras[0].version == bundle.version
        assert again.updater is not None and again.updater.state == "failed"


def test_a_model_that_fails_on_a_camera_frame_is_rolled_back(bundle: Bundle, tmp_path: Path) -> None:
    """It passes every probe: its first failure in use brings the set before back while frames go on."""
    newer = Bundle(tiny_bundle(tmp_path / "newer", seed=1))
    store = tmp_path / "store"
    install_current(install_files(Store(store), bundle), bundle.data)
    with device(store) as agent:
        camera, updater = agent.cameras[0], agent.updater
        assert updater is not None
        install_files(Store(store), newer)
        updater.announce(newer.data)
        maintain_until(camera, lambda: camera.version == newer.version)
        camera.answer(0, shot(), JsonLinesWriter(""))
        maintain_until(camera, lambda: updater._store.current() == newer.data)
        assert camera.cascade is not None and camera.cascade.base is not None
        break_model(agent.loader, newer)
        camera.answer(1, shot(80), JsonLinesWriter(""))
        maintain_until(camera, lambda: camera.version == bundle.version)
        assert updater.status == "failed (base: inference failed (broken))"
        assert camera.active_bundle.failures["base"] == 1
        camera.answer(2, shot(160), JsonLinesWriter(""))
    assert Store(store).current() == bundle.data


def break_model(loader: ModelLoader, bundle: Bundle) -> None:
    """Every run of the resident base model fails from now on."""
    session = loader._sessions[bundle.manifest.models["base"].sha256]

    class Broken:
        def run(self, *_: object) -> None:
            raise RuntimeError("broken")

    session._session = Broken()  # type: ignore[assignment, union-attr]


def test_a_submodel_that_hangs_is_never_loaded_and_others_are(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One of the current set that was not among the first models to be had."""
    monkeypatch.setattr(probing, "_CPU_TIMEOUT_S", 5.0)
    hanging = with_model(bundle, tmp_path / "hanging", faulty.looping(), "animals")
    store = tmp_path / "store"
    install_current(install_files(Store(store), hanging), hanging.data)
    with device(store) as agent:
        camera = agent.cameras[0]
        assert camera.cascade is not None
        camera.cascade.pending_fetch = "animals"
        maintain_until(camera, lambda: "animals cannot be used: animals: takes more than 5 s" in caplog.text)
        camera.cascade.pending_fetch = "vehicles"
        maintain_until(camera, lambda: "vehicles" in camera.active_bundle.submodels)
        assert camera.active_bundle.submodels == ("vehicles",)
