"""Counters of completed frames, of a classifier's or a detector's cascade."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from cachenet.shared.cascade.types import LOCAL_LEVELS, Level


class Countable(Protocol):
    """What ``Tally`` reads of an answer: its level, and whether it is ``unknown``."""

    @property
    def level(self) -> Level: ...

    @property
    def unknown(self) -> bool: ...


@dataclass
class Tally:
    """Counters of completed frames: ``frames`` is the sum of ``hits``, ``full``, ``cloud`` and ``fallbacks``.

    Attributes:
        hits: Hits by level; the answer ``unknown`` counts as ``base``.
        full: Answers of the full model on the device.
        cloud: Answers of the full model on the server.
        fallbacks: Frames without an answer in time.
        late: Replies that came after their frame had ended as a fallback.
        corrections: Late replies with another label than the fallback.
        overruled: Full answers with another label than the full model's reply. A self-check: must stay 0.
        unknown: Answers ``unknown``.
    """

    frames: int = 0
    hits: dict[Level, int] = field(default_factory=lambda: {"frames": 0, "submodels": 0, "base": 0})
    full: int = 0
    cloud: int = 0
    fallbacks: int = 0
    late: int = 0
    corrections: int = 0
    overruled: int = 0
    unknown: int = 0
    scene_changes: int = 0

    def levels(self) -> dict[Level, int]:
        """Number of frames by the level that answered, in the order of their price."""
        hits: dict[Level, int] = {level: self.hits[level] for level in LOCAL_LEVELS if level in self.hits}
        return {**hits, "full": self.full, "cloud": self.cloud, "fallback": self.fallbacks}

    def count(self, answer: Countable) -> None:
        """Count a completed frame."""
        self.frames += 1
        self.unknown += answer.unknown
        if answer.level == "full":
            self.full += 1
        elif answer.level == "cloud":
            self.cloud += 1
        elif answer.level == "fallback":
            self.fallbacks += 1
        else:
            self.hits[answer.level] = self.hits.get(answer.level, 0) + 1
