"""The trivial policies: decision rules of a few lines, without CacheNet.

Each rule has one or two thresholds. ``choose`` takes them in hindsight, on the compared traces, which no user can do.
So a comparison sets CacheNet against the best that a rule of this kind could reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.probability import Probabilities, softmax
from cachenet.shared.cascade.reference import disagreements
from cachenet.shared.cascade.types import LocalLevel
from cachenet.simulator.traces.trace import Trace

Trivial = Literal["hold", "difference", "student", "student+hold"]
TRIVIAL: tuple[Trivial, ...] = get_args(Trivial)
#: Thresholds of a rule by name.
Setting = Mapping[str, float]

#: Frames after which ``student+hold`` asks again.
_LONGEST_HOLD = 50
#: Frames at most that ``choose`` tries a setting on.
_MOST_FRAMES = 10_000


@dataclass(frozen=True, eq=False)
class RuleInputs:
    """What the rules read of pictures, one row a picture.

    Attributes:
        labels: Most probable label of the base model ``(rows,)``.
        confidence: Probability of that label ``(rows,)``.
        pictures: Small grey pictures, float32, which ``difference`` compares.
        blocks: Mean grey levels of the picture's blocks, float32, which ``student+hold`` compares.
    """

    labels: list[int]
    confidence: list[float]
    pictures: Sequence[npt.NDArray[np.float32]]
    blocks: Sequence[npt.NDArray[np.float32]]

    @classmethod
    def of(
        cls,
        probabilities: Probabilities,
        pictures: Sequence[npt.NDArray[np.float32]],
        blocks: Sequence[npt.NDArray[np.float32]],
    ) -> RuleInputs:
        """Inputs from the base model's ``probabilities`` ``(rows, classes)``."""
        return cls(probabilities.argmax(1).tolist(), probabilities.max(1).tolist(), pictures, blocks)


def inputs_of(trace: Trace, base: str, temperature: float) -> RuleInputs:
    """The inputs of the rules for the pictures of ``trace``; ``temperature`` is that of the model ``base``."""
    signatures = trace.pictures.signatures
    return RuleInputs.of(
        softmax(trace.pictures.logits[base], temperature),
        [one.thumbnail for one in signatures],
        [one.blocks for one in signatures],
    )


class Rule(Protocol):
    """Decides which frames are asked, and the local answers to the others."""

    def answer(self, frame: int, row: int) -> tuple[int, LocalLevel] | None:
        """Label and level of the local answer to ``frame``, whose picture is ``row``. None: ask the full model."""

    def keep(self, frame: int, row: int, label: int) -> None:
        """Take the full model's ``label`` of ``frame``."""


class Hold:
    """Ask every ``n``\\ th frame; hold the answer."""

    def __init__(self, _inputs: RuleInputs, n: float) -> None:
        self._n, self._asked, self._label = int(n), -1, -1

    def answer(self, frame: int, row: int) -> tuple[int, LocalLevel] | None:  # noqa: ARG002
        if self._label < 0 or frame - self._asked >= self._n:
            self._asked = frame
            return None
        return self._label, "frames"

    def keep(self, frame: int, row: int, label: int) -> None:  # noqa: ARG002
        self._label = label


class Difference:
    """Hold the last answer until the picture differs from the asked one by a mean square of more than ``limit``,
    squared grey levels (the difference detector of NoScope: D. Kang et al., arXiv 1703.02529, section 5.1)."""

    def __init__(self, inputs: RuleInputs, limit: float) -> None:
        self._pictures, self._limit, self._row, self._label = inputs.pictures, limit, -1, -1

    def answer(self, frame: int, row: int) -> tuple[int, LocalLevel] | None:  # noqa: ARG002
        if self._label < 0:
            return None
        change = (self._pictures[row] - self._pictures[self._row]).ravel()
        return None if float(change @ change) / len(change) > self._limit else (self._label, "frames")

    def keep(self, frame: int, row: int, label: int) -> None:  # noqa: ARG002
        self._row, self._label = row, label


class Confident:
    """Ask where the base model's confidence is under ``sure``."""

    def __init__(self, inputs: RuleInputs, sure: float) -> None:
        self._inputs, self._sure = inputs, sure

    def answer(self, frame: int, row: int) -> tuple[int, LocalLevel] | None:  # noqa: ARG002
        return None if self._inputs.confidence[row] < self._sure else (self._inputs.labels[row], "base")

    def keep(self, frame: int, row: int, label: int) -> None:
        """Hold nothing."""


