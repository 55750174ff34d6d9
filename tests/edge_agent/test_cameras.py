"""Several cameras of one agent: what they share, and what they must not."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from rich.console import Console

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.camera import AnsweredFrame
from cachenet.edge_agent.device_cascade import build_device_cascade
from cachenet.edge_agent.doctor.health import Health
from cachenet.edge_agent.outputs.metrics import MetricsCollector
from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.outputs.terminal import TerminalView
from cachenet.edge_agent.settings import CameraTable, LevelFlag, Settings
from cachenet.edge_agent.sources import SourceFrame
from cachenet.edge_agent.updates import model_loading
from cachenet.edge_agent.updates.active_bundle import DEFAULT_SUBMODEL_BUDGET
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command import config
from cachenet.shared.inference.engine import Session
from cachenet.shared.transport.mqtt import Message, MqttConnection
from cachenet.shared.transport.protocol import Answer, Status, Timing, encode
from tests.bundles import tiny_bundle
from tests.edge_agent.agents import Pictures
from tests.edge_agent.links import FakeLink

_BOUND_S = 30.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle")))


#: Without the full model, which is loaded some time or other where nobody can be asked.
LEVELS: tuple[LevelFlag, ...] = ("frames", "submodels", "base", "cloud")


def several(*names: str, **rest: Any) -> Settings:
    rest = {"levels": LEVELS, **rest}
    return Settings(camera=tuple(CameraTable(name, f"camera:{number}") for number, name in enumerate(names)), **rest)


def until(true: Any) -> None:
    deadline = time.monotonic() + _BOUND_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Endless(Pictures):
    """Pictures until it is closed."""

    def __init__(self) -> None:
        super().__init__(0)
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[SourceFrame]:
        index = 0
        while not self._closed.wait(0.002):
            index += 1
            yield SourceFrame(np.full((48, 64, 3), index * 20 % 256, np.uint8))

    def close(self) -> None:
        self._closed.set()


class Failing(Pictures):
    def __iter__(self) -> Iterator[SourceFrame]:
        yield from super().__iter__()
        raise RuntimeError("a mistake of ours")


def test_every_answer_names_its_camera_and_each_camera_counts_for_itself(bundle: Bundle, tmp_path: Path) -> None:
    agent = Agent(several("front", "back"), [Pictures(20), Pictures(30)], (), None, bundle)
    observed: list[AnsweredFrame] = []
    agent.observers.append(observed.append)
    sink = JsonLinesWriter(str(tmp_path / "answers"))
    agent.run(sink)
    sink.close()
    answers = lines(tmp_path / "answers")
    for name, count in (("front", 20), ("back", 30)):
        assert [answer["frame"] for answer in answers if answer["camera"] == name] == list(range(count))
        assert [one.answer.frame for one in observed if one.line.camera == name] == list(range(count))
    summary = agent.summary()
    assert summary["frames"] == 50
    assert {name: own["frames"] for name, own in summary["cameras"].items()} == {"front": 20, "back": 30}


def test_answers_of_a_camera_do_not_depend_on_other_cameras(bundle: Bundle, tmp_path: Path) -> None:
    """No context, no memory of pictures and no count is shared."""
    alone = Agent(Settings(levels=LEVELS), [Pictures(40)], (), None, bundle)
    together = Agent(several("a", "b", "c"), [Pictures(40), Pictures(25), Pictures(40)], (), None, bundle)
    for agent, name in ((alone, "alone"), (together, "together")):
        sink = JsonLinesWriter(str(tmp_path / name))
        agent.run(sink)
        sink.close()

    def output(name: str, camera: str | None) -> list[tuple[Any, ...]]:
        saved = ("frame", "label", "confidence", "risk")
        return [
            tuple(answer[key] for key in saved) for answer in lines(tmp_path / name) if answer.get("camera") == camera
        ]

    assert output("together", "a") == output("together", "c") == output("alone", None)


def test_a_model_is_loaded_once_for_all_and_lives_as_long_as_any_camera_has_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    class Counted(Session):
        def __init__(self, path: Path, *rest: Any) -> None:
            super().__init__(path, *rest)
            loaded.append(path.parts[-3])

    monkeypatch.setattr(model_loading, "Session", Counted)
    agent = Agent(several("a", "b"), [Pictures(0), Pictures(0)], (), None, bundle)
    a, b = agent.cameras
    agent.loader.start()
    for camera in agent.cameras:
        camera.wait_for_bundle()
    for camera in agent.cameras:
        assert camera.cascade is not None
        camera.cascade.pending_fetch = "animals"
        until(lambda camera=camera: camera.active_bundle.maintain() or camera.active_bundle.submodels)
    assert sorted(loaded) == ["animals", "base"]
    cost = agent.loader.submodels_cost()
    assert cost > 0
    assert a.cascade is not None and b.cascade is not None
    a.cascade.evict_to(0)
    assert agent.loader.submodels_cost() == cost
    b.cascade.evict_to(0)
    assert agent.loader.submodels_cost() == 0
    a.cascade.pending_fetch = "animals"
    until(lambda: a.active_bundle.maintain() or a.active_bundle.submodels)
    assert loaded.count("animals") == 2
    agent.loader.stop()


def test_cameras_that_want_the_same_model_at_the_same_time_both_get_it(bundle: Bundle) -> None:
    agent = Agent(several("a", "b"), [Pictures(0), Pictures(0)], (), None, bundle)
    agent.loader.start()
    for camera in agent.cameras:
        camera.wait_for_bundle()
        assert camera.cascade is not None
        camera.cascade.pending_fetch = "vehicles"
    for camera in agent.cameras:
        camera.active_bundle.maintain()
    for camera in agent.cameras:
        until(lambda camera=camera: camera.active_bundle.maintain() or camera.active_bundle.submodels)
    agent.loader.stop()


@pytest.mark.parametrize("budget", ["", "2GB"])
def test_the_room_for_submodels_is_shared_out_evenly(bundle: Bundle, budget: str) -> None:
    """So that together they are never over it, and none can take another's."""

    def rooms(settings: Settings, count: int) -> list[int]:
        agent = Agent(settings, [Pictures(0) for _ in range(count)], (), None, bundle)
        agent.loader.start()
        found = []
        for camera in agent.cameras:
            camera.wait_for_bundle()
            assert camera.cascade is not None and camera.cascade.submodels is not None
            found.append(camera.cascade.submodels.max_bytes)
        agent.loader.stop()
        return found

    (alone,) = rooms(Settings(memory_budget=budget), 1)
    shares = rooms(several("a", "b", "c", memory_budget=budget), 3)
    for share in shares:
        assert share == pytest.approx(alone / 3, rel=0.02)
    if not budget:
        assert sum(shares) <= DEFAULT_SUBMODEL_BUDGET


