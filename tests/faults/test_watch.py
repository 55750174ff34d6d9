"""The watch finds each broken invariant, and finds none in a run that only suffers its faults."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.soak import readings
from tests.faults.watch import RECOVERY_S, SILENCE_S, Answer, Watch, later, share_and_interval

_window = st.integers(1, 100).flatmap(lambda all_: st.tuples(st.integers(0, all_), st.just(all_)))
windows = st.lists(_window, min_size=2, max_size=6)


def running(frames: int = 10) -> Watch:
    """The watch of an agent that has answered ten frames a second since its start at 0 s."""
    watch = Watch("cam", deadline_ms=250)
    watch.started(0.0)
    answer(watch, 0.0, frames)
    return watch


def answer(watch: Watch, at: float, frames: int, first: int = 0, latency_ms: float = 5.0, level: str = "cloud") -> None:
    for number in range(frames):
        watch.answered(Answer(at + (number + 1) / 10, first + number, level, latency_ms))


def summary(answers: int, **changes: Any) -> dict[str, Any]:
    return {
        **{"frames": answers, "hits": {"base": 0}, "full": 0, "cloud": answers, "fallbacks": 0, "errors": 0},
        **{"audited": 3, "audits": {"judged": 2}},
        **changes,
    }


def test_a_quiet_run_breaks_no_invariant() -> None:
    watch = running()
    watch.tick(1.0 + SILENCE_S)
    watch.metrics(1.0, 10, {"levels": 11.0, "errors": 0.0, "threads": 0.0})
    watch.killed()
    watch.exited(2.0, 0)
    watch.summarised(2.0, summary(10))
    assert not watch.violations
    assert (watch.answers, watch.cloud) == (10, 10)


def test_silence_is_a_violation_once() -> None:
    watch = running()
    for late in (0.1, 0.2, 5.0):
        watch.tick(1.0 + SILENCE_S + late)
    assert len(watch.violations) == 1 and "no answer for" in watch.violations[0]


@pytest.mark.parametrize("kind", ["kill", "freeze", "camera_gone", "read_only", "corrupt"])
def test_a_fault_that_stops_answers_may_do_so_until_its_end_and_some_time_to_recover(kind: str) -> None:
    watch = running()
    watch.fault(kind, 1.0)
    watch.tick(100.0)
    watch.fault_ended(kind, 101.0)
    watch.tick(101.0 + RECOVERY_S)
    assert not watch.violations
    watch.tick(101.1 + RECOVERY_S)
    assert len(watch.violations) == 1


@pytest.mark.parametrize("kind", ["partition", "half_open", "slow", "duplicate", "reorder", "clock_step", "disk_full"])
def test_a_fault_of_network_clock_or_full_disk_may_not_stop_answers(kind: str) -> None:
    watch = running()
    watch.fault(kind, 1.0)
    watch.tick(1.1 + SILENCE_S)
    watch.fault_ended(kind, 30.0)
    assert len(watch.violations) == 1


@pytest.mark.parametrize(("frame", "right"), [(10, True), (11, False), (9, False), (0, False)])
def test_each_frame_has_one_answer_in_order(frame: int, right: bool) -> None:
    watch = running()
    answer(watch, 1.0, 1, first=frame)
    assert (not watch.violations) == right


def test_a_new_process_counts_from_0() -> None:
    watch = running()
    watch.killed()
    watch.started(3.0)
    answer(watch, 5.0, 2)
    assert not watch.violations and watch.frames == 2


def test_an_unknown_level_an_exit_and_a_traceback_are_violations() -> None:
    watch = running()
    answer(watch, 1.0, 1, first=10, level="oracle")
    watch.logged(1.5, "Traceback (most recent call last):")
    watch.logged(1.5, "WARNING connection lost")
    watch.exited(2.0, 1)
    watch.exited(2.1, 1)
    assert [line.split(": ")[1].split(" ")[0] for line in watch.violations] == ["unknown", "a", "the"]


@pytest.mark.parametrize(
    "changes",
    [{"cloud": 9}, {"frames": 11}, {"hits": {"base": 1}}, {"errors": 1}, {"audits": {"judged": 4}}],
)
def test_a_summary_that_does_not_add_up_is_a_violation(changes: dict[str, Any]) -> None:
    watch = running()
    watch.summarised(2.0, summary(10, **changes))
    assert len(watch.violations) == 1


@pytest.mark.parametrize("name", ["levels", "errors", "threads"])
def test_metrics_that_lack_answers_or_count_failures_are_violations(name: str) -> None:
    watch = running()
    values = {"levels": 10.0, "errors": 0.0, "threads": 0.0}
    watch.metrics(1.0, 10, {**values, name: 9.0})
    assert len(watch.violations) == 1


def test_metrics_are_summed_over_levels_and_threads() -> None:
    text = """# HELP cachenet_frames_total Frames.
cachenet_frames_total{camera="",level="base",zone=""} 3.0
cachenet_frames_total{camera="",level="cloud",zone=""} 4.0
cachenet_frame_errors_total{camera="",zone=""} 1.0
cachenet_thread_failures_total{thread="loader"} 2.0
"""
    assert readings(text) == {"levels": 7.0, "errors": 1.0, "threads": 2.0}


def test_frames_after_deadline_and_margin_are_late_unless_the_process_was_frozen() -> None:
    watch = running()
    answer(watch, 1.0, 1, first=10, latency_ms=299.0)
    answer(watch, 1.5, 1, first=11, latency_ms=301.0)
    watch.fault("freeze", 3.0)
    watch.fault_ended("freeze", 5.0)
    answer(watch, 5.0, 1, first=12, latency_ms=2100.0)
    answer(watch, 9.0, 1, first=13, latency_ms=400.0)
    assert [sum(column) for column in zip(*watch.windows.values(), strict=True)] == [2, 13]


@given(windows)
def test_the_share_is_that_of_all_frames_with_no_negative_error(counts: list[tuple[int, int]]) -> None:
    share, error = share_and_interval(counts)
    assert share == pytest.approx(sum(late for late, _ in counts) / sum(all_ for _, all_ in counts))
    assert error >= 0


@given(windows, windows)
def test_the_difference_is_in_its_interval_and_changes_sign_with_its_order(
    one: list[tuple[int, int]], other: list[tuple[int, int]]
) -> None:
    difference, low, high = later(one, other)
    assert low <= difference <= high
    assert later(other, one) == pytest.approx((-difference, -high, -low))


def test_bursts_of_late_frames_have_a_wider_interval_than_scattered_ones() -> None:
    scattered, burst = [(1, 100)] * 10, [(10, 100)] + [(0, 100)] * 9
    assert share_and_interval(scattered)[1] < share_and_interval(burst)[1]
    assert later([(50, 100)] * 10, [(0, 100)] * 10)[1] > 0
