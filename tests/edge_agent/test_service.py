"""What systemd is told of an agent, and when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from cachenet.edge_agent.doctor import service as module
from cachenet.edge_agent.doctor.service import READY_S, ServiceReport
from cachenet.shared.command.service_manager import ServiceManager

_WATCHDOG_S = 100.0


class Service:
    """A report of an agent with two cameras, on a clock of its own, to a service manager that notes what it hears."""

    def __init__(self, watchdog_s: float = _WATCHDOG_S) -> None:
        self.now, self.fault, self.takes = 0.0, "", True
        self.sent: list[str] = []
        self.loops = [SimpleNamespace(name=name, frames=0, answering=None, failed=False) for name in ("door", "yard")]
        manager = SimpleNamespace(watchdog_s=watchdog_s, send=self._send)
        self.report = ServiceReport(
            cast(Any, SimpleNamespace(loops=self.loops)),
            lambda: self.fault,
            cast(ServiceManager, manager),
            lambda: self.now,
        )

    def _send(self, *lines: str) -> bool:
        self.sent += lines
        return self.takes

    def step(self, seconds: float = 0.0) -> list[str]:
        """What is sent after this time."""
        self.now += seconds
        self.sent.clear()
        self.report.step()
        return list(self.sent)


def test_the_agent_is_ready_once_and_with_its_first_answer() -> None:
    service = Service()
    assert "READY=1" not in service.step()
    service.loops[1].frames = 1
    assert "READY=1" in service.step(1.0)
    assert "READY=1" not in service.step(READY_S)


def test_an_agent_that_waits_for_a_camera_a_broker_or_models_is_ready_and_pings() -> None:
    """A start again would bring none of them."""
    service = Service()
    service.fault = "waiting for a model: there is no connection yet"
    assert service.step() == ["WATCHDOG=1", f"STATUS={service.fault}"]
    assert "READY=1" in service.step(READY_S)
    for _ in range(100):
        assert "WATCHDOG=1" in service.step(_WATCHDOG_S / 2)


def test_pings_come_at_half_of_the_watchdogs_time_while_frames_end() -> None:
    service, pings = Service(), 0
    for second in range(int(10 * _WATCHDOG_S)):
        service.loops[0].answering = second if second % 2 else None
        pings += "WATCHDOG=1" in service.step(1.0)
    assert pings == 20


def test_a_frame_that_does_not_end_stops_the_pings_until_it_ends() -> None:
    service = Service()
    service.loops[1].answering = 7
    service.loops[1].frames = 1
    assert "WATCHDOG=1" in service.step()
    sent = [line for _ in range(200) for line in service.step(1.0)]
    assert sent == ["STATUS=camera yard does not finish frame 7"]
    service.loops[1].answering = 8
    assert service.step(1.0) == ["WATCHDOG=1", "STATUS=answering"]


def test_a_camera_and_a_thread_that_have_ended_stop_the_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service()
    service.step(READY_S)
    service.loops[0].failed = True
    assert service.step(_WATCHDOG_S) == ["STATUS=camera door has ended by an error"]
    service.loops[0].failed = False
    monkeypatch.setattr(module, "ended_threads", lambda: ["loader"])
    assert service.step(_WATCHDOG_S) == ["STATUS=thread loader has ended"]


def test_what_the_service_manager_does_not_take_is_sent_again() -> None:
    service = Service()
    service.loops[0].frames, service.takes = 1, False
    lines = ["READY=1", "WATCHDOG=1", "STATUS=answering"]
    assert service.step() == service.step() == lines
    service.takes = True
    assert (service.step(1.0), service.step(1.0)) == (lines, [])


def test_without_a_watchdog_there_are_no_pings_and_a_status_is_sent_when_it_changes() -> None:
    service = Service(0.0)
    assert service.step() == ["STATUS=answering"]
    service.fault = "no frame for 9 s\nis the camera there?"
    assert service.step(1.0) == ["STATUS=no frame for 9 s\\nis the camera there?"]
    assert service.step(1.0) == []
