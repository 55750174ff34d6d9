"""Levels ``submodels`` and ``base``: the local models of a device.

The submodels form an LRU cache of models under a byte budget (CacheNet, arXiv 2007.01793, section IV). A submodel is
used by a hit, by a recommendation of the server, and by its load. The caller loads and frees the models; the cache
decides which.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from cachenet.shared.cascade.probability import Probabilities, are_scores, softmax
from cachenet.shared.cascade.types import LocalLevel, Score, Scores, ScoreWithExits

#: Time constant of the running mean of the label probabilities, probed frames.
_MEAN_FRAMES = 10_000.0
#: Least expected gain, as a share of frames, of a submodel that ``recommend`` returns.
_MIN_GAIN = 0.01


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A loaded model: the base model, a submodel, or the full model on the device.

    Attributes:
        score: Runs the model on a frame's view.
        temperature: Calibration temperature of its logits.
        coverage: For each label of the full model, share of held-out frames that the model answers with that label and
            a probability of at least 0.95 ``(classes,)``.
        cost: Resident memory, bytes.
        seconds: Time of one run, seconds; 0 if unknown.
        level: Level of a local model; unused for a full model.
        score_with_exits: Runs a full model that has early exits; None for other models.
    """

    name: str
    score: Score
    temperature: float
    coverage: Probabilities
    cost: int = 0
    seconds: float = 0.0
    level: LocalLevel = "submodels"
    score_with_exits: ScoreWithExits | None = None

    def run(self, view: object) -> tuple[Scores, Probabilities] | None:
        """Run the model on a frame's view.

        Returns:
            Logits and calibrated probabilities, ``(classes,)`` each; None if the logits are damaged.
        """
        logits = self.score(view)
        return (logits, softmax(logits, self.temperature)) if are_scores(logits, len(self.coverage)) else None


class Resident(Protocol):
    """A model that a cache can hold: its name, and its resident memory in bytes."""

    @property
    def name(self) -> str: ...

    @property
    def cost(self) -> int: ...


M = TypeVar("M", bound=Resident)


class ResidentModels(Generic[M]):
    """Models under a byte budget. The least recently used one is evicted first.

    Attributes:
        max_bytes: Memory of all models together, bytes.
        has_evicted: Whether any model has ever been evicted.
        residents: The models, least recently used first; a new tuple after each change.
    """

    def __init__(self, max_bytes: int) -> None:
        """Create an empty cache of ``max_bytes`` bytes."""
        self.max_bytes = max_bytes
        self.has_evicted = False
        self._resident: OrderedDict[str, M] = OrderedDict()  # least recently used first
        self.residents: tuple[M, ...] = ()

    def admit(self, model: M) -> list[str]:
        """Make ``model`` resident.

        Returns:
            Names of the evicted models; the model's own name if it exceeds ``max_bytes`` alone.
        """
        if model.cost > self.max_bytes:
            return [model.name]
        self._resident.pop(model.name, None)
        evicted = self.evict_to(self.max_bytes - model.cost)
        self._resident[model.name] = model
        self.residents = tuple(self._resident.values())
        return evicted

    def evict_to(self, max_bytes: int) -> list[str]:
        """Evict models until the rest takes at most ``max_bytes`` bytes; return the names of those evicted."""
        evicted = []
        while self._resident and self.cost() > max_bytes:
            name, _ = self._resident.popitem(last=False)
            evicted.append(name)
            self.has_evicted = True
        self.residents = tuple(self._resident.values())
        return evicted

    def cost(self) -> int:
        """Memory of all models together, bytes."""
        return sum(model.cost for model in self._resident.values())

    def touch(self, name: str) -> bool:
        """Mark a model as just used. Returns False if it is not resident."""
        if name not in self._resident:
            return False
        self._resident.move_to_end(name)
        return True

    def names(self) -> tuple[str, ...]:
        """Names of the models, sorted."""
        return tuple(sorted(self._resident))


class ModelCache(ResidentModels[LocalModel]):
    """The resident submodels of a classifier, and the gain of others."""

    def __init__(self, max_bytes: int, base_coverage: Probabilities) -> None:
        """Create an empty cache.

        Args:
            max_bytes: Memory of all resident submodels together, bytes.
            base_coverage: Coverage of the base model ``(classes,)``; zeros without a base model.
        """
        super().__init__(max_bytes)
        self._base_coverage = base_coverage
        self._mean_labels: Probabilities = np.full(len(base_coverage), 1.0 / len(base_coverage))

    def count_labels(self, labels: Probabilities) -> None:
        """Add the label probabilities ``(classes,)`` of a probed frame to their running mean, which starts uniform."""
        self._mean_labels = self._mean_labels + (labels - self._mean_labels) / _MEAN_FRAMES

    def recommend(self, others: Mapping[str, Probabilities]) -> str | None:
        """The model with the largest gain in mean coverage over the base and resident models; None under ``_MIN_GAIN``.

        Args:
            others: Coverage ``(classes,)`` of each model that is not resident, by name.
        """
        best = np.max([self._base_coverage, *(model.coverage for model in self.residents)], axis=0)
        gains = {name: float(np.dot(self._mean_labels, np.maximum(0.0, own - best))) for name, own in others.items()}
        name = max(gains, key=gains.__getitem__, default=None)
        return name if name is not None and gains[name] >= _MIN_GAIN else None
