"""The benchmark of a fleet: its arithmetic, and a run of ten devices."""

from __future__ import annotations

import argparse
import math

import pytest

from benchmarks.fleet import __main__ as program
from benchmarks.fleet.records import DeviceRecord, Kill, Question, gaps, percentile

ONE, TWO = 1, 2


def device(*questions: Question, moves: tuple[tuple[float, int], ...] = ((0.0, ONE),)) -> DeviceRecord:
    return DeviceRecord(list(questions), list(moves), 0, 0, (0, 0))


def test_a_question_answered_at_once_is_no_gap() -> None:
    assert Question(1.0, 1.2, 1, 0.2).gap == 0.0
    assert Question(1.0, 2.5, 3, 0.1).gap == 1.5


def test_a_gap_counts_for_the_devices_of_the_killed_broker_alone() -> None:
    killed = device(Question(10.1, 11.0, 2, 0.1), moves=((0.0, ONE), (10.9, TWO)))
    other = device(Question(10.2, 10.7, 2, 0.1), moves=((0.0, TWO),))
    assert gaps(Kill(10.0, ONE), 20.0, [killed, other], 0.25) == (pytest.approx(0.9), pytest.approx(0.5))
    assert gaps(Kill(10.0, TWO), 20.0, [killed, other], 0.25) == (pytest.approx(0.5), pytest.approx(0.9))


def test_a_killed_server_concerns_all_devices() -> None:
    other = device(Question(10.2, 10.7, 2, 0.1), moves=((0.0, TWO),))
    assert gaps(Kill(10.0, None), 20.0, [other], 0.25) == (pytest.approx(0.5), 0.0)


def test_a_question_under_way_at_the_kill_counts_and_one_of_the_next_kill_does_not() -> None:
    both = device(Question(9.9, 10.9, 2, 0.1), Question(19.9, 25.0, 9, 0.1))
    assert gaps(Kill(10.0, ONE), 20.0, [both], 0.25) == (pytest.approx(1.0), 0.0)


def test_percentiles_are_values() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert math.isnan(percentile([], 0.5))


@pytest.mark.slow
@pytest.mark.e2e
def test_ten_devices_lose_nothing_when_a_broker_and_a_server_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_BETWEEN_S", (1.0, 2.0))
    monkeypatch.setattr(program, "_SETTLE_S", 1.0)
    measures = program.measure(
        argparse.Namespace(devices=10, shards=2, servers=2, kills=4, rate=1.0, deadline_ms=2000, quiet_s=2.0, seed=0)
    )
    assert measures["lost"] == 0
    assert math.isfinite(measures["gap_s"])
    assert {kill["what"] for kill in measures["kills"]} == {"broker", "server"}
    assert measures["questions"] > 50
    assert measures["kb_per_device"] > 0