class ConfidentHold(Confident):
    """Where the base model's confidence is under ``sure``, hold the last answer. Ask if a block of the picture has
    changed by more than ``blocks`` grey levels, or if the answer is ``_LONGEST_HOLD`` frames old."""

    def __init__(self, inputs: RuleInputs, sure: float, blocks: float) -> None:
        super().__init__(inputs, sure)
        self._blocks, self._asked, self._row, self._label = blocks, -1, -1, -1

    def answer(self, frame: int, row: int) -> tuple[int, LocalLevel] | None:
        if (local := super().answer(frame, row)) is not None:
            return local
        if self._asked < 0 or frame - self._asked >= _LONGEST_HOLD:
            return None
        change = np.abs(self._inputs.blocks[row] - self._inputs.blocks[self._row])
        return None if float(change.max()) > self._blocks else (self._label, "frames")

    def keep(self, frame: int, row: int, label: int) -> None:
        self._asked, self._row, self._label = frame, row, label


#: The rules by name.
_RULES: dict[Trivial, Callable[..., Rule]] = {
    "hold": Hold,
    "difference": Difference,
    "student": Confident,
    "student+hold": ConfidentHold,
}
_SURE = tuple((1 - np.geomspace(0.6, 1e-4, 24)).tolist())
#: The settings that ``choose`` tries.
_SETTINGS: dict[Trivial, Sequence[Setting]] = {
    "hold": [{"n": n} for n in (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100)],
    "difference": [{"limit": limit} for limit in np.geomspace(0.5, 5000, 20).tolist()],
    "student": [{"sure": sure} for sure in _SURE],
    "student+hold": [{"sure": sure, "blocks": blocks} for sure in _SURE[::3] for blocks in (3, 8, 20, 40)],
}


def runs_base(name: Trivial) -> bool:
    """Whether the rule runs the base model on every frame."""
    return name in ("student", "student+hold")


def rule(name: Trivial, inputs: RuleInputs, setting: Setting) -> Rule:
    """A new rule with these thresholds."""
    return _RULES[name](inputs, **setting)


def choose(name: Trivial, traces: Sequence[Trace], full: str, inputs: Sequence[RuleInputs], budget: float) -> Setting:
    """The setting that asks least over the first ``traces`` with a disagreement of at most ``budget``.

    Args:
        name: The rule.
        traces: Traces of one length.
        full: Name of the full model.
        inputs: Inputs of the rules, one for each trace.
        budget: Share of answers that may disagree.
    """
    pairs = list(zip(traces, inputs, strict=True))[: max(1, _MOST_FRAMES // max(1, len(traces[0])))]
    rates = []
    for setting in _SETTINGS[name]:
        found = []
        for trace, own in pairs:
            labels = trace.labels(full)[:_MOST_FRAMES]
            answers, asked, _ = run(rule(name, own, setting), labels, trace.rows)
            found.append((asked.mean(), disagreements(answers, labels).mean()))
        rates.append(np.mean(found, axis=0))
    asked_shares, disagreement = np.array(rates).T
    return _SETTINGS[name][cheapest(asked_shares, disagreement, budget)]


def run(
    rule: Rule, labels: npt.NDArray[np.int64], rows: Sequence[int] | npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], list[str]]:
    """Run a rule over frames whose requests are answered at once.

    Args:
        rule: A new rule.
        labels: Labels of the full model ``(n,)``.
        rows: Row of each frame's picture.

    Returns:
        Answers ``(n,)``, asked frames ``(n,)`` and the level of each answer.
    """
    answers, asked, levels = labels.copy(), np.zeros(len(labels), np.bool_), ["cloud"] * len(labels)
    for frame, (label, row) in enumerate(zip(labels.tolist(), rows, strict=False)):
        local: tuple[int, Any] | None = rule.answer(frame, row)
        if local is None:
            asked[frame] = True
            rule.keep(frame, row, label)
        else:
            answers[frame], levels[frame] = local
    return answers, asked, levels


def cheapest(asked: npt.NDArray[np.float64], disagreement: npt.NDArray[np.float64], budget: float) -> int:
    """The setting that asks least with a disagreement of at most ``budget``. Where no setting keeps the budget, the
    setting that disagrees least.

    Args:
        asked: Share of frames that each setting asks ``(s,)``.
        disagreement: Share of answers that disagree ``(s,)``.
        budget: Share of answers that may disagree.
    """
    within = disagreement <= budget
    if within.any():
        return int(min(np.flatnonzero(within), key=lambda at: (asked[at], disagreement[at])))
    return int(min(range(len(within)), key=lambda at: (disagreement[at], asked[at])))
