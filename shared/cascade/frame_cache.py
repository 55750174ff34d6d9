"""Level ``frames``: the full model's answers to up to 64 different pictures of this scene, keyed by their signatures.

Approximate-key caching (A. Finamore et al., "Accelerating deep learning classification with error-controlled
approximate-key caching", arXiv 2112.06671). The risk models decide whether an entry may answer.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.features import Change
from cachenet.shared.cascade.frame import Frame, Signature
from cachenet.shared.cascade.probability import Probabilities

#: Largest number of entries; then the oldest is replaced. An entry takes 4 kB, and 8 bytes for each label.
CAPACITY = 64
#: Mean-square difference of two thumbnails, squared grey levels, at or under which a new entry replaces an old one: the
#: noise of a sensor.
_SAME_PICTURE = 4.0
#: Blocks of a signature.
_BLOCKS = 192
#: Points of a thumbnail.
_POINTS = 768
#: Grey level that is subtracted from thumbnails, so that their squares have smaller rounding errors.
_CENTRE = np.float32(127.5)

Rows = npt.NDArray[np.int64]


class FrameCache:
    """A bounded set of answered frames. The row of an entry identifies it until the next ``add``."""

    def __init__(self, classes: int, capacity: int = CAPACITY) -> None:
        self._indices, self._labels = np.zeros(capacity, np.int64), np.zeros(capacity, np.int64)
        self._blocks = np.zeros((capacity, _BLOCKS), np.float32)
        self._thumbnails = np.zeros((capacity, _POINTS), np.float32)
        self._squares = np.zeros(capacity, np.float32)  # sum of the squares of each thumbnail
        self._probabilities = np.zeros((capacity, classes))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def clear(self) -> None:
        """Remove all entries."""
        self._count = 0

    @property
    def indices(self) -> Rows:
        """Frame index of each entry ``(n,)``."""
        return self._indices[: self._count]

    @property
    def labels(self) -> Rows:
        """The full model's label of each entry ``(n,)``."""
        return self._labels[: self._count]

    @property
    def probabilities(self) -> Probabilities:
        """The base model's output of each entry ``(n, classes)``; NaN where the base model did not run."""
        return self._probabilities[: self._count]

    @property
    def last(self) -> int:
        """Row of the newest entry. The cache must not be empty."""
        return int(self.indices.argmax())

    def recent(self, count: int, before: int) -> Rows:
        """Rows of the newest ``count`` entries older than the frame ``before``, newest first."""
        order = np.argsort(-self.indices, kind="stable")
        return order[self.indices[order] < before][:count]

    def distances(self, signature: Signature) -> npt.NDArray[np.float32]:
        """Mean-square difference between the thumbnail and each entry's ``(n,)``, squared grey levels."""
        picture = signature.thumbnail.ravel() - _CENTRE
        squares = self._squares[: self._count] - 2.0 * (self._thumbnails[: self._count] @ picture)
        squares += picture @ picture
        return np.maximum(squares, 0.0) / np.float32(_POINTS)  # type: ignore[no-any-return]

    def changes(self, frame: Frame, rows: list[int], distances: npt.NDArray[np.float32]) -> list[Change]:
        """Change of the picture between each entry and ``frame``.

        Args:
            frame: The present frame.
            rows: Rows of the entries.
            distances: ``distances`` of the frame's signature, from all entries ``(n,)``.
        """
        differences = self._blocks[rows]
        differences -= frame.signature.blocks.ravel()
        blocks = np.abs(differences, out=differences).max(1).tolist()
        ages = (frame.index - self._indices[rows]).tolist()
        return [
            Change(math.log1p(block), math.log1p(square), math.log1p(max(age, 0)))
            for block, square, age in zip(blocks, distances[rows].tolist(), ages, strict=True)
        ]

    def add(self, frame: Frame, label: int, probabilities: Probabilities | None) -> None:
        """Add the full model's answer, unless it is late and would replace a newer entry.

        Args:
            probabilities: The base model's output ``(classes,)``; None where the base model did not run.
        """
        row = self._row_for(frame)
        if row < self._count and self._indices[row] > frame.index:
            return
        self._count = max(self._count, row + 1)
        picture = frame.signature.thumbnail.ravel() - _CENTRE
        self._indices[row], self._labels[row] = frame.index, label
        self._blocks[row], self._thumbnails[row] = frame.signature.blocks.ravel(), picture
        self._squares[row] = picture @ picture
        self._probabilities[row] = np.nan if probabilities is None else probabilities

    def _row_for(self, frame: Frame) -> int:
        """Row of a new entry: the row of the same picture, a free row, or the row of the oldest entry."""
        if self._count:
            distances = self.distances(frame.signature)
            row = int(distances.argmin())
            if distances[row] <= _SAME_PICTURE:
                return row
        return self._count if self._count < len(self._indices) else int(self.indices.argmin())
