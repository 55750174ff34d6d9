"""What is resident: models come when they are wanted and there is room, and go when there is none."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from time import sleep
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from edge_agent import deployment as module
from edge_agent.agent import Agent
from edge_agent.camera import Camera
from edge_agent.core.hierarchy import Hierarchy
from edge_agent.report import Sink
from edge_agent.scoring import View
from edge_agent.settings import Settings
from edge_agent.store import Store
from shared.bundle import MANIFEST, Bundle
from shared.engine import Session
from shared.image import preprocessor
from shared.link import Link
from shared.protocol import Status
from shared.worth import Worth
from tests.bundles import INPUT, layered_bundle, tiny_bundle
from tests.edge_agent.agents import EVERY, Pictures, current, running, shot, stored, tend_until
from tests.edge_agent.links import FakeLink


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle")))


def with_animals(camera: Camera) -> Hierarchy:
    """The camera's hierarchy, once the submodel that it wanted has come."""
    hierarchy = camera.hierarchy
    assert hierarchy is not None
    hierarchy.wanted = "animals"
    tend_until(camera, lambda: hierarchy.wanted is None)
    return hierarchy


def test_a_wanted_submodel_comes_while_frames_go_on(bundle: Bundle) -> None:
    with running(Settings(), bundle=bundle) as camera:
        hierarchy = with_animals(camera)
        assert hierarchy.submodels is not None
        assert hierarchy.submodels.names() == ("animals",)
        assert camera.deployment.pulled == [], "it was here already"


def test_a_general_model_of_another_size_comes_by_itself_if_there_is_room(tmp_path: Path) -> None:
    place = tiny_bundle(tmp_path / "bundle")
    manifest = Bundle(place).manifest
    models = {**manifest.models, "animals": msgspec.structs.replace(manifest.models["animals"], classes=())}
    (place / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, models=models)))
    with running(Settings(), bundle=Bundle(place)) as camera:
        tend_until(camera, lambda: camera.deployment.submodels == ("animals",))
        assert camera.hierarchy is not None and camera.hierarchy.submodels is not None
        camera.hierarchy.shrink(0)
        for _ in range(5):
            camera.deployment.tend()
        assert camera.deployment.submodels == (), "what had to go does not come back by itself"
    with running(Settings(), bundle=Bundle(place)) as camera:
        assert camera.hierarchy is not None and camera.hierarchy.submodels is not None
        camera.hierarchy.submodels.budget = 1
        for _ in range(20):
            camera.deployment.tend()
            sleep(0.01)
        assert camera.deployment.submodels == ()


@pytest.mark.parametrize("prefetch", [True, False])
def test_while_the_link_is_idle_what_may_be_wanted_next_is_put_by(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefetch: bool
) -> None:
    """If the user will have it: on a link that is paid for by the byte it costs more than it saves."""
    store = stored(Store(tmp_path), bundle)
    current(store, bundle.data)
    (tmp_path / "blobs" / bundle.manifest.models["animals"].sha256).unlink()
    with running(Settings(prefetch=prefetch), store) as camera:
        put_by: list[str] = []
        monkeypatch.setattr(camera.keeper, "put_by", put_by.append)
        assert camera.hierarchy is not None and camera.hierarchy.submodels is not None
        camera.hierarchy.submodels._base_coverage = np.zeros(10)
        for index in range(3 * module._IDLE):
            camera.answer(index, shot(), Sink(""))
            camera.tally.fallbacks = min(index, 20)  # so long the link was busy
            camera.deployment.tend()
        assert put_by == ["animals"] * prefetch


