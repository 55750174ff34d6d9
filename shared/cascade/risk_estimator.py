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

from shared.cascade import features
from shared.cascade.features import COUNT, Array, Stage
from shared.cascade.frame import Frame
from shared.cascade.frame_cache import FrameCache, Rows
from shared.cascade.label_filter import LabelFilter
from shared.cascade.probability import Probabilities, jensen_shannon
from shared.cascade.risk_model import RiskModel, RiskPrior, fit_prior

#: Answered frames that each new answer is compared with, to learn how long answers hold.
_PAIRS = 12
#: Answers that are waited for where the bundle has no priors: until then every frame is asked.
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


@dataclass(slots=True, eq=False)
class Observation:
    """What has been seen of a frame.

    Attributes:
        frame: Without its view.
        stage: How far it has been looked at.
        labels, features: The candidates of that stage ``(n,)`` and ``(n, d)``; none at the stage ``picture`` before the
            full model's first answer.
        earlier: The same of the stages before.
        base: Probabilities of the base model ``(classes,)``; None where it has not looked.
    """

    frame: Frame
    stage: Stage
    labels: Rows
    features: Array
    earlier: dict[Stage, tuple[Rows, Array]] = field(default_factory=dict)
    base: Probabilities | None = None


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
        self._first: list[dict[Stage, Outcomes]] = []

    @property
    def ready(self) -> bool:
        """Whether risks are known: there are priors, the bundle's or those of the first answers."""
        return bool(self.models)

    def begin(self, frame: Frame) -> Observation:
        """A frame has come: what its picture says, before any model looks."""
        self.filter.predict()
        bare = Frame(frame.index, None, frame.signature)
        if not len(self.cache):
            return Observation(bare, "picture", np.zeros(0, np.int64), np.zeros((0, COUNT["picture"])))
        row = np.array([self.cache.nearest(frame.signature)])
        changes, labels = features.picture_changes(frame, self.cache, row), self.cache.labels[row]
        return Observation(bare, "picture", labels, features.of_picture(changes, labels, self.filter.belief))

    def look(self, observation: Observation, probabilities: Probabilities) -> None:
        """A local model, the base model first, gives these ``probabilities`` ``(classes,)`` to the frame's labels."""
        label = int(probabilities.argmax())
        if observation.base is None:
            self.filter.update(probabilities)
            self._advance(observation, "base")
            observation.base = probabilities
            labels = np.array([label])
            if len(self.cache):
                rows = [self.cache.last, self.cache.nearest(observation.frame.signature)]
                labels = np.unique(np.r_[self.cache.labels[rows], label])
            observation.labels = labels
            observation.features = self._candidate_features(observation, labels)
        else:
            labels, known = self._of_base(observation)
            self._advance(observation, "submodel")
            if label not in labels:
                known = np.concatenate([known, self._candidate_features(observation, np.array([label]))])
                labels = np.r_[labels, label]
            observation.labels = labels
            observation.features = features.of_submodel(known, labels, probabilities)

    def best(self, observation: Observation, only: int | None = None) -> Candidate | None:
        """The candidate of least risk; None where nothing is known yet. ``only``: the one label that is allowed."""
        model = self.models.get(observation.stage)
        if model is None or not len(observation.labels):
            return None
        risks = model.risk(observation.features)
        place = int(risks.argmin()) if only is None else int(np.flatnonzero(observation.labels == only)[0])
        expected = model.expected_risk(observation.features[place])
        return Candidate(int(observation.labels[place]), float(risks[place]), expected)

    def learn(self, observation: Observation, label: int) -> None:
        """The full model has answered ``label`` to the frame of ``observation``: learn, and keep the answer."""
        outcomes = self.outcomes(observation, label)
        for stage, own in outcomes.items():
            if (model := self.models.get(stage)) is not None:
                model.learn(*own)
        if not self.ready and outcomes:
            self._first.append(outcomes)
            if len(self._first) == FIRST_ANSWERS:
                self.adopt(priors_of(self._first))
        self.keep(observation, label)

    def keep(self, observation: Observation, label: int) -> None:
        """Keep the full model's answer ``label`` to the frame of ``observation``."""
        self.cache.add(observation.frame, label, observation.base)
        self.filter.answer(observation.frame.index, label)

    def outcomes(self, observation: Observation, label: int) -> dict[Stage, Outcomes]:
        """What the full model's answer ``label`` says of the candidates of every stage."""
        found: dict[Stage, Outcomes] = {}
        for stage, (labels, own) in {
            **observation.earlier,
            observation.stage: (observation.labels, observation.features),
        }.items():
            if len(labels):
                found[stage] = Outcomes(own, labels != label, np.ones(len(labels)))
        rows = self.cache.recent(_PAIRS, observation.frame.index)[1:]  # the newest is a candidate already
        if "base" in found and len(rows):
            recalled = self.cache.nearest(observation.frame.signature)
            labels = self.cache.labels[rows]
            pairs = Outcomes(
                self._base_features(observation, labels, rows, recalled),
                labels != label,
                np.full(len(rows), 1.0 / (len(rows) + 1)),
            )
            candidates = found["base"]
            found["base"] = Outcomes(
                np.concatenate([candidates.features, pairs.features]),
                np.concatenate([candidates.wrong, pairs.wrong]),
                np.concatenate([candidates.weights, pairs.weights]),
            )
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
        """Begin with priors that were fitted on the first answers, where the bundle has none."""
        self.fitted = dict(fitted)
        self.models = {stage: RiskModel(prior) for stage, prior in fitted.items()}
        self._first = []

    def restore(self, state: Mapping[Stage, tuple[Array, Array]]) -> bool:
        """Go on from an earlier ``state``. False, and nothing changes for a stage that does not fit."""
        fits = [stage in self.models and self.models[stage].restore(*own) for stage, own in state.items()]
        return all(fits)

    def _candidate_features(self, observation: Observation, labels: Rows) -> Array:
        """Features of the stage ``base`` for ``labels``, compared with the held and the recalled answer, if there are
        any."""
        if len(self.cache):
            recalled = self.cache.nearest(observation.frame.signature)
            return self._base_features(observation, labels, np.full(len(labels), self.cache.last), recalled)
        assert observation.base is not None
        n = len(labels)
        neither = np.zeros(n, np.bool_)
        return features.of_base(
            labels, observation.base, neither, np.zeros(n), np.zeros((n, 3)), neither, np.zeros(3), self.filter.belief
        )

    def _base_features(self, observation: Observation, labels: Rows, rows: Rows, recalled: int) -> Array:
        """Features of the stage ``base`` for ``labels``, each compared with the entry of ``rows`` as the held one."""
        cache, now = self.cache, observation.base
        assert now is not None
        before = cache.probabilities[rows]
        before = np.where(np.isnan(before), now, before)  # where no base model had looked, nothing is known to differ
        return features.of_base(
            labels,
            now,
            cache.labels[rows] == labels,
            jensen_shannon(now, before),
            features.picture_changes(observation.frame, cache, rows),
            cache.labels[recalled] == labels,
            features.picture_changes(observation.frame, cache, np.array([recalled]))[0],
            self.filter.belief,
        )

    @staticmethod
    def _of_base(observation: Observation) -> tuple[Rows, Array]:
        if observation.stage == "base":
            return observation.labels, observation.features
        return observation.earlier["base"]

    @staticmethod
    def _advance(observation: Observation, stage: Stage) -> None:
        if observation.stage != stage:
            observation.earlier[observation.stage] = observation.labels, observation.features
            observation.stage = stage


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
