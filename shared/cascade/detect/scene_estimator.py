"""The tracks of a stream and their risks, learned online from the full model's answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.decision import Cause
from cachenet.shared.cascade.detect import scene_features as features
from cachenet.shared.cascade.detect import tracks as columns
from cachenet.shared.cascade.detect.detections import Detections, counts, f1, match
from cachenet.shared.cascade.detect.expected_error import answered, expected_error
from cachenet.shared.cascade.detect.history import History, Moment
from cachenet.shared.cascade.detect.scene_features import MISSED, Array, SceneModel, ScenePriors, SceneStage
from cachenet.shared.cascade.detect.tracks import Tracks
from cachenet.shared.cascade.detect.types import SceneFrame
from cachenet.shared.cascade.risk_model import RiskModel, RiskPrior, fit_prior

#: Answers of the full model from which priors are fitted where the bundle has none. Until then every frame is a miss.
FIRST_ANSWERS = 50
#: Greatest expected number of objects that no candidate covers.
_MAX_MISSED = 10.0
#: Weight of the ratio 1 in the calibration of the expected error: 20 answers of the full model, each with an error of
#: 0.1, expected and found.
_CALIBRATION_PRIOR = 20 * 0.1
#: Answers of the full model after which the weight of an answer in the calibration has halved.
_CALIBRATION_HALF_LIFE = 100.0
#: Stated risk of an object without a risk model.
_UNKNOWN_RISK = 0.5


class SceneEstimate(NamedTuple):
    """The best answer to a frame at a stage.

    Attributes:
        tracks: The candidates.
        rows: Rows of the answered ones ``(a,)``.
        risks: Risk of each answered object ``(a,)``.
        raw_error: Expected object error by the risk models alone.
        error: The same, calibrated by the errors that the full model has found; 1 before any model has looked at the
            scene.
        others: Probability of each candidate that is not answered ``(b,)``.
        missed: Expected number of objects that no candidate covers; None without risk models.
    """

    tracks: Tracks
    rows: npt.NDArray[np.int64]
    risks: Array
    raw_error: float
    error: float
    others: Array = np.zeros(0)
    missed: float | None = None

    @property
    def objects(self) -> Detections:
        """The answered objects; the scores are probabilities."""
        scores = (1.0 - self.risks).astype(np.float32)
        return Detections(self.tracks.visible[self.rows], self.tracks.labels[self.rows], scores)


class SceneOutcome(NamedTuple):
    """Candidates of one model that an answer of the full model has marked right or wrong.

    Attributes:
        features: Features of each candidate ``(n, d)``.
        wrong: Whether the full model did not find the object, or found more than the candidates ``(n,)``.
    """

    features: Array
    wrong: npt.NDArray[np.bool_]


class SceneEstimator:
    """History, risk models and calibration of one stream.

    Attributes:
        history: The recent frames.
        models: The risk models by name; empty until there are priors.
        fitted: Priors that were fitted to the stream's first answers; empty where the bundle has priors.
    """

    def __init__(self, priors: ScenePriors | None = None) -> None:
        """``priors``: the bundle's priors; None or empty to fit them to the stream's first answers."""
        self.history = History()
        self.models: dict[SceneModel, RiskModel] = {}
        self.fitted: dict[SceneModel, RiskPrior] = {}
        self._first: list[Mapping[SceneModel, SceneOutcome]] = []
        self._expected = self._found = 0.0  # sums of expected and found errors, decayed
        self._last_missed = 0
        self._examined = False  # whether a detector or the full model has looked at this scene
        # Index and blocks of the last frame that a detector looked at.
        self._looked: tuple[int, npt.NDArray[np.float32]] | None = None
        self._add_models(priors or {})

    @property
    def ready(self) -> bool:
        """Whether there are risk models."""
        return "base" in self.models or "carried" in self.models

    @property
    def calibration(self) -> float:
        """Ratio of the errors that the full model has found to those expected."""
        return (_CALIBRATION_PRIOR + self._found) / (_CALIBRATION_PRIOR + self._expected)

    @property
    def newest(self) -> int | None:
        """Index of the newest frame; None before the first."""
        return self.history.newest

    def begin(self, frame: SceneFrame) -> Moment:
        """Start the lookup of the next frame (stage ``carried``)."""
        moment = self.history.add(frame)
        moment.last_missed = self._last_missed
        if self._looked is not None:
            index, blocks = self._looked
            moment.change = float(np.abs(frame.signature.blocks - blocks).max())
            moment.since_look = frame.index - index
        return moment

    def observe(self, moment: Moment, found: Detections, stage: SceneStage, answer_score: float | None = None) -> None:
        """Add the detections of a device's detector to the newest frame; ``answer_score``: see ``LocalDetector``."""
        self._looked = moment.frame.index, moment.frame.signature.blocks
        self._examined = True
        self.history.observe(moment, found, stage, answer_score)

    def estimate(self, moment: Moment) -> SceneEstimate:
        """The best answer to a frame at the stage that it has reached."""
        tracks, stage = moment.observed, moment.stage
        objects, missed = self.models.get(stage), self.models.get(MISSED[stage])
        if objects is None or missed is None:
            detected = tracks.state[:, columns.MISSES] == 0
            rows = np.flatnonzero(detected & (tracks.state[:, columns.SCORE] > 0.0) | _confirmed(tracks))
            return SceneEstimate(tracks, rows, np.full(len(rows), _UNKNOWN_RISK), 1.0, 1.0)
        risks = objects.risk(features.object_rows(tracks))[1] if len(tracks) else np.zeros(0)
        p = 1.0 - risks
        rows = answered(tracks, p) if moment.answer_score is None else _detected(moment)
        others = np.ones(len(p), np.bool_)
        others[rows] = False
        some_missed = float(missed.risk(_missed_row(moment, tracks, float(p.sum())))[1][0])
        expected_missed = min(_MAX_MISSED, -math.log(max(1.0 - some_missed, 1e-9)))  # of a Poisson distribution
        raw = expected_error(p[rows], p[others], expected_missed)
        # Of a scene that no model has looked at, nothing is known: that there are no tracks means nothing.
        error = min(1.0, raw * self.calibration) if self._examined else 1.0
        return SceneEstimate(tracks, rows, risks[rows], raw, error, p[others], expected_missed)

    def causes(self, estimate: SceneEstimate) -> tuple[Cause, ...]:
        """Where the expected error of an answer comes from; empty where it is not known.

        The parts: ``wrong``, answered objects that the full model may not find; ``left_out``, candidates that are not
        answered; ``uncovered``, objects that no candidate covers; ``calibration``, the ratio of the errors that the
        full model has found to those expected. Values: the expected number and the number of candidates, or the ratio.
        """
        if estimate.missed is None or not self._examined:
            return ()
        p, others, missed = 1.0 - estimate.risks, estimate.others, estimate.missed
        ratio = self.calibration

        def error(p: Array, others: Array, missed: float) -> float:
            return min(1.0, ratio * expected_error(p, others, missed))

        return (
            Cause("wrong", (float(estimate.risks.sum()), float(len(p))), error(np.ones(len(p)), others, missed)),
            Cause("left_out", (float(others.sum()), float(len(others))), error(p, others[:0], missed)),
            Cause("uncovered", (missed,), error(p, others, 0.0)),
            Cause("calibration", (ratio,), estimate.raw_error),
        )

    def learn(self, index: int, reply: Detections) -> float | None:
        """Learn from the full model's objects of frame ``index``, and carry them to the present.

        Returns:
            Object error of the frame's answer; None if the frame is no longer remembered, or was not answered.
        """
        moment = self.history.find(index)
        if moment is None or moment.reply is not None:
            return None
        outcomes = self.outcomes(moment, reply)
        if self.ready:
            for name, outcome in outcomes.items():
                if (model := self.models.get(name)) is not None and len(outcome.wrong):
                    model.learn(*outcome, np.ones(len(outcome.wrong)))
        else:
            self._first.append(outcomes)
            if len(self._first) >= FIRST_ANSWERS:
                self.adopt(scene_priors(self._first))
        error = None
        if moment.raw_error is not None:
            error = 1.0 - f1(*counts(moment.answer, reply))
            decay = 0.5 ** (1.0 / _CALIBRATION_HALF_LIFE)
            self._expected = decay * self._expected + moment.raw_error
            self._found = decay * self._found + error
        self.store(moment, reply)
        return error

    def store(self, moment: Moment, reply: Detections) -> None:
        """Carry the full model's objects of a frame to the present; the risk models do not change."""
        pairs = _pairs(moment.observed, reply)
        self._last_missed = len(reply) - len(pairs)
        self._examined = True
        self.history.confirm(moment, reply)

    def outcomes(self, moment: Moment, reply: Detections) -> dict[SceneModel, SceneOutcome]:
        """The candidates of every stage that a frame has reached, marked right or wrong by the full model."""
        by_model: dict[SceneModel, SceneOutcome] = {}
        stages: dict[SceneStage, Tracks] = {"carried": moment.carried, moment.stage: moment.observed}
        for stage, tracks in stages.items():
            rows = features.object_rows(tracks)
            pairs = _pairs(tracks, reply)
            wrong = np.ones(len(tracks), np.bool_)
            wrong[[row for row, _ in pairs]] = False
            model = self.models.get(stage)
            likely = float((1.0 - model.risk(rows)[1]).sum()) if model is not None and len(rows) else float(len(pairs))
            by_model[stage] = SceneOutcome(rows, wrong)
            by_model[MISSED[stage]] = SceneOutcome(
                _missed_row(moment, tracks, likely), np.array([len(reply) > len(pairs)])
            )
        return by_model

    def reset(self, factor: float) -> None:
        """Forget the scene, and return the risk models to their priors with ``factor`` times their precision."""
        self.history.clear()
        self._looked, self._last_missed, self._examined = None, 0, False
        self._expected = self._found = 0.0
        for model in self.models.values():
            model.reset(factor)

    @property
    def state(self) -> dict[SceneModel, tuple[Array, Array]]:
        """State of each risk model: weights ``(d + 1,)`` and precision ``(d + 1, d + 1)``."""
        return {name: model.state for name, model in self.models.items()}

    def adopt(self, fitted: ScenePriors) -> None:
        """Start risk models from fitted priors, where the bundle has none."""
        missing = {name: prior for name, prior in fitted.items() if name not in self.models}
        self.fitted.update(missing)
        self._add_models(missing)
        self._first.clear()

    def restore(self, state: Mapping[SceneModel, tuple[Array, Array]]) -> bool:
        """Continue from an earlier ``state``. Returns False if a model's is not valid; that model does not change."""
        restored = [name in self.models and self.models[name].restore(*own) for name, own in state.items()]
        return all(restored)

    def _add_models(self, priors: ScenePriors) -> None:
        self.models.update({name: RiskModel(prior) for name, prior in priors.items()})
        # A submodel that the bundle's footage has not measured starts with the prior of the base model.
        for submodel, base in (("submodel", "base"), ("submodel-missed", "base-missed")):
            if submodel not in self.models and base in priors:
                self.models[submodel] = RiskModel(priors[base])  # type: ignore[index]