@pytest.mark.parametrize("how", ["ends", "fails"])
def test_a_camera_that_ends_or_fails_leaves_the_others_as_they_are(
    bundle: Bundle, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    source, other = Pictures(3) if how == "ends" else Failing(3), Endless()
    agent = Agent(several("a", "b"), [source, other], (), None, bundle)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            agent.run(JsonLinesWriter(""))
        except RuntimeError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    a, b = agent.cameras
    until(lambda: source.closed)
    before = b.tally.frames
    until(lambda: b.tally.frames > before + 50)
    assert a.tally.frames == 3
    assert thread.is_alive()
    agent.stop()
    thread.join(_BOUND_S)
    assert not thread.is_alive()
    assert len(failures) == (how == "fails"), "and it is no success"
    assert ("camera a has failed; the others go on" in caplog.text) == (how == "fails")


def test_cameras_share_the_devices_topics_and_receive_only_their_own_replies(bundle: Bundle) -> None:
    """Though both ask about frames of the same numbers; the status names all that is resident."""
    full = bundle.manifest.models["full"]
    asked: list[bytes] = []
    statuses: list[Status] = []

    def published(topic: str, payload: bytes, rest: dict[str, Any]) -> bool:
        if topic.endswith("/status"):
            statuses.append(msgspec.json.decode(payload, type=Status))
        elif "/infer/" in topic:
            asked.append(rest["correlation"])
            # Each camera's questions have an answer of their own, which all cameras are given to hear.
            scores = np.zeros(10, np.float32)
            scores[3 if len({one[:8] for one in asked}) == 1 else 7] = 20.0
            answer = Answer(scores.tobytes(), full.sha256, None, Timing(0.0, 0.0, 0.0, 1))
            threading.Thread(
                target=agent._receive,
                args=(Message("cachenet/2/cam/answer", encode(answer), None, rest["correlation"], ()),),
            ).start()
        return True

    agent = Agent(
        several("a", "b", device="cam", levels=("cloud",), audit_share=0.0),
        [Pictures(0), Pictures(0)], (), None, bundle,
    )  # fmt: skip
    link = cast(MqttConnection, FakeLink(published))
    agent.link = link
    for camera in agent.cameras:
        camera._link, camera.uses_cloud = link, True
        camera.wait_for_bundle()
    a, b = agent.cameras
    for camera in (a, b):
        for index in range(5):
            camera.answer(index, SourceFrame(np.full((48, 64, 3), 50 * index, np.uint8)), JsonLinesWriter(""))
    assert a.last_answered is not None and b.last_answered is not None
    assert (a.last_answered.answer.label, b.last_answered.answer.label) == (3, 7)
    assert a.tally.cloud == b.tally.cloud == 5
    assert len({correlation[:8] for correlation in asked}) == 2
    assert len(set(asked)) == 10
    assert a.traffic[1] > 0 and agent.traffic[1] == a.traffic[1] + b.traffic[1]
    assert statuses[-1].bundle == bundle.version


def test_each_camera_draws_other_windows_to_be_audited_and_always_the_same(bundle: Bundle) -> None:
    """Or all would be sent at the same time; and a run can be repeated."""

    def draws(settings: Settings) -> list[list[float]]:
        found = []
        for own in settings.each():
            audits = build_device_cascade(own, bundle.manifest, None, True, 0).audits
            assert audits is not None
            found.append([audits._draw() for _ in range(3)])
        return found

    a, b = draws(several("a", "b"))
    assert a != b
    assert [a, b] == draws(several("a", "b"))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (Settings(source="x", camera=(CameraTable("a", "y"),)), "give source in them"),
        (Settings(decision_log="x", camera=(CameraTable("a", "y"),)), "give decision_log in them"),
        (several("a", "a"), "two cameras are called a"),
        (several("a/b"), "letters, digits"),
        (several(""), "letters, digits"),
        (
            Settings(camera=(CameraTable("a", "pipe:2x2"), CameraTable("b", "pipe:2x2"))),
            "a and b both read standard input",
        ),
    ],
)
def test_cameras_that_cannot_be_are_refused(wrong: Settings, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        wrong.each()


def test_what_a_camera_does_not_say_is_as_it_is_for_all() -> None:
    tables = (CameraTable("a", "x"), CameraTable("b", "y", region="0,0,1,0.5", fps=2.0))
    a, b = Settings(camera=tables, region="0,0,0.5,1", fps=5.0, deadline_ms=70).each()
    assert (a.source, a.region, a.fps, a.deadline_ms) == ("x", "0,0,0.5,1", 5.0, 70)
    assert (b.source, b.region, b.fps, b.deadline_ms) == ("y", "0,0,1,0.5", 2.0, 70)
    assert msgspec.json.decode(msgspec.json.encode(b), type=Settings) == b


def test_the_file_in_the_documentation_is_one(tmp_path: Path) -> None:
    found = re.search(r"```toml\n(.*?)```", Path("docs/cameras.md").read_text(), re.DOTALL)
    assert found is not None
    (tmp_path / "agent.toml").write_text(found[1])
    settings = config.load(Settings, {}, tmp_path / "agent.toml", {})
    assert [(own.name, own.fps) for own in settings.each()] == [("door", 10.0), ("yard", 2.0)]
    (tmp_path / "again.toml").write_text(config.to_toml(settings))
    assert config.load(Settings, {}, tmp_path / "again.toml", {}) == settings
    assert "[[camera]]" not in config.to_toml(Settings()), "so that tables can be added to what was printed"


def test_metrics_and_the_terminal_tell_cameras_apart(bundle: Bundle) -> None:
    sources = [Pictures(20), Pictures(30)]
    sources[1].losses, sources[1].error = 2, "it gives no more pictures"
    agent = Agent(several("front", "back"), sources, (), None, bundle)
    agent.run(JsonLinesWriter(""))
    found = {
        (sample.name, sample.labels["camera"]): sample.value
        for family in MetricsCollector(agent, Health(agent)).collect()
        for sample in family.samples
        if "camera" in sample.labels and "level" not in sample.labels
    }
    assert (found["cachenet_losses_total", "front"], found["cachenet_losses_total", "back"]) == (0, 2)
    console = Console(record=True, width=120, file=StringIO())
    console.print(TerminalView(agent, console)._draw())
    output = console.export_text()
    assert output.index("front") < output.index("back") < output.index("it gives no more pictures")
