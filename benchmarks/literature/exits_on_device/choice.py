"""The choice of stages and thresholds for each policy, and what a policy does with frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt

from benchmarks.literature.exits_on_device.cases import Case
from benchmarks.literature.exits_on_device.stages import Stage
from cachenet.models.exits.select import ExitChoice, expected, thresholds

#: Prices of a wrong answer, in decisions that ask: finer steps than those of ``models.exits.select``.
_PRICES = np.geomspace(3000, 0.5, 160).tolist()
#: Most exits in front of the base model.
_MOST = 2
PartName = Literal["tune", "test"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Times:
    """Seconds until each place in the order of running, of each stage's own model, and of a question."""

    reached: Sequence[float]
    lookups: Sequence[float]
    ask: float


@dataclass(frozen=True)
class Chosen:
    """Stages in order, and thresholds on their risks."""

    stages: tuple[Stage, ...]
    limits: tuple[float, ...]


@dataclass(frozen=True)
class Outcome:
    """What a policy did with ``n`` frames.

    Attributes:
        answered: Number of the stage that answered, the number of stages for a question ``(n,)``.
        false: Whether a local answer is not the full model's ``(n,)``.
        stages: Number of stages.
    """

    answered: npt.NDArray[np.int64]
    false: npt.NDArray[np.bool_]
    stages: int

    @property
    def local(self) -> npt.NDArray[np.bool_]:
        """Frames that were not asked about ``(n,)``."""
        return self.answered < self.stages

    def device(self, ends: Sequence[float]) -> Floats:
        """Time of local models for each frame ``(n,)``; ``ends``: seconds until the end of each stage."""
        return np.array([*ends, ends[-1]])[self.answered]


def subsets(all_stages: Sequence[Stage]) -> dict[str, list[tuple[Stage, ...]]]:
    """Sets of stages by policy. ``hi``: the base model, as it is. ``ee-hi``: exits, with or without the base model's
    own answer. ``exit-only``: one exit. ``small``: the smaller model alone. ``small+base``: both models."""
    small, *exits, base = all_stages
    pairs = [pair for count in range(1, _MOST + 1) for pair in combinations(exits, count)]
    return {
        "hi": [(base,)],
        "ee-hi": [(base,), *pairs, *((*pair, base) for pair in pairs)],
        "exit-only": [(one,) for one in exits],
        "small": [(small,)],
        "small+base": [(base,), (small, base)],
    }


def choose(
    sets: Sequence[tuple[Stage, ...]], case: Case, times: Times, limit: float, part: PartName = "tune"
) -> Chosen:
    """The stages and thresholds of least expected time of a decision, with at most ``limit`` false hits on a part.

    Without any allowed threshold, nothing is answered locally.
    """
    best, least = Chosen(sets[0], (-1.0,) * len(sets[0])), np.inf
    for stages in sets:
        choices = _choices(stages, case, times, part)
        whole = times.reached[stages[-1].site] + times.ask
        for price in _PRICES:
            limits = thresholds(choices, times.reached, whole, price)
            seconds, false = expected(choices, limits, times.reached, whole)
            if false <= limit and seconds < least:
                best, least = Chosen(stages, limits), seconds
    return best


def _choices(stages: Sequence[Stage], case: Case, times: Times, part: PartName) -> list[ExitChoice]:
    """The answers of the stages to a part, calibrated on ``tune``."""
    frames = case.tune if part == "tune" else case.test
    return [
        stage.choice(frames, stage.tune if part == "tune" else stage.test, case.tune, times.lookups[stage.site])
        for stage in stages
    ]


def play(chosen: Chosen, case: Case, times: Times) -> Outcome:
    """The chosen policy on the test frames."""
    choices = _choices(chosen.stages, case, times, "test")
    answered = np.full(len(case.test), len(choices))
    false = np.zeros(len(case.test), np.bool_)
    for number, (one, limit) in reversed(list(enumerate(zip(choices, chosen.limits, strict=True)))):
        hit = one.risk <= limit
        answered[hit], false[hit] = number, one.wrong[hit]
    return Outcome(answered, false, len(choices))


def ends(chosen: Chosen, times: Times) -> list[float]:
    """Seconds until the end of each stage, from estimated times."""
    spent = np.cumsum([times.lookups[stage.site] for stage in chosen.stages])
    return [times.reached[stage.site] + float(own) for stage, own in zip(chosen.stages, spent, strict=True)]
