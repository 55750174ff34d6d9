"""The trivial policies: what a few lines reach without CacheNet, and two bounds.

The first four have thresholds. A threshold is chosen on the tuning frames, and once more in hindsight on the play
frames, which no user can do. The student is the base model with its temperature fitted on the tuning frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.real.recording import Recording
from benchmarks.real.run import Run
from cachenet.shared.cascade.probability import Probabilities
from cachenet.shared.cascade.reference import disagreements
from cachenet.simulator.policies.trivial import cheapest

Setting = Mapping[str, float]
#: Takes a recording, the student's probabilities ``(n, classes)`` and a setting.
Policy = Callable[..., Run]

#: Longest hold of ``student_hold``, frames.
_AGE = 50


def hold(recording: Recording, _probabilities: Probabilities, n: float) -> Run:
    """Ask for every ``n``\\ th frame; hold the answer."""
    asked = np.arange(len(recording)) % int(n) == 0
    return _held(recording, asked, np.zeros(len(recording)))


def difference(recording: Recording, _probabilities: Probabilities, limit: float) -> Run:
    """Hold the last answer until the grey picture differs from the asked frame's by a mean square of more than
    ``limit``, grey levels squared."""
    grey = recording.grey.reshape(len(recording), -1).astype(np.float32)
    asked, at = np.zeros(len(recording), bool), 0
    for t in range(len(recording)):
        change = grey[t] - grey[at]
        if t == 0 or float(change @ change) / len(change) > limit:
            asked[t], at = True, t
    return _held(recording, asked, recording.grey_ms)


def student(recording: Recording, probabilities: Probabilities, sure: float) -> Run:
    """Ask where the student's top probability is under ``sure``."""
    asked = probabilities.max(1) < sure
    labels = np.where(asked, recording.labels, probabilities.argmax(1))
    return _made(labels, asked, "base", recording.base_ms)


def student_hold(recording: Recording, probabilities: Probabilities, sure: float, blocks: float) -> Run:
    """Where the student's top probability is under ``sure``, hold the last answer. Ask if one of 12x12 blocks has since
    changed by more than ``blocks`` grey levels, or if the answer is ``_AGE`` frames old."""
    small, full, own, top = recording.small, recording.labels, probabilities.argmax(1), probabilities.max(1)
    labels, asked, level, at = own.copy(), np.zeros(len(recording), bool), ["base"] * len(recording), -1
    for t in np.flatnonzero(top < sure).tolist():
        if at < 0 or t - at >= _AGE or float(np.abs(small[t] - small[at]).max()) > blocks:
            asked[t], at = True, t
        labels[t], level[t] = full[at], "cloud" if asked[t] else "frames"
    return Run(labels, asked, asked, level, recording.base_ms)


def server_only(recording: Recording) -> Run:
    """Ask for every frame."""
    return _held(recording, np.ones(len(recording), bool), np.zeros(len(recording)))


def oracle(recording: Recording) -> Run:
    """Ask exactly where neither the last full answer nor the student's label is the full model's answer. It knows that
    answer: a bound, no policy."""
    full, own = recording.labels, recording.base.argmax(1)
    asked, level, last = np.zeros(len(recording), bool), [], -1
    for t, label in enumerate(full.tolist()):
        asked[t] = label not in (last, own[t])
        level.append("cloud" if asked[t] else "frames" if label == last else "base")
        last = label if asked[t] else last
    return Run(full, asked, asked, level, recording.base_ms)


def _held(recording: Recording, asked: npt.NDArray[np.bool_], local_ms: npt.NDArray[np.float64]) -> Run:
    """Answers of the last asked frame; the first frame is asked."""
    last = np.maximum.accumulate(np.where(asked, np.arange(len(asked)), 0))
    return _made(recording.labels[last], asked, "frames", local_ms)


def _made(
    labels: npt.NDArray[np.int64],
    asked: npt.NDArray[np.bool_],
    local: str,
    local_ms: npt.NDArray[np.float64],
) -> Run:
    return Run(labels, asked, asked, ["cloud" if one else local for one in asked.tolist()], local_ms)


_SURE = (*np.linspace(0.34, 0.9, 15).tolist(), *(1 - np.geomspace(0.1, 1e-6, 50)).tolist())
#: The policies that have thresholds, and the settings that are tried.
POLICIES: dict[str, tuple[Policy, Sequence[Setting]]] = {
    "hold": (hold, [{"n": n} for n in range(1, 101)]),
    "difference": (difference, [{"limit": limit} for limit in np.geomspace(0.5, 5000, 60).tolist()]),
    "student": (student, [{"sure": sure} for sure in _SURE]),
    "student+hold": (
        student_hold,
        [
            {"sure": sure, "blocks": blocks}
            for sure in (1 - np.geomspace(0.4, 1e-5, 16)).tolist()
            for blocks in (3, 5, 8, 12, 20, 40)
        ],
    ),
}


@dataclass(frozen=True, eq=False)
class Tried:
    """A policy with each of its settings on one recording of ``n`` frames.

    Attributes:
        settings: The settings ``(s)``.
        runs: The run of each setting ``(s)``.
        asked: Share of frames asked ``(s,)``.
        disagreement: Share of answers that disagree, see ``shared.cascade.reference`` ``(s,)``.
        agrees: Whether each answer is the full model's bare answer ``(s, n)`` bool.
    """

    settings: Sequence[Setting]
    runs: Sequence[Run]
    asked: npt.NDArray[np.float64]
    disagreement: npt.NDArray[np.float64]
    agrees: npt.NDArray[np.bool_]

    @property
    def agreement(self) -> npt.NDArray[np.float64]:
        """Share of answers that are the full model's bare answer ``(s,)``."""
        return self.agrees.mean(1)  # type: ignore[no-any-return]

    def choice(self, budget: float) -> int:
        """The setting that asks least with a disagreement of at most ``budget``; where none has, that of the least
        disagreement."""
        return cheapest(self.asked, self.disagreement, budget)


def attempt(name: str, recording: Recording, probabilities: Probabilities) -> Tried:
    """Run a policy of ``POLICIES`` with each of its settings."""
    policy, settings = POLICIES[name]
    return tried(settings, [policy(recording, probabilities, **setting) for setting in settings], recording)


def tried(settings: Sequence[Setting], runs: Sequence[Run], recording: Recording) -> Tried:
    """What ``runs`` with ``settings`` on ``recording`` reach."""
    full = recording.labels
    return Tried(
        settings,
        runs,
        asked=np.array([run.asked.mean() for run in runs]),
        disagreement=np.array([disagreements(run.labels, full).mean() for run in runs]),
        agrees=np.stack([run.labels == full for run in runs]),
    )
