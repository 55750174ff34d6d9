"""The agent in this process, without a network: what it does between two frames."""

from __future__ import annotations

import copy
import gc
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from edge_agent import deployment as module
from edge_agent.agent import Agent
from edge_agent.camera import Camera
from edge_agent.composition import DeploymentError
from edge_agent.core.types import Answer
from edge_agent.report import Sink
from edge_agent.scoring import View, scorer
from edge_agent.settings import LevelFlag, Settings
from edge_agent.source import Shot
from edge_agent.store import Store
from shared.bundle import MANIFEST, Bundle, Gate
from shared.engine import EngineError, Logits, Session
from shared.image import Input, Picture, preprocessor
from shared.link import Address, Link, Message
from shared.protocol import Status, catalogue
from shared.worth import Worth
from tests.bundles import INPUT, layered_bundle, tiny_bundle
from tests.edge_agent.links import FakeLink

_BOUND_S = 10.0


def shot(brightness: int = 0) -> Shot:
    return Shot(np.full((48, 64, 3), brightness, np.uint8))


def stored(store: Store, bundle: Bundle) -> Store:
    """Put all models of ``bundle`` into ``store`` as if they had been pulled."""
    for name, model in bundle.manifest.models.items():
        store.append(model.sha256, bundle.path(name).read_bytes())
        store.finish(model.sha256)
    return store


@contextmanager
def running(settings: Settings, store: Store | None = None, bundle: Bundle | None = None) -> Iterator[Camera]:
    """The only camera of an agent, with something to answer with."""
    (camera,) = Agent(settings, [Pictures(0)], None, store, bundle).cameras
    camera.keeper.start()
    try:
        camera.await_deployment()
        yield camera
    finally:
        camera.keeper.stop()


EVERY: tuple[LevelFlag, ...] = ("frames", "submodels", "base", "full", "cloud")


def tend_until(camera: Camera, true: Callable[[], object]) -> None:
    deadline = monotonic() + _BOUND_S
    while not true():
        assert monotonic() < deadline
        camera.deployment.tend()
        sleep(0.005)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("newer"), seed=1))


def test_a_picture_is_cropped_once_for_all_models_that_see_the_same() -> None:
    view = View(shot().picture)
    assert view.crop(INPUT) is view.crop(Input(INPUT.side, INPUT.mean, INPUT.std))
    assert view.crop(Input(16, INPUT.mean, INPUT.std)).shape == (16, 16, 3)


class Pictures:
    """A source of so many pictures, each unlike the others."""

    dropped = broken = losses = 0
    trouble = ""

    def __init__(self, count: int) -> None:
        self.closed = False
        self._count = count

    def __iter__(self) -> Iterator[Shot]:
        for index in range(self._count):
            yield shot(index * 20 % 256)

    def close(self) -> None:
        self.closed = True


def test_the_papers_rule_gates_on_the_entropy_of_a_submodels_own_word(tmp_path: Path) -> None:
    place = tiny_bundle(tmp_path / "bundle")
    manifest = Bundle(place).manifest
    opened = msgspec.structs.replace(manifest, gates=(Gate(0.01, 0.0, 0.95, 1, 10.0),))
    (place / "bundle.json").write_bytes(msgspec.json.encode(opened))
    with running(Settings(levels=("submodels", "base"), gate="entropy"), bundle=Bundle(place)) as camera:
        for index in range(5):
            camera.answer(index, shot(50 * index), Sink(""))
            assert camera.now is not None
            answer = camera.now.answer
            assert answer.level == "base"
            assert 0 <= answer.risk <= np.log(10)
            assert not answer.audit
    other = Bundle(tiny_bundle(tmp_path / "other"))
    with (
        pytest.raises(DeploymentError, match="no threshold on entropy"),
        running(Settings(levels=("base",), gate="entropy"), bundle=other),
    ):
        raise AssertionError("it has none")


def test_only_the_region_of_interest_is_looked_at(bundle: Bundle) -> None:
    """Two pictures that differ outside of it are the same picture."""
    left, right = np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64, 3), np.uint8)
    left[:, :32] = 255

    def last(region: str, *pictures: Picture) -> Answer | None:
        with running(Settings(levels=("frames", "base"), region=region), bundle=bundle) as camera:
            for index, picture in enumerate(pictures):
                camera.answer(index, Shot(picture), Sink(""))
            return camera.now and camera.now.answer

    answers = last("0.5,0,0.5,1", right, left), last("", right, left)
    seen_alone = last("0.5,0,0.5,1", right, right)
    inside, whole = answers
    assert inside == seen_alone
    assert whole != inside