def test_a_submodel_that_has_to_go_is_really_gone(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session has died by the time the memory is given back, or nothing would be given back."""
    with running(Settings(), bundle=bundle) as camera:
        hierarchy = with_animals(camera)
        assert hierarchy.submodels is not None
        held = weakref.ref(hierarchy.submodels._resident["animals"].score)
        alive: list[bool] = []
        monkeypatch.setattr(module, "release_memory", lambda: alive.append(held() is not None))
        hierarchy.submodels.budget = 1  # nothing fits any more
        hierarchy.wanted = "vehicles"
        gc.disable()
        try:
            tend_until(camera, lambda: hierarchy.wanted is None)
        finally:
            gc.enable()
        assert alive
        assert not any(alive)
        assert hierarchy.submodels.names() == ()
        assert camera.summary()["models_evicted"] == {"room": 2}, "and who came for it did not fit"


def test_what_cannot_be_had_is_not_announced_with_every_frame(bundle: Bundle, tmp_path: Path) -> None:
    """A submodel on its way, or never to come, must cost the frames that pass meanwhile next to nothing."""
    store = stored(Store(tmp_path), bundle)
    current(store, bundle.data)
    (tmp_path / "blobs" / bundle.manifest.models["animals"].sha256).unlink()
    statuses: list[Status] = []

    def announced(_topic: str, payload: bytes, _rest: dict[str, Any]) -> bool:
        statuses.append(msgspec.json.decode(payload, type=Status))
        return True

    agent = Agent(Settings(), [Pictures(0)], None, store, None)
    (camera,) = agent.cameras
    agent.link = cast(Link, FakeLink(announced))
    agent.keeper.start()
    camera.await_deployment()
    assert len(statuses) == 1, "that it answers"
    assert camera.hierarchy is not None
    camera.hierarchy.wanted = "animals"
    for _ in range(100):
        camera.deployment.tend()
    agent.keeper.stop()
    assert len(statuses) == 1


def test_a_process_that_outgrows_its_budget_lets_go_of_submodels(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(Settings(memory_budget="1GB", levels=EVERY), bundle=bundle) as camera:
        camera.hierarchy.wanted = "animals"  # type: ignore[union-attr]
        tend_until(camera, camera.hierarchy.submodels.names)  # type: ignore[union-attr]
        tend_until(camera, lambda: camera.hierarchy.full)  # type: ignore[union-attr]
        monkeypatch.setattr(module, "resident_bytes", lambda: 2 << 30)
        for index in range(2 * module._CHECK_EVERY):
            camera.answer(index, shot(index), Sink(""))
            camera.deployment.tend()
        assert camera.hierarchy.full is None, "it is the largest, and goes first"  # type: ignore[union-attr]
        assert camera.hierarchy.submodels.names() == ()  # type: ignore[union-attr]
        assert camera.deployment.evicted == {"memory": 2}


def test_the_full_model_on_the_device_answers_from_caches_between_its_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the caches risk is told; with ``--layer-caches off``, or without recent labels' leave, all of it runs."""
    monkeypatch.setattr(Worth, "pays", True)  # of so small a model no cache would
    bundle = Bundle(layered_bundle(tmp_path / "layered"))
    with running(Settings(levels=("base", "full")), bundle=bundle) as camera:
        tend_until(camera, lambda: camera.hierarchy.full)  # type: ignore[union-attr]
        hierarchy = camera.hierarchy
        assert hierarchy is not None and hierarchy.full is not None and hierarchy.full.judge is not None
        view = View(shot().picture)
        _, risk = hierarchy.full.judge(view, (), 1.0)
        assert risk is None or 0 <= risk <= 0.9
        logits, none = hierarchy.full.judge(view, (), 0.0)
        assert none is None
        np.testing.assert_allclose(logits, hierarchy.full.score(view), rtol=1e-5)
        alone = Session(bundle.path("full"), "cpu").run(preprocessor(INPUT)(view.crop(INPUT)))[0]
        np.testing.assert_allclose(logits, alone, rtol=1e-4, atol=1e-5)
        risks = [hierarchy.full.judge(View(shot(level).picture), (), 1.0)[1] for level in range(0, 250, 5)]
        assert any(one is not None for one in risks), "after the first checks"
    with running(Settings(levels=("base", "full"), layer_caches="off"), bundle=bundle) as camera:
        tend_until(camera, lambda: camera.hierarchy.full)  # type: ignore[union-attr]
        assert camera.hierarchy.full.judge is None  # type: ignore[union-attr]
