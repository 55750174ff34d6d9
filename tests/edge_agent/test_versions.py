"""Versions: a newer bundle takes over while frames go on, and one that cannot be used changes nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.updates.store import Store
from cachenet.edge_agent.updates.updater import COMMIT_AFTER
from cachenet.edge_agent.zones import Zone
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.transport.mqtt import Address, Message
from cachenet.shared.transport.protocol import catalogue
from tests.bundles import tiny_bundle
from tests.detectors import detector_bundle
from tests.edge_agent.agents import Pictures, announce, install_current, install_files, maintain_until, running, shot


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("newer"), seed=1))


def test_a_newer_version_takes_over_while_frames_go_on(bundle: Bundle, newer: Bundle, tmp_path: Path) -> None:
    store = install_files(Store(tmp_path), bundle)
    install_current(store, bundle.data)
    with running(Settings(), store) as camera:
        install_files(store, newer)
        camera.answer(0, shot(), JsonLinesWriter(""))
        announce(camera, newer.data)
        maintain_until(camera, lambda: camera.summary()["bundle_version"] == newer.version)
        for index in range(COMMIT_AFTER):
            camera.answer(1 + index, shot(), JsonLinesWriter(""))
        maintain_until(camera, lambda: store.previous("tiny") is None)
    assert camera.tally.frames == COMMIT_AFTER + 1
    saved = {path.name for path in (tmp_path / "blobs").iterdir()}
    assert saved == {model.sha256 for model in newer.manifest.models.values()}, "an SD card does not fill with old ones"


def test_without_local_models_a_newer_version_takes_over_too(bundle: Bundle, newer: Bundle, tmp_path: Path) -> None:
    """Or a device with an old catalogue in its store would refuse the answers of the newer model for ever."""
    store = Store(tmp_path)
    install_current(store, bundle.data)
    with running(Settings(levels=("cloud",)), store) as camera:
        announce(camera, newer.data)
        maintain_until(camera, lambda: camera.summary()["bundle_version"] == newer.version)
        camera.answer(0, shot(), JsonLinesWriter(""))
        announce(camera, bundle.data)
        maintain_until(camera, lambda: camera.summary()["bundle_version"] == bundle.version)  # and back again


def test_an_update_that_cannot_be_used_leaves_all_as_it_is_and_the_submodels_too(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The new version has no model with the name of the setting ``base``."""
    models = {name: model for name, model in bundle.manifest.models.items() if name != "vehicles"}
    store = install_files(Store(tmp_path), bundle)
    install_current(store, bundle.data)
    with running(Settings(base="vehicles"), store) as camera:
        assert camera.cascade is not None
        camera.cascade.pending_fetch = "animals"
        maintain_until(camera, lambda: camera.active_bundle.submodels == ("animals",))
        announce(camera, msgspec.json.encode(msgspec.structs.replace(bundle.manifest, models=models)))
        maintain_until(camera, lambda: "going on with version" in caplog.text)
        assert camera.summary()["bundle_version"] == bundle.version
        assert camera.active_bundle.submodels == ("animals",)
        camera.answer(0, shot(), JsonLinesWriter(""))


def test_zones_of_a_classifier_stay_with_it_when_a_detector_is_offered(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Which cameras there are is decided when the first bundle arrives."""
    detector = Bundle(detector_bundle(tmp_path / "squares"))
    manifest = msgspec.structs.replace(detector.manifest, name=bundle.manifest.name)
    store = install_files(Store(tmp_path / "store"), bundle)
    install_current(store, bundle.data)
    with running(Settings(zone=(Zone("gate", ((0.0, 0.0), (0.5, 0.0), (0.5, 0.5))),)), store) as camera:
        install_files(store, detector)
        announce(camera, msgspec.json.encode(manifest))
        maintain_until(camera, lambda: "tiny is for detection now, and there are zones; start again" in caplog.text)
        camera.answer(0, shot(), JsonLinesWriter(""))
        assert camera.summary()["bundle_version"] == bundle.version


def test_a_local_bundle_is_not_replaced_by_the_brokers(bundle: Bundle, newer: Bundle) -> None:
    """Its directory holds nothing of the newer one. The catalogue tells the version of the server and nothing else."""
    agent = Agent(Settings(), [Pictures(0)], (Address("127.0.0.1", 1),), None, bundle)
    agent._receive(Message(catalogue("tiny"), newer.data, None, None, ()))
    assert agent.updater is None
    assert agent.loader.version == bundle.version != newer.version


def test_only_the_named_catalogue_is_followed(bundle: Bundle, tmp_path: Path) -> None:
    agent = Agent(Settings(catalogue="other"), [Pictures(0)], (Address("127.0.0.1", 1),), Store(tmp_path), None)
    agent._receive(Message(catalogue("tiny"), bundle.data, None, None, ()))
    assert agent.loader.version == ""