def test_every_frame_of_a_source_is_answered_and_the_summary_says_so(bundle: Bundle, tmp_path: Path) -> None:
    source, sink = Pictures(30), Sink(str(tmp_path / "answers"))
    agent = Agent(Settings(levels=("frames", "submodels", "base")), [source], None, None, bundle)
    agent.run(sink)
    sink.close()
    summary = agent.summary()
    assert len((tmp_path / "answers").read_text().splitlines()) == summary["frames"] == 30
    assert sum(summary["hits"].values()) + summary["cloud"] + summary["fallbacks"] == 30
    assert summary["hits"]["frames"] > 0
    assert summary["hits"]["base"] > 0
    assert summary["latency_ms"]["p50"] > 0
    assert summary["resident_bytes_peak"] > 1 << 20
    assert source.closed


def test_it_stops_after_so_many_frames(bundle: Bundle) -> None:
    source = Pictures(30)
    agent = Agent(Settings(frames=3), [source], None, None, bundle)
    agent.run(Sink(""))
    assert agent.summary()["frames"] == 3
    assert source.closed


def test_without_context_every_picture_is_judged_by_itself(bundle: Bundle) -> None:
    """The frame cache needs signatures; the filter must not listen to them."""
    with running(Settings(context=False, levels=("frames", "base")), bundle=bundle) as camera:
        hierarchy = camera.hierarchy
        assert hierarchy is not None
        base = hierarchy.base
        assert base is not None
        for index in range(10):
            before = camera.tally.hits["frames"]
            picture = shot(index * 7)
            camera.answer(index, picture, Sink(""))
            if camera.tally.hits["frames"] == before:
                logits = base.score(View(picture.picture))
                assert camera.now is not None and camera.now.line.label == bundle.manifest.labels[int(logits.argmax())]


@pytest.mark.parametrize("what", [{"memory_budget": "1MB"}, {"max_false_hits": 0.001}])
def test_a_bundle_that_cannot_be_used_is_one_clear_line(bundle: Bundle, what: dict[str, Any]) -> None:
    """Too little memory for it, or no gate proven for the error that is allowed."""
    with pytest.raises(DeploymentError) as refused, running(Settings(**what), bundle=bundle):
        pass
    assert "\n" not in str(refused.value)


def test_a_newer_version_takes_over_while_frames_go_on(bundle: Bundle, newer: Bundle, tmp_path: Path) -> None:
    store = stored(stored(Store(tmp_path), bundle), newer)
    store.remember(bundle.data, bundle.manifest)
    with running(Settings(), store) as camera:
        camera.answer(0, shot(), Sink(""))
        camera.keeper.announce(newer.data)
        tend_until(camera, lambda: camera.summary()["bundle_version"] == newer.version)
        camera.answer(1, shot(), Sink(""))
        assert camera.tally.frames == 2
        camera.keeper.stop()
    kept = {path.name for path in (tmp_path / "blobs").iterdir()}
    assert kept == {model.sha256 for model in newer.manifest.models.values()}, "an SD card does not fill with old ones"


def test_without_local_models_a_newer_version_takes_over_too(bundle: Bundle, newer: Bundle, tmp_path: Path) -> None:
    """Or a device with an old catalogue in its store would refuse the answers of the newer model for ever."""
    store = Store(tmp_path)
    store.remember(bundle.data, bundle.manifest)
    with running(Settings(levels=("cloud",)), store) as camera:
        camera.keeper.announce(newer.data)
        camera.deployment.tend()
        assert camera.summary()["bundle_version"] == newer.version
        camera.keeper.announce(bundle.data)
        camera.deployment.tend()
        assert camera.summary()["bundle_version"] == bundle.version, "and back again"


