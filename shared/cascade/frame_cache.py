"""L1 ``frames``: the full model's answers about recent frames, held while they are likely still true.

Approximate-key caching (A. Finamore et al., "Accelerating deep learning classification with error-controlled
approximate-key caching", arXiv 2112.06671). Which entry answers, and whether it may, is for the risk models to say.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shared.cascade.frame import Frame, Signature
from shared.cascade.probability import Probabilities

#: Entries that are kept, the newest. One costs 4 kB, and 8 bytes a label.
CAPACITY = 64
#: Mean-square difference of two thumbnails, squared grey levels, under which an entry is the same picture as another:
#: the sensor's noise. The newer one takes the other's place if they have one label.
_SAME_PICTURE = 4.0

Rows = npt.NDArray[np.int64]


class FrameCache:
    """A bounded set of answered frames.

    Attributes:
        indices: Number of each entry's frame ``(n,)``.
        labels: The full model's answer to it ``(n,)``.
        blocks, thumbnails: Its signature ``(n, 192)`` and ``(n, 768)``.
        probabilities: What the base model said of it ``(n, classes)``; NaN where no base model looked.
    """

    def __init__(self, classes: int, capacity: int = CAPACITY) -> None:
        self._capacity, self._classes = capacity, classes
        self.clear()

    def __len__(self) -> int:
        return len(self.indices)

    def clear(self) -> None:
        """Forget all entries."""
        self.indices: Rows = np.zeros(0, np.int64)
        self.labels: Rows = np.zeros(0, np.int64)
        self.blocks = np.zeros((0, 192), np.float32)
        self.thumbnails = np.zeros((0, 768), np.float32)
        self.probabilities: Probabilities = np.zeros((0, self._classes))

    @property
    def last(self) -> int:
        """The row of the newest entry. Raises ``ValueError`` if there is none."""
        return int(self.indices.argmax())

    def recent(self, count: int, before: int) -> Rows:
        """Rows of the newest ``count`` entries whose frames came before the frame ``before``, newest first."""
        order = np.argsort(-self.indices, kind="stable")
        return order[self.indices[order] < before][:count]

    def nearest(self, signature: Signature) -> int:
        """The row of the entry whose picture is most like this one, of the same pictures the newest. Raises
        ``ValueError`` if there is none."""
        distances = self.distances(signature)
        alike = np.flatnonzero(distances == distances.min())
        return int(alike[self.indices[alike].argmax()])

    def distances(self, signature: Signature) -> npt.NDArray[np.float32]:
        """Mean-square difference between this picture and each entry's ``(n,)``, squared grey levels."""
        apart = self.thumbnails - signature.thumbnail.ravel()
        return np.einsum("ij,ij->i", apart, apart) / np.float32(apart.shape[1])  # type: ignore[no-any-return]

    def add(self, frame: Frame, label: int, probabilities: Probabilities | None) -> None:
        """Keep the full model's answer ``label`` to ``frame``, unless it came late and a newer one would go for it."""
        row = self._row_for(frame, label)
        if row < len(self) and self.indices[row] > frame.index:
            return
        said = np.full(self._classes, np.nan) if probabilities is None else probabilities
        new = (frame.index, label, frame.signature.blocks.ravel(), frame.signature.thumbnail.ravel(), said)
        for name, value in zip(("indices", "labels", "blocks", "thumbnails", "probabilities"), new, strict=True):
            table = getattr(self, name)
            if row == len(table):
                setattr(self, name, np.concatenate([table, np.asarray(value, table.dtype)[None]]))
            else:
                table[row] = value

    def _row_for(self, frame: Frame, label: int) -> int:
        """Where a new entry goes: over the same picture with the same label, to a new row, or over the oldest."""
        if len(self):
            distances = np.where(self.labels == label, self.distances(frame.signature), np.inf)
            row = int(distances.argmin())
            if distances[row] <= _SAME_PICTURE:
                return row
        return len(self) if len(self) < self._capacity else int(self.indices.argmin())
