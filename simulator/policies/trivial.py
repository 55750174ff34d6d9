"""The trivial policies: what a few lines reach without CacheNet, one frame after the other.

Each has one or two thresholds. They are chosen in hindsight, on the very films that are compared, which no user can do:
what CacheNet is measured against is the most that a trivial policy of this kind could have reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.probability import softmax
from cachenet.shared.cascade.reference import disagreements
from cachenet.shared.cascade.types import LocalLevel
from cachenet.simulator.traces.trace import Trace

Trivial = Literal["hold", "difference", "student", "student+hold"]
TRIVIAL: tuple[Trivial, ...] = get_args(Trivial)
#: Thresholds of a policy by name.
Setting = Mapping[str, float]

#: Frames after which ``student+hold`` asks again.
_LONGEST_HOLD = 50
#: Frames that thresholds are chosen on, at most.
_MOST_FRAMES = 10_000


class Student:
    """The base model on every picture of a film, run beforehand.

    Attributes:
        labels: Its most probable label ``(rows,)``.
        tops: The probability of that label ``(rows,)``.
    """

    def __init__(self, film: Trace, base: str, temperature: float) -> None:
        probabilities = softmax(film.pictures.logits[base], temperature)
        self.labels: list[int] = probabilities.argmax(1).tolist()
        self.tops: list[float] = probabilities.max(1).tolist()


class Rule(Protocol):
    """Which frames are asked, and what is answered to the others.

    Attributes:
        runs_base: Whether the base model runs on every frame.
    """

    runs_base: bool

    def answer(self, frame: Frame) -> tuple[int, LocalLevel] | None:
        """Label and level of the local answer; None: the full model is asked."""

    def keep(self, frame: Frame, label: int) -> None:
        """The full model has answered ``label`` to ``frame``."""


class Hold:
    """Ask about every ``n``\\ th frame; hold the answer."""

    runs_base = False

    def __init__(self, _student: Student, n: float) -> None:
        self._n, self._asked, self._label = int(n), -1, -1

    def answer(self, frame: Frame) -> tuple[int, LocalLevel] | None:
        if self._label < 0 or frame.index - self._asked >= self._n:
            self._asked = frame.index
            return None
        return self._label, "frames"

    def keep(self, frame: Frame, label: int) -> None:  # noqa: ARG002
        self._label = label


class Difference:
    """Hold the last answer until the picture differs from the asked one by a mean square of more than ``limit``,
    squared grey levels (the difference detector of NoScope: D. Kang et al., arXiv 1703.02529, section 5.1)."""

    runs_base = False

    def __init__(self, _student: Student, limit: float) -> None:
        self._limit, self._last = limit, (np.zeros(0, np.float32), -1)

    def answer(self, frame: Frame) -> tuple[int, LocalLevel] | None:
        before, label = self._last
        if label < 0:
            return None
        change = (frame.signature.thumbnail - before).ravel()
        return None if float(change @ change) / len(change) > self._limit else (label, "frames")

    def keep(self, frame: Frame, label: int) -> None:
        self._last = frame.signature.thumbnail, label


class Confident:
    """Ask where the student's top probability is under ``sure``."""

    runs_base = True

    def __init__(self, student: Student, sure: float) -> None:
        self._student, self._sure = student, sure

    def answer(self, frame: Frame) -> tuple[int, LocalLevel] | None:
        row: int = frame.view
        return None if self._student.tops[row] < self._sure else (self._student.labels[row], "base")

    def keep(self, frame: Frame, label: int) -> None:
        """Nothing is held."""


class ConfidentHold(Confident):
    """Where the student's top probability is under ``sure``, hold the last answer. Ask if one of the picture's blocks
    has since changed by more than ``blocks`` grey levels, or if the answer is ``_LONGEST_HOLD`` frames old."""

    def __init__(self, student: Student, sure: float, blocks: float) -> None:
        super().__init__(student, sure)
        self._blocks, self._last = blocks, (-1, np.zeros(0, np.float32), -1)

    def answer(self, frame: Frame) -> tuple[int, LocalLevel] | None:
        if (own := super().answer(frame)) is not None:
            return own
        asked, before, label = self._last
        if asked < 0 or frame.index - asked >= _LONGEST_HOLD:
            return None
        changed = float(np.abs(frame.signature.blocks - before).max()) > self._blocks
        return None if changed else (label, "frames")

    def keep(self, frame: Frame, label: int) -> None:
        self._last = frame.index, frame.signature.blocks, label


_SURE = tuple((1 - np.geomspace(0.6, 1e-4, 24)).tolist())
#: The rules, and the settings that are tried.
_RULES: dict[Trivial, tuple[type[Hold | Difference | Confident | ConfidentHold], Sequence[Setting]]] = {
    "hold": (Hold, [{"n": n} for n in (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100)]),
    "difference": (Difference, [{"limit": limit} for limit in np.geomspace(0.5, 5000, 20).tolist()]),
    "student": (Confident, [{"sure": sure} for sure in _SURE]),
    "student+hold": (
        ConfidentHold,
        [{"sure": sure, "blocks": blocks} for sure in _SURE[::3] for blocks in (3, 8, 20, 40)],
    ),
}


def rule(name: Trivial, student: Student, setting: Setting) -> Rule:
    """A new rule with these thresholds."""
    return _RULES[name][0](student, **setting)


def choose(name: Trivial, films: Sequence[Trace], full: str, base: str, temperature: float, budget: float) -> Setting:
    """The setting of a policy that asks least over the first of ``films`` with a disagreement of at most ``budget``.

    Args:
        full, base: Names of the models.
        temperature: Of the base model.
    """
    shown, students = [], []
    for film in films[: max(1, _MOST_FRAMES // max(1, len(films[0])))]:
        shown.append(film)
        students.append(Student(film, base, temperature))
    settings = _RULES[name][1]
    asked, disagreement = np.zeros(len(settings)), np.zeros(len(settings))
    for at, setting in enumerate(settings):
        runs = [_run(film, full, rule(name, one, setting)) for film, one in zip(shown, students, strict=True)]
        asked[at], disagreement[at] = np.mean(runs, axis=0)
    return settings[cheapest(asked, disagreement, budget)]


def cheapest(asked: npt.NDArray[np.float64], disagreement: npt.NDArray[np.float64], budget: float) -> int:
    """The setting that asks least with a disagreement of at most ``budget``; where none has, that of the least
    disagreement.

    Args:
        asked: Share of frames asked by each setting ``(s,)``.
        disagreement: Share of answers that disagree ``(s,)``.
    """
    within = disagreement <= budget
    if within.any():
        return int(min(np.flatnonzero(within), key=lambda at: (asked[at], disagreement[at])))
    return int(min(range(len(within)), key=lambda at: (disagreement[at], asked[at])))


def _run(film: Trace, full: str, own: Rule) -> tuple[float, float]:
    """Share asked and disagreement over at most ``_MOST_FRAMES`` frames, with answers that come at once."""
    labels = film.labels(full)[:_MOST_FRAMES]
    answers, asked = labels.copy(), 0
    for index in range(len(labels)):
        frame = film.frame(index)
        local = own.answer(frame)
        if local is None:
            asked += 1
            own.keep(frame, int(labels[index]))
        else:
            answers[index] = local[0]
    return asked / len(labels), float(disagreements(answers, labels).mean())