def test_an_update_that_cannot_be_used_leaves_all_as_it_is(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = stored(Store(tmp_path), bundle)
    store.remember(bundle.data, bundle.manifest)
    with running(Settings(), store) as camera:
        lax = msgspec.structs.replace(bundle.manifest, gates=(Gate(0.5, 0.5, 0.95, 10),))
        camera.keeper.announce(msgspec.json.encode(lax))
        tend_until(camera, lambda: "going on with version" in caplog.text)
        assert camera.summary()["bundle_version"] == bundle.version
        camera.answer(0, shot(), Sink(""))


def test_an_update_that_cannot_be_used_leaves_the_submodels_too(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proven = msgspec.structs.replace(
        bundle.manifest, gates=tuple(msgspec.structs.replace(gate, entropy=0.1) for gate in bundle.manifest.gates)
    )
    store = stored(Store(tmp_path), bundle)
    store.remember(msgspec.json.encode(proven), proven)
    with running(Settings(gate="entropy"), store) as camera:
        assert camera.hierarchy is not None
        camera.hierarchy.wanted = "animals"
        tend_until(camera, lambda: camera.deployment.submodels == ("animals",))
        camera.keeper.announce(bundle.data)
        tend_until(camera, lambda: "going on with version" in caplog.text)
        assert camera.deployment.submodels == ("animals",)


def test_a_wanted_submodel_comes_while_frames_go_on(bundle: Bundle) -> None:
    with running(Settings(), bundle=bundle) as camera:
        hierarchy = camera.hierarchy
        assert hierarchy is not None
        assert hierarchy.submodels is not None
        hierarchy.wanted = "animals"
        tend_until(camera, lambda: hierarchy.wanted is None)
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
    store.remember(bundle.data, bundle.manifest)
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
        hierarchy = camera.hierarchy
        assert hierarchy is not None
        assert hierarchy.submodels is not None
        hierarchy.wanted = "animals"
        tend_until(camera, lambda: hierarchy.wanted is None)
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
    store.remember(bundle.data, bundle.manifest)
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


def test_a_given_bundle_is_not_replaced_by_the_brokers(bundle: Bundle, newer: Bundle) -> None:
    """Its directory holds nothing of the newer one; so the catalogue is not even asked for."""
    agent = Agent(Settings(), [Pictures(0)], Address("127.0.0.1", 1), None, bundle)
    assert agent.link is not None
    assert [topic for topic, _ in agent.link._subscriptions] == [f"cachenet/1/{agent.settings.device}/answer"]
    assert agent.keeper.version == bundle.version != newer.version


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff" * 1000])
@pytest.mark.parametrize("topic", [catalogue("tiny"), "cachenet/1/cam/answer", "cachenet/1/cam/blob/" + "0" * 64])
def test_a_malformed_message_is_ignored_wherever_it_arrives(topic: str, payload: bytes, tmp_path: Path) -> None:
    agent = Agent(Settings(device="cam"), [Pictures(0)], Address("127.0.0.1", 1), Store(tmp_path), None)
    agent._receive(Message(topic, payload, None, b"x" * 16, ()))


def test_only_the_catalogue_asked_for_is_followed(bundle: Bundle, tmp_path: Path) -> None:
    agent = Agent(Settings(catalogue="other"), [Pictures(0)], Address("127.0.0.1", 1), Store(tmp_path), None)
    agent._receive(Message(catalogue("tiny"), bundle.data, None, None, ()))
    assert agent.keeper.version == ""


def test_a_model_that_fails_says_nothing_and_stops_nothing(bundle: Bundle) -> None:
    """Its frames go on to the next level, here the last: a fallback."""
    with running(Settings(levels=("frames", "base")), bundle=bundle) as camera:
        assert camera.hierarchy is not None and camera.hierarchy.base is not None
        score = scorer("base", _fail, INPUT, 10)
        np.testing.assert_array_equal(score(View(shot().picture)), np.zeros(10))
        camera.hierarchy.base = replace(camera.hierarchy.base, score=score)
        camera.answer(0, shot(), Sink(""))
        assert camera.tally.fallbacks == 1


def _fail(_batch: object) -> Logits:
    raise EngineError("out of memory")


def test_a_bundle_whose_base_model_cannot_answer_is_refused_at_once(bundle: Bundle, tmp_path: Path) -> None:
    """No other will come: waiting for one would be waiting for ever."""
    directory = tmp_path / "unfit"
    shutil.copytree(bundle.directory, directory)
    (directory / "base/1/model.onnx").write_bytes(b"no model")
    unfit = copy.copy(bundle)  # opened before the damage
    unfit.directory = directory
    with pytest.raises(DeploymentError, match="base cannot be used"), running(Settings(), bundle=unfit):
        pass


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
