"""Progress of a command without a terminal: a line for each stage."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cachenet.models.commands.stages import Stages


class Clock:
    """Replaces the clock of a ``Stages``."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr("cachenet.models.commands.stages._SHORTEST_S", 1.0)  # other tests print no lines of stages
    return Clock()


def stages(clock: Clock, terminal: bool = False) -> tuple[Stages, io.StringIO]:
    out = io.StringIO()
    made = Stages(Console(file=out, force_terminal=terminal))
    made.get_time = clock
    return made, out


def test_each_stage_that_takes_a_while_has_one_line_when_it_ends(clock: Clock) -> None:
    progress, out = stages(clock)
    with progress:
        for name, seconds in (("full model", 8), ("stored", 0.1), ("certificates", 3)):
            task = progress.add_task(name, total=None)
            clock.now += seconds
            progress.remove_task(task)
    assert out.getvalue().splitlines() == ["full model: done in 8 s", "certificates: done in 3 s"]


def test_a_stage_that_nobody_removes_ends_with_its_last_step(clock: Clock) -> None:
    progress, out = stages(clock)
    with progress:
        task = progress.add_task("full model", total=2)
        for _ in range(2):
            clock.now += 2
            progress.advance(task)
        progress.update(task, completed=2)
    assert out.getvalue() == "full model: done in 4 s\n"


def test_a_long_stage_has_a_line_every_minute(clock: Clock) -> None:
    progress, out = stages(clock)
    with progress:
        for name, total in (("frames", None), ("steps", 200)):
            task = progress.add_task(name, total=total)
            for done in range(130):
                clock.now += 1
                progress.update(task, completed=done)
            progress.remove_task(task)
    assert out.getvalue().splitlines() == [
        "frames: 59 after 60 s",
        "frames: 119 after 120 s",
        "frames: done in 130 s",
        "steps: 59 of 200 after 60 s",
        "steps: 119 of 200 after 120 s",
        "steps: done in 130 s",
    ]


def test_a_terminal_and_stages_that_are_hidden_have_no_lines(clock: Clock) -> None:
    for terminal, visible in ((True, True), (False, False)):
        progress, out = stages(clock, terminal)
        task = progress.add_task("frames", total=None, visible=visible)
        clock.now += 100
        progress.update(task, completed=5)
        progress.remove_task(task)
        assert "done" not in out.getvalue() and "after" not in out.getvalue()
