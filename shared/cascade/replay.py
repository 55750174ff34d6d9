"""Run a cascade over recorded model outputs: to fit priors, to certify bundles and to measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.features import Stage
from cachenet.shared.cascade.frame import Frame, Signature
from cachenet.shared.cascade.probability import softmax
from cachenet.shared.cascade.risk_estimator import Outcomes, RiskEstimator, priors_of
from cachenet.shared.cascade.risk_model import RiskPrior
from cachenet.shared.cascade.types import Level, Miss, Reply, Scores

#: Shares of frames that the full model answers, in the passes that fit priors: from a calm to a busy stream.
_ASKED_SHARES = (0.05, 0.15, 0.5)
#: Passes over each trace with each share.
_PASSES = 2


@dataclass(frozen=True, eq=False)
class ModelTrace:
    """Recorded model outputs of consecutive frames.

    Attributes:
        full: Logits of the full model ``(n, classes)`` float32.
        base: Logits of the base model ``(n, classes)`` float32.
        signatures: Signature of each frame.
        submodels: Logits of each submodel ``(n, classes)`` float32, by name.
    """

    full: npt.NDArray[np.float32]
    base: npt.NDArray[np.float32]
    signatures: Sequence[Signature]
    submodels: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.full)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The full model's labels ``(n,)``."""
        return np.asarray(self.full.argmax(1), np.int64)

    def frame(self, index: int) -> Frame:
        """Frame ``index``; its view is its index, which ``RecordedScores`` takes."""
        return Frame(index, index, self.signatures[index])

    def blocks(self, length: int, gap: int) -> list[ModelTrace]:
        """Disjoint parts of ``length`` frames, with ``gap`` frames between them."""
        return [self.part(first, first + length) for first in range(0, len(self) - length + 1, length + gap)]

    def part(self, first: int, end: int) -> ModelTrace:
        """Frames ``first`` to ``end - 1``."""
        return ModelTrace(
            self.full[first:end],
            self.base[first:end],
            self.signatures[first:end],
            {name: logits[first:end] for name, logits in self.submodels.items()},
        )


@dataclass(frozen=True, eq=False)
class Run:
    """Result of a cascade's run over a trace.

    Attributes:
        labels: Label of each answer ``(n,)``; -1 is ``unknown``.
        asked: Whether the full model was asked, for a miss or an audit ``(n,)``.
        misses: Whether each frame was a miss ``(n,)``.
        risks: Stated risk of each answer ``(n,)``.
        levels: Level of each answer.
        probes: Number of local models that ran on each frame ``(n,)``.
    """

    labels: npt.NDArray[np.int64]
    asked: npt.NDArray[np.bool_]
    misses: npt.NDArray[np.bool_]
    risks: npt.NDArray[np.float64]
    levels: list[Level]
    probes: npt.NDArray[np.int64]


class RecordedScores:
    """Recorded logits as the ``score`` function of a model.

    Attributes:
        calls: Number of calls.
    """

    def __init__(self, logits: npt.NDArray[np.float32]) -> None:
        self._logits, self.calls = logits, 0

    def __call__(self, view: Any) -> Scores:
        self.calls += 1
        row: Scores = self._logits[view]
        return row


def run(cascade: Cascade, trace: ModelTrace, round_trip_s: float = 0.5) -> Run:
    """Run a cascade of recorded models over a trace, at one frame a second. Every miss and audit has its reply in time.

    Args:
        round_trip_s: Time from a lookup to its reply, seconds.
    """
    n = len(trace)
    labels, risks = np.full(n, -1, np.int64), np.zeros(n)
    asked, misses = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    levels: list[Level] = []
    probes = np.zeros(n, np.int64)
    models = [model for model in (cascade.base, *(cascade.submodels.residents if cascade.submodels else ())) if model]
    counters = [model.score for model in models if isinstance(model.score, RecordedScores)]
    for index in range(n):
        before = sum(one.calls for one in counters)
        step = cascade.lookup(trace.frame(index), float(index))
        probes[index] = sum(one.calls for one in counters) - before
        reply = Reply(index, trace.full[index])
        miss = isinstance(step, Miss)
        answer = cascade.complete(step, reply if miss else None, index + round_trip_s)
        if answer.audit:
            cascade.on_audit_reply(reply, index + round_trip_s)
        labels[index] = -1 if answer.label is None else answer.label
        risks[index] = answer.risk
        asked[index], misses[index] = miss or answer.audit, miss
        levels.append(answer.level)
    return Run(labels, asked, misses, risks, levels, probes)


def fit_priors(
    traces: Sequence[ModelTrace], temperatures: Mapping[str, float], base_temperature: float, seed: int = 0
) -> dict[Stage, RiskPrior]:
    """Fit the priors of the risk models to held-out footage.

    Each pass starts at a random frame of the first quarter of a trace. The base model and a random submodel run on each
    frame. The full model answers random frames, and marks their candidates right or wrong.

    Args:
        traces: Footage that the local models were not trained on.
        temperatures: Calibration temperature of each submodel, by name.
        base_temperature: Calibration temperature of the base model.
        seed: Seed of these draws.
    """
    rng = np.random.default_rng(seed)
    collected: list[dict[Stage, Outcomes]] = []
    for trace in traces:
        base = softmax(trace.base, base_temperature)
        others = [softmax(logits, temperatures[name]) for name, logits in trace.submodels.items()]
        labels = trace.labels
        for share in _ASKED_SHARES * _PASSES:
            estimator = RiskEstimator(base.shape[1])
            first = int(rng.integers(0, max(1, len(trace) // 4)))
            for index in range(first, len(trace)):
                lookup = estimator.begin(trace.frame(index))
                estimator.add_output(lookup, base[index])
                if others:
                    estimator.add_output(lookup, others[int(rng.integers(len(others)))][index])
                if index == first or rng.random() < share:
                    label = int(labels[index])
                    collected.append(estimator.outcomes(lookup, label))
                    estimator.store(lookup, label)
    return priors_of(collected)