def scene_priors(collected: Iterable[Mapping[SceneModel, SceneOutcome]]) -> dict[SceneModel, RiskPrior]:
    """Fit the prior of each model that has outcomes."""
    by_model: dict[SceneModel, list[SceneOutcome]] = {}
    for outcomes in collected:
        for name, outcome in outcomes.items():
            if len(outcome.wrong):
                by_model.setdefault(name, []).append(outcome)
    return {
        name: fit_prior(np.concatenate([one.features for one in own]), np.concatenate([one.wrong for one in own]))
        for name, own in by_model.items()
    }


def _pairs(tracks: Tracks, reply: Detections) -> list[tuple[int, int]]:
    return match(tracks.visible, tracks.labels, reply.boxes, reply.labels)


def _missed_row(moment: Moment, tracks: Tracks, candidates: float) -> Array:
    """Features of the objects that no candidate covers; ``tracks``: the candidates, carried or observed."""
    unexplained = features.unexplained_cells(moment.frame.moved, tracks)
    looked = moment.found is not None and tracks is moment.observed
    change, since_look = (0.0, 0) if looked else (moment.change, moment.since_look)
    return features.missed_row(unexplained, candidates, moment.last_missed, change, since_look)


def _detected(moment: Moment) -> npt.NDArray[np.int64]:
    """Rows of the tracks with the box of a detection of enough score, which replaced theirs."""
    assert moment.found is not None and moment.answer_score is not None
    found = moment.found.take(moment.found.scores >= moment.answer_score)
    tracks = moment.observed
    same = (tracks.boxes[:, None] == found.boxes[None]).all(2) & (tracks.labels[:, None] == found.labels[None])
    return np.flatnonzero(same.any(1))


def _confirmed(tracks: Tracks) -> npt.NDArray[np.bool_]:
    confirmed: npt.NDArray[np.bool_] = (tracks.state[:, columns.CONFIRMED] > 0) & (tracks.state[:, columns.DENIED] == 0)
    return confirmed
