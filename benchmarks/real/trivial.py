"""The trivial policies on a recording, and two bounds.

The rules are those of ``simulator.policies.trivial``. Each threshold is chosen on the tuning frames, and once more in
hindsight on the play frames, which no user can do. The student is the base model with its temperature fitted on the
tuning frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.real.recording import Recording
from cachenet.shared.cascade.probability import Probabilities
from cachenet.shared.cascade.reference import disagreements
from cachenet.simulator.policies import trivial
from cachenet.simulator.policies.trivial import RuleInputs, Setting, Trivial

_SURE = (*np.linspace(0.34, 0.9, 15).tolist(), *(1 - np.geomspace(0.1, 1e-6, 50)).tolist())
#: The settings of each rule.
SETTINGS: dict[Trivial, Sequence[Setting]] = {
    "hold": [{"n": n} for n in range(1, 101)],
    "difference": [{"limit": limit} for limit in np.geomspace(0.5, 5000, 60).tolist()],
    "student": [{"sure": sure} for sure in _SURE],
    "student+hold": [
        {"sure": sure, "blocks": blocks}
        for sure in (1 - np.geomspace(0.4, 1e-5, 16)).tolist()
        for blocks in (3, 5, 8, 12, 20, 40)
    ],
}


@dataclass(frozen=True, eq=False)
class Run:
    """One policy's answers to ``n`` consecutive frames.

    Attributes:
        labels: Label of each answer ``(n,)``; -1 is ``unknown``.
        asked: Frames that the full model was asked about, audits included ``(n,)`` bool.
        misses: Frames that the full model answered within the frame, without audits ``(n,)`` bool.
        level: Level of each answer, as the agent names it: ``frames``, ``base``, ``cloud`` ...
        local_ms: Work of the device for each frame, signatures and local models, milliseconds ``(n,)``.
    """

    labels: npt.NDArray[np.int64]
    asked: npt.NDArray[np.bool_]
    misses: npt.NDArray[np.bool_]
    level: list[str]
    local_ms: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Tried:
    """A policy with each of its settings on one recording of ``n`` frames.

    Attributes:
        settings: The settings ``(s)``.
        runs: The run of each setting ``(s)``.
        asked: Share of frames asked ``(s,)``.
        disagreement: Share of answers that disagree, see ``shared.cascade.reference`` ``(s,)``.
        agrees: Whether each answer is the full model's label ``(s, n)`` bool.
    """

    settings: Sequence[Setting]
    runs: Sequence[Run]
    asked: npt.NDArray[np.float64]
    disagreement: npt.NDArray[np.float64]
    agrees: npt.NDArray[np.bool_]

    @property
    def agreement(self) -> npt.NDArray[np.float64]:
        """Share of answers that are the full model's label ``(s,)``."""
        return self.agrees.mean(1)  # type: ignore[no-any-return]

    def choice(self, budget: float) -> int:
        """The setting that ``simulator.policies.trivial.cheapest`` chooses."""
        return trivial.cheapest(self.asked, self.disagreement, budget)


def run(name: Trivial, recording: Recording, inputs: RuleInputs, setting: Setting) -> Run:
    """Run a rule over a recording."""
    labels, asked, level = trivial.run(trivial.rule(name, inputs, setting), recording.labels, range(len(recording)))
    local_ms = recording.base_ms if trivial.runs_base(name) else recording.grey_ms * (name == "difference")
    return Run(labels, asked, asked, level, local_ms)


def run_all(name: Trivial, recording: Recording, probabilities: Probabilities) -> Tried:
    """Run a rule with each of its settings; ``probabilities`` are the student's ``(n, classes)``."""
    inputs = inputs_of(recording, probabilities)
    return tried(SETTINGS[name], [run(name, recording, inputs, setting) for setting in SETTINGS[name]], recording)


def inputs_of(recording: Recording, probabilities: Probabilities) -> RuleInputs:
    """Inputs of the rules: the student, grey pictures, and their blocks."""
    grey = recording.grey.reshape(len(recording), -1).astype(np.float32)
    return RuleInputs.of(probabilities, grey, recording.small)  # type: ignore[arg-type]


def tried(settings: Sequence[Setting], runs: Sequence[Run], recording: Recording) -> Tried:
    """The measures of ``runs`` with ``settings``."""
    full = recording.labels
    return Tried(
        settings,
        runs,
        asked=np.array([run.asked.mean() for run in runs]),
        disagreement=np.array([disagreements(run.labels, full).mean() for run in runs]),
        agrees=np.stack([run.labels == full for run in runs]),
    )


def server_only(recording: Recording) -> Run:
    """Ask for every frame."""
    asked = np.ones(len(recording), bool)
    return Run(recording.labels, asked, asked, ["cloud"] * len(recording), np.zeros(len(recording)))


def oracle(recording: Recording) -> Run:
    """Ask exactly where neither the last full answer nor the student's label is the full model's label. A bound, no
    policy: it knows that label."""
    full, student = recording.labels, recording.base.argmax(1)
    asked, level, last = np.zeros(len(recording), bool), [], -1
    for t, label in enumerate(full.tolist()):
        asked[t] = label not in (last, student[t])
        level.append("cloud" if asked[t] else "frames" if label == last else "base")
        last = label if asked[t] else last
    return Run(full, asked, asked, level, recording.base_ms)
