"""The candidates of a frame and their risks, learned online.

The *candidates* of a frame are the full model's newest answer (*held*), its answer to the most similar stored frame
(*recalled*), and the label of each local model that probes the frame. An answer of the full model marks right or wrong
the candidates of each stage; of two submodels those of the last. At stage ``base`` it also marks the full model's up to
11 answers before the held one, as if each had been held.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade import features
from cachenet.shared.cascade.decision import Cause
from cachenet.shared.cascade.features import Array, Change, Row, Stage
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.frame_cache import FrameCache, Rows
from cachenet.shared.cascade.label_filter import LabelFilter
from cachenet.shared.cascade.probability import Probabilities, jensen_shannon
from cachenet.shared.cascade.risk_model import RiskModel, RiskPrior, fit_prior

#: Earlier answers that a new answer of the full model marks right or wrong: the held one, a candidate, and up to 11
#: before it. They show how long answers stay right.
_PAIRS = 12
#: Answers of the full model from which a prior is fitted, at a stage where the bundle has none. Until then that stage
#: has no risk model, and gives no hits.
FIRST_ANSWERS = 50

Priors = Mapping[Stage, RiskPrior]


class Outcomes(NamedTuple):
    """Candidates that an answer of the full model has marked right or wrong.

    Attributes:
        features: Features of each candidate ``(n, d)``.
        wrong: Whether the full model gave another label ``(n,)``.
        weights: Weight of each candidate as an observation ``(n,)``.
    """

    features: Array
    wrong: npt.NDArray[np.bool_]
    weights: Array


class Candidate(NamedTuple):
    """A label that may answer a frame; ``risk`` and ``charge`` as in ``Prediction``."""

    label: int
    risk: float
    charge: float


class Candidates(NamedTuple):
    """Labels that may answer a frame, and one row of features for each."""

    labels: list[int]
    rows: list[Row]


class Neighbours(NamedTuple):
    """The held and the recalled answer of a lookup.

    Attributes:
        held_row: Row of the held answer in the frame cache.
        held_label: Label of the held answer.
        since_held: Change since the frame of the held answer.
        recalled_label: Label of the recalled answer.
        since_recalled: Change since the frame of the recalled answer.
    """

    held_row: int
    held_label: int
    since_held: Change
    recalled_label: int
    since_recalled: Change


@dataclass(slots=True, eq=False)
class Lookup:
    """State of one frame's lookup.

    Attributes:
        frame: The frame, without its view.
        stage: Stage that the lookup has reached.
        candidates: Candidates at that stage; none at stage ``picture`` before the full model's first answer.
        neighbours: Answered frames to compare with; None before the full model's first answer.
        earlier: Candidates at the stages before.
        base: The base model's probabilities ``(classes,)``; None before it has run.
        base_label: The base model's label; -1 before it has run.
    """

    frame: Frame
    stage: Stage
    candidates: Candidates
    neighbours: Neighbours | None
    earlier: dict[Stage, Candidates] = field(default_factory=dict)
    base: Probabilities | None = None
    base_label: int = -1


class RiskEstimator:
    """The frame cache, label filter and risk models of one stream.

    Attributes:
        cache: The full model's answers to earlier frames.
        filter: The label filter.
        models: The risk model of each stage that has a prior.
        fitted: Priors that were fitted to the stream's first answers; empty where the bundle has priors.
    """

    def __init__(self, classes: int, priors: Priors | None = None) -> None:
        """``priors``: the bundle's prior of each stage; None or empty to fit them to the stream's first answers."""
        self.cache, self.filter = FrameCache(classes), LabelFilter(classes)
        self.models = {stage: RiskModel(prior) for stage, prior in (priors or {}).items()}
        self.fitted: dict[Stage, RiskPrior] = {}
        self._classes = classes
        self._first: dict[Stage, list[dict[Stage, Outcomes]]] = {}  # first answers, at stages without a prior

    @property
    def ready(self) -> bool:
        """Whether there is a risk model."""
        return bool(self.models)

    def begin(self, frame: Frame) -> Lookup:
        """Start the lookup of a frame, with the recalled answer as candidate (stage ``picture``)."""
        self.filter.predict()
        viewless = Frame(frame.index, None, frame.signature)  # a lookup outlives its picture
        if not len(self.cache):
            return Lookup(viewless, "picture", Candidates([], []), None)
        near = self._neighbours(viewless)
        row = features.picture_row(near.since_recalled, float(self.filter.belief[near.recalled_label]))
        return Lookup(viewless, "picture", Candidates([near.recalled_label], [row]), near)

    def add_output(self, lookup: Lookup, probabilities: Probabilities) -> None:
        """Add the output ``(classes,)`` of a local model: of the base model first, then of submodels."""
        label = int(probabilities.argmax())
        if lookup.base is None:
            self.filter.update(probabilities)
            lookup.base, lookup.base_label = probabilities, label
            near = lookup.neighbours
            labels = {label} if near is None else {label, near.held_label, near.recalled_label}
            self._advance(lookup, "base", self._base_candidates(lookup, sorted(labels)))
        else:
            known = lookup.earlier["base"] if lookup.stage == "submodel" else lookup.candidates
            if label not in known.labels:
                more = self._base_candidates(lookup, [label])
                known = Candidates(known.labels + more.labels, known.rows + more.rows)
            rows = [
                features.submodel_row(row, float(probabilities[one]), one == label)
                for one, row in zip(known.labels, known.rows, strict=True)
            ]
            self._advance(lookup, "submodel", Candidates(known.labels, rows))

    def best(self, lookup: Lookup, only: int | None = None) -> Candidate | None:
        """The candidate of least risk; None without a risk model or a candidate. ``only``: the one allowed label."""
        model = self.models.get(lookup.stage)
        if model is None or not lookup.candidates.labels:
            return None
        labels = lookup.candidates.labels
        risks, expected = model.risk(np.array(lookup.candidates.rows))
        at = int(risks.argmin()) if only is None else labels.index(only)
        return Candidate(labels[at], float(risks[at]), float(expected[at]))

    def causes(self, lookup: Lookup, label: int) -> tuple[Cause, ...]:
        """Where the risk of the candidate ``label`` comes from; empty without a risk model."""
        model, candidates = self.models.get(lookup.stage), lookup.candidates
        if model is None or label not in candidates.labels:
            return ()
        row, groups = np.array(candidates.rows[candidates.labels.index(label)]), features.GROUPS[lookup.stage]
        risks = model.without(row, list(groups.values())).tolist()
        parts = zip(groups.items(), risks, strict=True)
        causes = [Cause(name, tuple(row[columns].tolist()), risk) for (name, columns), risk in parts]
        return (*causes, Cause("uncertainty", (), float(model.risk(row[None])[1][0])))

    def learn(self, lookup: Lookup, label: int) -> None:
        """Learn from the full model's answer ``label`` to the frame of ``lookup``, and store the answer."""
        for stage, outcomes in self.outcomes(lookup, label).items():
            if (model := self.models.get(stage)) is not None:
                model.learn(*outcomes)
                continue
            first = self._first.setdefault(stage, [])
            first.append({stage: outcomes})
            if len(first) == FIRST_ANSWERS:
                self.adopt({**self.fitted, **priors_of(first)})
        self.store(lookup, label)

    def store(self, lookup: Lookup, label: int) -> None:
        """Add the full model's answer to the cache and the filter; the risk models do not change."""
        self.cache.add(lookup.frame, label, lookup.base)
        self.filter.update_full(lookup.frame.index, label)

    def outcomes(self, lookup: Lookup, label: int) -> dict[Stage, Outcomes]:
        """The candidates of every stage, marked right or wrong by the full model's answer ``label``."""
        by_stage: dict[Stage, Outcomes] = {}
        for stage, own in {**lookup.earlier, lookup.stage: lookup.candidates}.items():
            if own.labels:
                pairs = self._pairs(lookup) if stage == "base" else Candidates([], [])
                weights = [1.0] * len(own.labels) + [1.0 / (len(pairs.labels) + 1)] * len(pairs.labels)
                wrong = np.array(own.labels + pairs.labels) != label
                by_stage[stage] = Outcomes(np.array(own.rows + pairs.rows), wrong, np.array(weights))
        return by_stage

    def reset(self, factor: float) -> None:
        """Forget the scene: empty the cache, restart the filter, return the risk models to their priors.

        The precision of the priors is multiplied by ``factor``. Fitted priors and first answers stay.
        """
        self.cache.clear()
        self.filter = LabelFilter(self._classes)
        for model in self.models.values():
            model.reset(factor)

    @property
    def state(self) -> dict[Stage, tuple[Array, Array]]:
        """State of each risk model: weights ``(d + 1,)`` and precision ``(d + 1, d + 1)``."""
        return {stage: model.state for stage, model in self.models.items()}

    def adopt(self, fitted: Priors) -> None:
        """Start risk models from fitted priors, at stages where the bundle has none."""
        for stage, prior in fitted.items():
            if stage not in self.models:
                self.models[stage], self.fitted[stage] = RiskModel(prior), prior
                self._first.pop(stage, None)

    def restore(self, state: Mapping[Stage, tuple[Array, Array]]) -> bool:
        """Continue from an earlier ``state``. Returns False if a stage is not valid; that stage does not change."""
        restored = [stage in self.models and self.models[stage].restore(*own) for stage, own in state.items()]
        return all(restored)

    def _neighbours(self, frame: Frame) -> Neighbours:
        cache = self.cache
        distances = cache.distances(frame.signature)
        held, recalled = cache.last, int(distances.argmin())
        since_held, since_recalled = cache.changes(frame, [held, recalled], distances)
        return Neighbours(held, int(cache.labels[held]), since_held, int(cache.labels[recalled]), since_recalled)

    def _base_candidates(self, lookup: Lookup, labels: list[int]) -> Candidates:
        """``labels`` as candidates at stage ``base``."""
        near = lookup.neighbours
        distance = 0.0
        if near is not None and near.held_label in labels:
            distance = float(self._output_distances(lookup, np.array([near.held_row]))[0])
        since_held = [near.since_held if near is not None and near.held_label == label else None for label in labels]
        pairs = zip(labels, since_held, strict=True)
        return Candidates(labels, [self._row(lookup, label, change, distance) for label, change in pairs])

    def _pairs(self, lookup: Lookup) -> Candidates:
        """Up to ``_PAIRS - 1`` answers before the held one, each as if it had been held."""
        cache, frame = self.cache, lookup.frame
        rows = cache.recent(_PAIRS, frame.index)[1:]
        if not len(rows):
            return Candidates([], [])
        changes = cache.changes(frame, rows.tolist(), cache.distances(frame.signature))
        labels = cache.labels[rows].tolist()
        distances = self._output_distances(lookup, rows).tolist()
        pairs = zip(labels, changes, distances, strict=True)
        return Candidates(labels, [self._row(lookup, *pair) for pair in pairs])

    def _row(self, lookup: Lookup, label: int, since_held: Change | None, distance: float) -> Row:
        """Features at stage ``base``; ``since_held`` and ``distance`` as for ``features.base_row``."""
        now, near = lookup.base, lookup.neighbours
        assert now is not None
        return features.base_row(
            float(now[label]),
            float(now[lookup.base_label]),
            label == lookup.base_label,
            since_held,
            distance,
            near.since_recalled if near is not None and near.recalled_label == label else None,
            float(self.filter.belief[label]),
        )

    def _output_distances(self, lookup: Lookup, rows: Rows) -> Array:
        """Distance of the base model's output from that of each entry in ``rows``; 0 for entries without an output."""
        assert lookup.base is not None
        distances = jensen_shannon(lookup.base, self.cache.probabilities[rows])
        distances[np.isnan(distances)] = 0.0
        return distances

    @staticmethod
    def _advance(lookup: Lookup, stage: Stage, candidates: Candidates) -> None:
        if lookup.stage != stage:
            lookup.earlier[lookup.stage] = lookup.candidates
            lookup.stage = stage
        lookup.candidates = candidates


def priors_of(collected: Iterable[Mapping[Stage, Outcomes]]) -> dict[Stage, RiskPrior]:
    """Fit a prior for each stage that has outcomes. Their weights are not used."""
    by_stage: dict[Stage, list[Outcomes]] = {}
    for collection in collected:
        for stage, outcomes in collection.items():
            by_stage.setdefault(stage, []).append(outcomes)
    return {
        stage: fit_prior(np.concatenate([one.features for one in own]), np.concatenate([one.wrong for one in own]))
        for stage, own in by_stage.items()
    }
