"""A server of classifiers is replaced by one of detectors, on the same broker, while a device runs."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cachenet.edge_agent.cli import app
from cachenet.edge_agent.updates.store import Store
from cachenet.shared.bundle.manifest import MANIFEST, Bundle
from tests.broker import Mosquitto
from tests.bundles import tiny_bundle
from tests.detectors import detector_bundle, footage, record
from tests.e2e.agents import AgentProcess, agents
from tests.e2e.servers import ServerProcess
from tests.edge_agent.agents import install_current, install_files

__all__ = ["agents"]

#: Frames of a run, and their rate: the run outlasts all changes on a busy machine.
_FRAMES, _FPS = 900, "8"


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("frames")
    return record(directory, footage(_FRAMES))


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker of the test's own, without the catalogues of others."""
    broker = Mosquitto(tmp_path)
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def serve(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Callable[[Path], None]]:
    """Replace the server by one of another bundle."""
    running: list[ServerProcess] = []

    def start(bundle: Path) -> None:
        if running:
            running[-1].stop()
        running.append(ServerProcess(tmp_path, "--bundle", str(bundle), "--broker", mosquitto.url))
        running[-1].wait_for("connected to")

    yield start
    for server in running:
        server.close()


def renamed(bundle: Path, name: str) -> Path:
    fields = json.loads((bundle / MANIFEST).read_bytes())
    (bundle / MANIFEST).write_text(json.dumps(fields | {"name": name}))
    return Bundle(bundle).directory


def tasks(agent: AgentProcess) -> list[str]:
    """The tasks that the agent has answered in, each once for all answers in a row."""
    found: list[str] = []
    for answer in agent.answers():
        _check_schema(answer)
        task = "detection" if "objects" in answer else "classification"
        if found[-1:] != [task]:
            found.append(task)
    return found


def _check_schema(answer: dict[str, Any]) -> None:
    assert ("label" in answer) == ("objects" not in answer) == ("counts" not in answer)


def test_a_bundle_that_becomes_one_of_detectors_and_back_is_followed_by_a_running_device(
    frames: Path,
    serve: Callable[[Path], None],
    mosquitto: Mosquitto,
    tmp_path: Path,
    agents: Callable[..., AgentProcess],
) -> None:
    classifiers = renamed(tiny_bundle(tmp_path / "classifiers"), "mine")
    detectors = renamed(detector_bundle(tmp_path / "detectors"), "mine")
    serve(classifiers)
    flags = ("--set", "catalogue=mine", "--set", "results=true", "--set", "home_assistant=true", "--preview", "0")
    agent = agents(str(frames), "--fps", _FPS, "--broker", mosquitto.url, "--store", str(tmp_path / "store"), *flags)
    agent.wait_for(20)
    serve(detectors)
    agent.wait(lambda: tasks(agent) == ["classification", "detection"])
    agent.wait_for(20)
    serve(classifiers)
    agent.wait(lambda: tasks(agent) == ["classification", "detection", "classification"])
    agent.wait_for(20)
    summary, _ = agent.stop()
    assert summary["bundle_version"] == Bundle(classifiers).version
    assert summary["errors"] == 0


def test_a_bundle_of_another_name_is_offered_in_one_line_and_taken_after_a_restart(
    frames: Path,
    serve: Callable[[Path], None],
    mosquitto: Mosquitto,
    tmp_path: Path,
    agents: Callable[..., AgentProcess],
) -> None:
    """Several servers may use one broker, and it keeps the catalogues of those that have gone."""
    classifiers = renamed(tiny_bundle(tmp_path / "classifiers"), "labels")
    detectors = renamed(detector_bundle(tmp_path / "detectors"), "boxes")
    flags = (str(frames), "--broker", mosquitto.url, "--store", str(tmp_path / "store"))
    serve(classifiers)
    first = agents(*flags, "--set", "catalogue=labels")
    first.wait_for(20)
    first.stop()
    second = agents(*flags)
    second.wait_for(20)
    serve(detectors)
    second.wait(lambda: "the catalogue offers boxes too, and this device goes on with labels" in second.log())
    second.wait_for(50)
    serve(classifiers)
    serve(detectors)
    second.wait_for(20)
    second.stop()
    assert tasks(second) == ["classification"]
    assert second.log().count("offers boxes") == 1 and "--set catalogue=boxes" in second.log()
    for name, task in (("boxes", "detection"), ("labels", "classification")):
        for setting in (("--set", f"catalogue={name}"), ()):  # without the setting: the bundle used last
            agent = agents(*flags, *setting)
            agent.wait_for(20)
            agent.stop()
            assert tasks(agent) == [task]


def test_the_doctor_looks_for_the_bundle_that_the_device_runs(
    serve: Callable[[Path], None], mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Not for the first one that the catalogue offers."""
    classifiers = Bundle(renamed(tiny_bundle(tmp_path / "classifiers"), "mine"))
    serve(renamed(detector_bundle(tmp_path / "detectors"), "alone"))
    install_current(install_files(Store(tmp_path / "store"), classifiers), classifiers.data)

    def doctor(*flags: str) -> dict[str, list[str]]:
        common = ["--broker", mosquitto.url, "--store", str(tmp_path / "store"), "--device", "doctor", *flags]
        done = CliRunner().invoke(app, ["doctor", *common, "--json"])
        logging.disable(logging.NOTSET)  # the doctor, whose process ends, leaves the log switched off
        return {one["what"]: [one["grade"], one["says"]] for one in json.loads(done.stdout)["findings"]}

    found = doctor()
    assert found["catalogue"][0] == "warning"
    assert re.search(r"has no mine; it offers .*alone.*, which --set catalogue=NAME chooses", found["catalogue"][1])
    found = doctor("--set", "catalogue=alone")
    assert found["catalogue"] == ["ok", "alone, 1 label"]
    assert "the full model runs and finds" in found["server"][1]
