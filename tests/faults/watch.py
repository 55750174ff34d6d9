"""The invariants of an agent under faults. Pure: it is told what happens, at what time, and lists violations.

- No crash: the process ends only by an injected kill, and its log has no traceback.
- No deadlock: answers go on, within a bound after each fault that stops them.
- Every frame has one answer, in order, of a known level; ``hits + full + cloud + fallbacks = frames``, in ``/metrics``
  all along and in the summary.
- No audit is counted twice, and no thread fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

from cachenet.shared.cascade.types import Level
from tests.faults.schedule import LINK

#: Longest time without an answer while no fault stops the agent, and after the end of one that does, seconds. An agent
#: starts in 2 s on an idle machine; a camera is opened again after 3 s at most.
SILENCE_S, RECOVERY_S = 15.0, 45.0
#: Time after its deadline at which an answer counts as late, milliseconds.
LATE_MS = 50.0
#: Longest time until the harness reads an answer, seconds.
_OBSERVED_S = 0.5
#: Length of a window of frames, seconds: late frames come in bursts, so windows are compared and not frames.
WINDOW_S = 10.0
#: Kinds that do not stop an agent's answers, whatever they hit.
_HARMLESS = {*LINK, "clock_step", "disk_full"}
_LEVELS = frozenset(level for part in get_args(Level) for level in get_args(part))


class Answer(NamedTuple):
    """One line of the agent's output, and the time at which the harness read it, seconds."""

    at: float
    frame: int
    level: str
    latency_ms: float


@dataclass
class Watch:
    """Checks one agent.

    Attributes:
        deadline_ms: Deadline of a frame.
        violations: What was wrong, one line each.
        windows: Number of late frames and of all frames, by window.
    """

    name: str
    deadline_ms: float
    violations: list[str] = field(default_factory=list)
    windows: dict[int, list[int]] = field(default_factory=dict)
    answers: int = 0
    cloud: int = 0
    _running: bool = False
    _next: int = 0
    _levels: Counter[str] = field(default_factory=Counter)
    _alive_at: float = 0.0  # time from which silence counts
    _bound_s: float = RECOVERY_S
    _silent: bool = False
    _stopping: dict[str, int] = field(default_factory=dict)  # faults under way that stop answers
    _frozen: list[list[float]] = field(default_factory=list)  # start and end of freezes of the process

    def started(self, at: float) -> None:
        """The process was started: frames count from 0."""
        self._running, self._next, self._levels = True, 0, Counter()
        self._recovering(at)

    def killed(self) -> None:
        """The process was ended by the harness."""
        self._running = False

    def fault(self, kind: str, at: float) -> None:
        """A fault of this agent begins."""
        if kind not in _HARMLESS:
            self._stopping[kind] = self._stopping.get(kind, 0) + 1
        if kind == "freeze":
            self._frozen.append([at, float("inf")])

    def fault_ended(self, kind: str, at: float) -> None:
        """A fault of this agent ends."""
        if kind not in _HARMLESS:
            self._stopping[kind] -= 1
            self._recovering(at)
        if kind == "freeze":
            self._frozen[-1][1] = at

    def answered(self, answer: Answer) -> None:
        """A line of the output."""
        if answer.frame != self._next:
            self._wrong(answer.at, f"answer to frame {answer.frame} after {self._next - 1}")
        if answer.level not in _LEVELS:
            self._wrong(answer.at, f"unknown level {answer.level!r}")
        self._next = answer.frame + 1
        self._levels[answer.level] += 1
        self.answers += 1
        self.cloud += answer.level == "cloud"
        self._alive_at, self._bound_s, self._silent = max(self._alive_at, answer.at), SILENCE_S, False
        begun = answer.at - answer.latency_ms / 1000 - _OBSERVED_S
        if not any(start <= answer.at and begun <= end for start, end in self._frozen):
            window = self.windows.setdefault(int(answer.at // WINDOW_S), [0, 0])
            window[0] += answer.latency_ms > self.deadline_ms + LATE_MS
            window[1] += 1

    def tick(self, at: float) -> None:
        """Time passes."""
        if not self._running or any(self._stopping.values()):
            return
        if at - self._alive_at > self._bound_s and not self._silent:
            self._silent = True  # one violation for one silence
            self._wrong(at, f"no answer for {at - self._alive_at:.0f} s")

    def exited(self, at: float, code: int) -> None:
        """The process has ended by itself."""
        if self._running:
            self._wrong(at, f"the process ended by itself with exit code {code}")
        self._running = False

    def logged(self, at: float, text: str) -> None:
        """New text in the log."""
        if "Traceback" in text:
            self._wrong(at, "a traceback in the log")

    def metrics(self, at: float, before: int, values: Mapping[str, float]) -> None:
        """A reading of ``/metrics``: ``levels`` (answers of all levels), ``errors`` (of frames) and ``threads``
        (failures). ``before``: answers of this process before the reading."""
        if values["levels"] < before:
            self._wrong(at, f"/metrics counts {values['levels']:.0f} answers, and there were {before}")
        for name in ("errors", "threads"):
            if values[name]:
                self._wrong(at, f"/metrics counts {values[name]:.0f} {name} that failed")

    @property
    def frames(self) -> int:
        """Answers of this process so far."""
        return self._next

    def restart_windows(self) -> None:
        """Count late frames from now on. Before the first fault all processes start at once."""
        self.windows.clear()

    def summarised(self, at: float, summary: Mapping[str, Any]) -> None:
        """The summary of a process that was ended properly."""
        sums = sum(summary["hits"].values()) + summary["full"] + summary["cloud"] + summary["fallbacks"]
        if not sums == summary["frames"] == self._next:
            self._wrong(at, f"{sums} answers by level, {summary['frames']} frames, {self._next} lines")
        if summary["errors"]:
            self._wrong(at, f"{summary['errors']} frames without an answer")
        audits = summary["audits"]
        if audits is not None and audits["judged"] > summary["audited"]:
            self._wrong(at, f"{audits['judged']} audits judged, {summary['audited']} sent")

    def _recovering(self, at: float) -> None:
        self._alive_at, self._bound_s, self._silent = max(self._alive_at, at), RECOVERY_S, False

    def _wrong(self, at: float, what: str) -> None:
        self.violations.append(f"{self.name} at {at:.1f} s: {what}")


def share_and_interval(windows: Iterable[tuple[int, int]]) -> tuple[float, float]:
    """Share of late frames, and the standard error of the share over windows (a ratio estimate).

    Args:
        windows: Number of late frames and of all frames of each window.
    """
    late, all_ = zip(*windows, strict=True)
    share, count = sum(late) / sum(all_), len(late)
    if count < 2:
        return share, float("inf")
    squares = sum((own - share * frames) ** 2 for own, frames in zip(late, all_, strict=True))
    return share, (count / (count - 1) * squares) ** 0.5 / sum(all_)


def later(faulty: Iterable[tuple[int, int]], control: Iterable[tuple[int, int]]) -> tuple[float, float, float]:
    """Share of late frames under faults less the share without, and its 95 % interval. Arguments as above."""
    own, own_error = share_and_interval(faulty)
    other, other_error = share_and_interval(control)
    half = 1.96 * (own_error**2 + other_error**2) ** 0.5
    return own - other, own - other - half, own - other + half
