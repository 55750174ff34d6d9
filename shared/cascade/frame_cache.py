"""L1 ``frames``: the full model's answers about recent frames, held while they are likely still true.

Approximate-key caching (A. Finamore et al., "Accelerating deep learning classification with error-controlled
approximate-key caching", arXiv 2112.06671). Which entry answers, and whether it may, is for the risk models to say.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.features import Change
from cachenet.shared.cascade.frame import Frame, Signature
from cachenet.shared.cascade.probability import Probabilities

#: Entries that are kept, the newest. One costs 4 kB, and 8 bytes a label.
CAPACITY = 64
#: Mean-square difference of two thumbnails, squared grey levels, under which an entry is the same picture as another:
#: the sensor's noise. The newer one takes the other's place.
_SAME_PICTURE = 4.0
_BLOCKS, _POINTS = 192, 768

#: Grey level that thumbnails are kept from: the squares of small numbers lose less by rounding.
_CENTRE = np.float32(127.5)

Rows = npt.NDArray[np.int64]


class FrameCache:
    """A bounded set of answered frames. Entries are told by their row."""

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
        """Forget all entries."""
        self._count = 0

    @property
    def indices(self) -> Rows:
        """Number of each entry's frame ``(n,)``."""
        return self._indices[: self._count]

    @property
    def labels(self) -> Rows:
        """The full model's answer to each ``(n,)``."""
        return self._labels[: self._count]

    @property
    def probabilities(self) -> Probabilities:
        """What the base model said of each ``(n, classes)``; NaN where no base model looked."""
        return self._probabilities[: self._count]

    @property
    def last(self) -> int:
        """The row of the newest entry. Raises ``ValueError`` if there is none."""
        return int(self.indices.argmax())

    def recent(self, count: int, before: int) -> Rows:
        """Rows of the newest ``count`` entries whose frames came before the frame ``before``, newest first."""
        order = np.argsort(-self.indices, kind="stable")
        return order[self.indices[order] < before][:count]

    def distances(self, signature: Signature) -> npt.NDArray[np.float32]:
        """Mean-square difference between this picture and each entry's ``(n,)``, squared grey levels."""
        picture = signature.thumbnail.ravel() - _CENTRE
        apart = self._squares[: self._count] - 2.0 * (self._thumbnails[: self._count] @ picture)
        apart += picture @ picture
        return np.maximum(apart, 0.0) / np.float32(_POINTS)  # type: ignore[no-any-return]

    def changes(self, frame: Frame, rows: list[int], distances: npt.NDArray[np.float32]) -> list[Change]:
        """How the picture of ``frame`` differs from those of the entries ``rows``.

        Args:
            distances: From all entries, see ``distances``.
        """
        apart = self._blocks[rows]
        apart -= frame.signature.blocks.ravel()
        blocks = np.abs(apart, out=apart).max(1).tolist()
        ages = (frame.index - self._indices[rows]).tolist()
        return [
            Change(math.log1p(block), math.log1p(square), math.log1p(max(age, 0)))
            for block, square, age in zip(blocks, distances[rows].tolist(), ages, strict=True)
        ]

    def add(self, frame: Frame, label: int, probabilities: Probabilities | None) -> None:
        """Keep the full model's answer ``label`` to ``frame``, unless it came late and a newer one would go for it."""
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
        """Where a new entry goes: over the same picture, to a new row, or over the oldest."""
        if self._count:
            distances = self.distances(frame.signature)
            row = int(distances.argmin())
            if distances[row] <= _SAME_PICTURE:
                return row
        return self._count if self._count < len(self._indices) else int(self.indices.argmin())
