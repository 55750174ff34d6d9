"""The labels that a frame may be answered with, and their risks, learned while the stream runs.

A frame's *candidates* are the newest answer of the full model (*held*), its answer to the remembered frame that looks
most like this one (*recalled*), and the label of every local model that looks. One answer of the full model judges all
candidates of its frame at once, and the answers to the last dozen frames as if each had been held.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade import features
from cachenet.shared.cascade.features import Array, Change, Row, Stage
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.frame_cache import FrameCache, Rows
from cachenet.shared.cascade.label_filter import LabelFilter
from cachenet.shared.cascade.probability import Probabilities, jensen_shannon
from cachenet.shared.cascade.risk_model import RiskModel, RiskPrior, fit_prior

#: Answered frames that each new answer is compared with, to learn how long answers hold.
_PAIRS = 12
#: Answers that are waited for at a stage where the bundle has no prior: until then nothing is answered there.
FIRST_ANSWERS = 50

Priors = Mapping[Stage, RiskPrior]


class Outcomes(NamedTuple):
    """What an answer of the full model says of candidates: their features ``(n, d)``, whether each was wrong ``(n,)``,
    how much each counts ``(n,)``."""

    features: Array
    wrong: npt.NDArray[np.bool_]
    weights: Array


class Candidate(NamedTuple):
    """A label that a frame may be answered with. ``risk``: the probability that the full model would give another;
    ``expected_risk``: the same by the most probable weights alone, which is what the answer is expected to cost."""

    label: int
    risk: float
    expected_risk: float


class Candidates(NamedTuple):
    """Labels that a frame may be answered with, and their features, one row each."""

    labels: list[int]
    rows: list[Row]


class Neighbours(NamedTuple):
    """The answered frames that a frame is compared with: of the newest one its row in the cache, its label and the
    change since; of the one that looks most like the frame its label and the change since."""

    row: int
    held: int
    since_held: Change
    recalled: int
    since_recalled: Change


@dataclass(slots=True, eq=False)
class Observation:
    """What has been seen of a frame.

    Attributes:
        frame: Without its view.
        stage: How far it has been looked at.
        candidates: Of that stage; none at the stage ``picture`` before the full model's first answer.
        neighbours: None before the full model's first answer.
        earlier: The candidates of the stages before.
        base: Probabilities of the base model ``(classes,)``; None where it has not looked.
        top: Its label, -1 where it has not looked.
    """

    frame: Frame
    stage: Stage
    candidates: Candidates
    neighbours: Neighbours | None
    earlier: dict[Stage, Candidates] = field(default_factory=dict)
    base: Probabilities | None = None
    top: int = -1


class RiskEstimator:
    """The candidates and risk models of one stream.

    Attributes:
        cache: The full model's answers so far.
        filter: The label filter.
        models: The risk model of each stage that has a prior.
        fitted: The priors that were fitted on the first answers; empty where the bundle has its own.
    """

    def __init__(self, classes: int, priors: Priors | None = None) -> None:
        """``priors``: the bundle's, by stage; None or empty: they are fitted on the first answers."""
        self.cache, self.filter = FrameCache(classes), LabelFilter(classes)
        self.models = {stage: RiskModel(prior) for stage, prior in (priors or {}).items()}
        self.fitted: dict[Stage, RiskPrior] = {}
        self._classes = classes
        self._first: dict[Stage, list[dict[Stage, Outcomes]]] = {}

    @property
    def ready(self) -> bool:
        """Whether risks are known: there are priors, the bundle's or those of the first answers."""
        return bool(self.models)

    def begin(self, frame: Frame) -> Observation:
        """A frame has come: what its picture says, before any model looks."""
        self.filter.predict()
        bare = Frame(frame.index, None, frame.signature)
        if not len(self.cache):
            return Observation(bare, "picture", Candidates([], []), None)
        near = self._neighbours(bare)
        row = features.of_picture(near.since_recalled, float(self.filter.belief[near.recalled]))
        return Observation(bare, "picture", Candidates([near.recalled], [row]), near)

    def look(self, observation: Observation, probabilities: Probabilities) -> None:
        """A local model, the base model first, gives these ``probabilities`` ``(classes,)`` to the frame's labels."""
        label = int(probabilities.argmax())
        if observation.base is None:
            self.filter.update(probabilities)
            observation.base, observation.top = probabilities, label
            near = observation.neighbours
            labels = {label} if near is None else {label, near.held, near.recalled}
            self._advance(observation, "base", self._judged(observation, sorted(labels)))
        else:
            known = observation.earlier["base"] if observation.stage == "submodel" else observation.candidates
            if label not in known.labels:
                more = self._judged(observation, [label])
                known = Candidates(known.labels + more.labels, known.rows + more.rows)
            rows = [
                features.of_submodel(row, float(probabilities[one]), one == label)
                for one, row in zip(known.labels, known.rows, strict=True)
            ]
            self._advance(observation, "submodel", Candidates(known.labels, rows))

    def best(self, observation: Observation, only: int | None = None) -> Candidate | None:
        """The candidate of least risk; None where nothing is known yet. ``only``: the one label that is allowed."""
        model = self.models.get(observation.stage)
        if model is None or not observation.candidates.labels:
            return None
        labels = observation.candidates.labels
        risks, expected = model.risk(np.array(observation.candidates.rows))
        place = int(risks.argmin()) if only is None else labels.index(only)
        return Candidate(labels[place], float(risks[place]), float(expected[place]))

    def learn(self, observation: Observation, label: int) -> None:
        """The full model has answered ``label`` to the frame of ``observation``: learn, and keep the answer."""
        for stage, own in self.outcomes(observation, label).items():
            if (model := self.models.get(stage)) is not None:
                model.learn(*own)
                continue
            first = self._first.setdefault(stage, [])
            first.append({stage: own})
            if len(first) == FIRST_ANSWERS:
                self.adopt({**self.fitted, **priors_of(first)})
        self.keep(observation, label)

    def keep(self, observation: Observation, label: int) -> None:
        """Keep the full model's answer ``label`` to the frame of ``observation``."""
        self.cache.add(observation.frame, label, observation.base)
        self.filter.answer(observation.frame.index, label)

    def outcomes(self, observation: Observation, label: int) -> dict[Stage, Outcomes]:
        """What the full model's answer ``label`` says of the candidates of every stage."""
        found: dict[Stage, Outcomes] = {}
        for stage, own in {**observation.earlier, observation.stage: observation.candidates}.items():
            if own.labels:
                pairs = self._pairs(observation) if stage == "base" else Candidates([], [])
                weights = [1.0] * len(own.labels) + [1.0 / (len(pairs.labels) + 1)] * len(pairs.labels)
                wrong = np.array(own.labels + pairs.labels) != label
                found[stage] = Outcomes(np.array(own.rows + pairs.rows), wrong, np.array(weights))
        return found

    def reset(self, share: float) -> None:
        """Forget the stream. Risk models go back to their priors, which count for ``share`` of what they did."""
        self.cache.clear()
        self.filter = LabelFilter(self._classes)
        for model in self.models.values():
            model.reset(share)

    @property
    def state(self) -> dict[Stage, tuple[Array, Array]]:
        """What has been learned, by stage: weights ``(d + 1,)`` and precision ``(d + 1, d + 1)``."""
        return {stage: model.state for stage, model in self.models.items()}

    def adopt(self, fitted: Priors) -> None:
        """Begin, at stages where the bundle has no prior, with those that were fitted on the first answers."""
        for stage, prior in fitted.items():
            if stage not in self.models:
                self.models[stage], self.fitted[stage] = RiskModel(prior), prior
                self._first.pop(stage, None)

    def restore(self, state: Mapping[Stage, tuple[Array, Array]]) -> bool:
        """Go on from an earlier ``state``. False, and nothing changes for a stage that does not fit."""
        fits = [stage in self.models and self.models[stage].restore(*own) for stage, own in state.items()]
        return all(fits)

    def _neighbours(self, frame: Frame) -> Neighbours:
        cache = self.cache
        distances = cache.distances(frame.signature)
        held, recalled = cache.last, int(distances.argmin())
        since_held, since_recalled = cache.changes(frame, [held, recalled], distances)
        return Neighbours(held, int(cache.labels[held]), since_held, int(cache.labels[recalled]), since_recalled)

    def _judged(self, observation: Observation, labels: list[int]) -> Candidates:
        """``labels`` as candidates of the stage ``base``."""
        near = observation.neighbours
        divergence = 0.0
        if near is not None and near.held in labels:
            divergence = float(self._divergence(observation, np.array([near.row]))[0])
        return Candidates(
            labels,
            [
                self._row(
                    observation,
                    one,
                    near.since_held if near is not None and near.held == one else None,
                    divergence,
                )
                for one in labels
            ],
        )

    def _pairs(self, observation: Observation) -> Candidates:
        """The answers to the last dozen frames before this one, as if each had been held; but for the newest, which is
        a candidate already."""
        cache, frame = self.cache, observation.frame
        rows = cache.recent(_PAIRS, frame.index)[1:]
        if not len(rows):
            return Candidates([], [])
        changes = cache.changes(frame, rows.tolist(), cache.distances(frame.signature))
        labels = cache.labels[rows].tolist()
        divergences = self._divergence(observation, rows).tolist()
        pairs = zip(labels, changes, divergences, strict=True)
        return Candidates(labels, [self._row(observation, *pair) for pair in pairs])

    def _row(self, observation: Observation, label: int, held: Change | None, divergence: float) -> Row:
        """Features of the stage ``base``; ``held``, ``divergence``: see ``features.of_base``."""
        now, near = observation.base, observation.neighbours
        assert now is not None
        return features.of_base(
            float(now[label]),
            float(now[observation.top]),
            label == observation.top,
            held,
            divergence,
            near.since_recalled if near is not None and near.recalled == label else None,
            float(self.filter.belief[label]),
        )

    def _divergence(self, observation: Observation, rows: Rows) -> Array:
        """How far the base model's outputs are from those on the frames of the entries ``rows``; where no base model
        had looked, nothing is known to differ."""
        assert observation.base is not None
        divergences = jensen_shannon(observation.base, self.cache.probabilities[rows])
        divergences[np.isnan(divergences)] = 0.0
        return divergences

    @staticmethod
    def _advance(observation: Observation, stage: Stage, candidates: Candidates) -> None:
        if observation.stage != stage:
            observation.earlier[observation.stage] = observation.candidates
            observation.stage = stage
        observation.candidates = candidates


def priors_of(collected: Iterable[Mapping[Stage, Outcomes]]) -> dict[Stage, RiskPrior]:
    """The prior of each stage that there are outcomes of."""
    by_stage: dict[Stage, list[Outcomes]] = {}
    for outcomes in collected:
        for stage, own in outcomes.items():
            by_stage.setdefault(stage, []).append(own)
    return {
        stage: fit_prior(np.concatenate([one.features for one in own]), np.concatenate([one.wrong for one in own]))
        for stage, own in by_stage.items()
    }
