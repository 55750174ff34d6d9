"""Observers: failures neither end the run nor fill the log."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.frame_inputs import FrameInputs as Crops
from cachenet.edge_agent.frame_inputs import scorer
from cachenet.edge_agent.outputs import results
from cachenet.edge_agent.outputs.frame_worker import FrameWorker
from cachenet.edge_agent.outputs.observers import attach_observers
from cachenet.edge_agent.outputs.report import JsonLinesWriter, View
from cachenet.edge_agent.outputs.terminal import TerminalView
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.zones import Zone
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command.logs import Limited
from cachenet.shared.inference.engine import EngineError, Logits
from cachenet.shared.inference.image import Picture
from cachenet.shared.transport.mqtt import Address
from tests.bundles import INPUT, tiny_bundle
from tests.edge_agent.agents import Pictures, shot
from tests.edge_agent.frames import answered_frame, detected_frame, tracked


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the log of a command would have in it."""
    stream = io.StringIO()
    handler = Limited(logging.StreamHandler(stream))
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)
    handler.close()


def test_an_observer_that_fails_at_every_frame_is_logged_once_and_the_run_continues(
    tmp_path: Path, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise KeyError("result")

    monkeypatch.setattr(results.Results, "on_frame", fails)
    settings = Settings(results=True, broker="mqtt://127.0.0.1:1")
    agent = Agent(settings, [Pictures(200)], (Address("127.0.0.1", 1),), None, Bundle(tiny_bundle(tmp_path)))
    with attach_observers(agent):
        agent.run(JsonLinesWriter(""))
    assert agent.summary()["frames"] == 200
    assert lines.getvalue().count("results: failed for a frame") == 1


def test_a_worker_that_fails_at_every_frame_is_logged_once_and_counted(lines: io.StringIO) -> None:
    def fails(_: object) -> None:
        raise ValueError("no")

    worker = FrameWorker("saver", fails, blocks=True)
    for frame in range(500):
        worker.on_frame(answered_frame(frame))
    worker.close()
    assert worker.failed == 500
    assert lines.getvalue().count("Traceback") == 1


def test_a_model_that_fails_at_every_frame_is_logged_once(lines: io.StringIO) -> None:
    def fails(_: object) -> Logits:
        raise EngineError("it \x1b[31mfailed")

    score = scorer("base", fails, INPUT, 10)
    for _ in range(500):
        assert np.isnan(score(Crops(shot().picture))).all()
    assert lines.getvalue() == "ERROR base: it \\x1b[31mfailed\n"


def test_what_a_bundle_or_a_camera_is_called_cannot_write_on_the_terminal(tmp_path: Path) -> None:
    source = Pictures(1)
    source.losses, source.error = 1, "it says \x1b]0;gone\x07"
    agent = Agent(Settings(), [source], (), None, Bundle(tiny_bundle(tmp_path)))
    agent.run(JsonLinesWriter(""))
    picture: Picture = np.zeros((8, 8, 3), np.uint8)
    agent.cameras[0].last_answered = answered_frame(label="\x1b[2Jcat\r[red]", picture=picture)
    console = Console(width=200, file=StringIO(), force_terminal=False)
    console.print(TerminalView(agent, console)._draw())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\\x1b[2Jcat\\r[red]" in shown
    assert "it says \\x1b]0;gone\\x07" in shown
    assert "\x1b" not in shown and "\x07" not in shown


def test_the_terminal_shows_objects_in_the_picture_and_in_each_zone(tmp_path: Path) -> None:
    agent = Agent(Settings(), [Pictures(0)], (), None, Bundle(tiny_bundle(tmp_path)))
    view = View(zones=(Zone("gate", ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))),))
    for objects, expected in (([], ("nothing", "gate: nothing")), ([tracked(1, (0, 0, 0.1, 0.1))] * 2, ("2 person",))):
        agent.cameras[0].last_answered = detected_frame(objects, view=view)
        console = Console(width=200, file=StringIO(), force_terminal=False)
        console.print(TerminalView(agent, console)._draw())
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert all(text in shown for text in expected)
        assert "objects" in shown and "label" not in shown


def test_one_video_frame_shows_the_answers_of_all_zones(tmp_path: Path) -> None:
    zones = tuple(
        Zone(name, ((left, 0.0), (left + 0.5, 0.0), (left + 0.5, 1.0))) for name, left in (("a", 0.0), ("b", 0.5))
    )
    settings = Settings(zone=zones, save=str(tmp_path / "zones.mp4"), levels=("frames", "base"))
    agent = Agent(settings, [Pictures(7)], (), None, Bundle(tiny_bundle(tmp_path / "bundle")))
    with attach_observers(agent):
        agent.run(JsonLinesWriter(""))
    video = cv2.VideoCapture(str(tmp_path / "zones.mp4"))
    assert sum(1 for _ in iter(lambda: video.read()[0], False)) == 7
