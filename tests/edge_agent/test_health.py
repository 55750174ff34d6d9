"""What ``/health`` says of an agent, on a clock of the test's own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.doctor.health import MIN_ANSWERS, RECENT_ANSWERS, SILENCE_LIMIT_S, FrameTiming, Health
from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.remote import POSTED
from cachenet.edge_agent.settings import CameraTable, Settings
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.types import Level
from tests.bundles import tiny_bundle
from tests.edge_agent.agents import Pictures
from tests.edge_agent.frames import answered_frame
from tests.edge_agent.links import FakeLink


class HealthSetup:
    """An agent that has answered its frames, and its health on a clock that stands still."""

    def __init__(self, directory: Path, settings: Settings | None = None, answered: bool = True) -> None:
        self.now = 1000.0
        settings = settings or Settings()
        sources = [Pictures(1) for _ in settings.each()]
        self.agent = Agent(settings, sources, (), None, Bundle(tiny_bundle(directory)))
        self.health = Health(self.agent, lambda: self.now)
        self.before = self.health()
        if answered:
            self.agent.run(JsonLinesWriter(""))
            self.on_frame()

    def on_frame(self, level: Level = "base", camera: str = "", reason: str = "") -> None:
        self.health.on_frame(answered_frame(level=level, camera=camera, reason=reason))

    def passes(self, frames: int, every: float, level: Level = "base", reason: str = "") -> None:
        for _ in range(frames):
            self.now += every
            self.on_frame(level, reason=reason)


@pytest.fixture
def setup(tmp_path: Path) -> HealthSetup:
    return HealthSetup(tmp_path)


def test_unhealthy_until_there_is_a_model(setup: HealthSetup) -> None:
    assert setup.before == "waiting for a model: it is on its way"
    assert setup.health() == ""


def test_unhealthy_within_ten_seconds_without_an_answer_and_healthy_after_the_next(
    setup: HealthSetup,
) -> None:
    setup.now += SILENCE_LIMIT_S
    assert setup.health() == ""
    setup.now += 9.9 - SILENCE_LIMIT_S
    assert setup.health() == "no frame for 10 s; is the camera there?"
    setup.on_frame()
    assert setup.health() == ""


def test_unhealthy_without_any_answered_frame(tmp_path: Path) -> None:
    setup = HealthSetup(tmp_path, answered=False)
    setup.agent.run(
        JsonLinesWriter("")
    )  # its model is loaded; its only frame is answered, and health hears nothing of it
    setup.now += 9.9
    assert "no frame for 10 s" in setup.health()


def test_unhealthy_as_soon_as_a_camera_is_lost(setup: HealthSetup) -> None:
    setup.agent.cameras[0].source.error = "it is silent"  # type: ignore[misc]
    assert setup.health() == "the camera has a fault: it is silent"


@pytest.mark.parametrize("settings", [Settings(fps=1 / 60), Settings()])
def test_a_camera_of_one_frame_a_minute_is_healthy_until_it_stops(tmp_path: Path, settings: Settings) -> None:
    setup = HealthSetup(tmp_path, settings)
    if settings.fps is None:  # its pace is not known before there are two frames
        setup.passes(1, 60.0)
    for _ in range(5):
        setup.now += 59.0
        assert setup.health() == ""
        setup.now += 1.0
        setup.on_frame()
    setup.now += 181.0
    assert "no frame for 181 s" in setup.health()


def test_an_hour_without_the_camera_does_not_make_the_next_loss_hard_to_see(setup: HealthSetup) -> None:
    setup.passes(20, 0.1)
    setup.now += 3600.0
    setup.passes(3, 0.1)
    setup.now += 9.9
    assert "no frame for 10 s" in setup.health()


@given(st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=30), st.floats(0.0, 100.0))
def test_a_camera_with_a_constant_period_is_healthy_at_any_period(gaps: list[float], period: float) -> None:
    """No camera has more time than three times its slowest gap."""
    pace = FrameTiming(0.0, period)
    now = 0.0
    for gap in [0.0, *gaps]:
        now += gap
        pace.add(now, False)
    assert pace.limit >= SILENCE_LIMIT_S
    assert pace.limit <= max(SILENCE_LIMIT_S, 3.001 * max(period, *gaps))
    if len(set(gaps)) == 1:
        assert pace.limit > gaps[0]


def test_unhealthy_after_only_fallbacks(setup: HealthSetup) -> None:
    """The first one here was answered by a model, and counts until a hundred came after it."""
    setup.passes(RECENT_ANSWERS - 1, 0.1, "fallback", "risk 0.9 over 0.1; not connected")
    assert setup.health() == ""
    setup.passes(1, 0.1, "fallback", "risk 0.9 over 0.1; not connected")
    assert setup.health() == f"the last {RECENT_ANSWERS} answers were all fallbacks"
    setup.passes(1, 0.1)
    assert setup.health() == ""


def test_of_a_start_ten_fallbacks_are_enough(tmp_path: Path) -> None:
    setup = HealthSetup(tmp_path, answered=False)
    setup.agent.run(JsonLinesWriter(""))
    setup.passes(MIN_ANSWERS - 1, 0.1, "fallback")
    assert setup.health() == ""
    setup.passes(1, 0.1, "fallback")
    assert setup.health() == f"the last {MIN_ANSWERS} answers were all fallbacks"


def test_a_frame_that_the_cloud_answers_later_is_no_fault(setup: HealthSetup) -> None:
    setup.passes(2 * RECENT_ANSWERS, 0.1, "fallback", f"risk 0.9 over 0.1; {POSTED}")
    assert setup.health() == ""


def test_each_camera_is_named_with_its_own_fault_and_age(tmp_path: Path) -> None:
    tables = (CameraTable("door", "a"), CameraTable("yard", "b"))
    setup = HealthSetup(tmp_path, Settings(camera=tables), answered=False)
    setup.agent.run(JsonLinesWriter(""))
    setup.on_frame(camera="door")
    setup.on_frame(camera="yard")
    setup.now += 5.0
    setup.on_frame(camera="yard")
    setup.now += 4.5
    assert setup.health() == "door: no frame for 10 s; is the camera there?"
    assert setup.health.ages() == {("door", ""): 9.5, ("yard", ""): 4.5}


def test_unhealthy_without_a_connection(setup: HealthSetup) -> None:
    """As when another device has its name."""
    link = FakeLink(lambda *_: True)
    setup.agent.link = link  # type: ignore[assignment]
    assert setup.health() == ""
    link.error = "another device has this name"
    assert setup.health() == "another device has this name"


def test_unhealthy_while_no_fresh_metadata_of_a_signed_bundle_arrives(setup: HealthSetup) -> None:
    signed = SimpleNamespace(stale="no fresh metadata since 2027-01-15 08:00 UTC; updates may be withheld")
    setup.agent.signed = cast(Any, signed)
    assert setup.health() == signed.stale
    signed.stale = ""
    assert setup.health() == ""
