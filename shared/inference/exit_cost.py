"""Whether a cache between layers pays: what its hits save against what its lookups take."""

from __future__ import annotations

#: How fast old experience fades, a row; and what is imagined at first: so many rows, this share of them hits.
_FADING, _IMAGINED, _SHARE = 0.998, 32.0, 0.5
#: Of a cache that does not pay, every so many batches is looked at again.
_AGAIN = 32


class ExitCostModel:
    """Of one cache; times in seconds."""

    def __init__(self, place: int = 0) -> None:
        """``place``: of its layer, so that not all of those that rest are looked at in one batch."""
        self._rows, self._hits = _IMAGINED, _IMAGINED * _SHARE
        self._looked, self._lookups = 0.0, 0.0
        self._rest, self._rested = 0.0, 0.0
        self._batches = 7 * place

    @property
    def pays(self) -> bool:
        """Whether hits save more than lookups take, as far as is known."""
        if not self._looked or not self._rested:
            return True
        saved = self._hits / self._rows * self._rest / self._rested
        return saved > self._lookups / self._looked

    def due(self) -> bool:
        """Whether to look in this batch: always where it pays, and else now and then, for streams change."""
        self._batches += 1
        return self.pays or self._batches % _AGAIN == 0

    def found(self, hits: int, rows: int) -> None:
        """Of so many ``rows`` so many could be answered."""
        # What rests is looked at seldom, so that each look says as much as all that were left out.
        fading = _FADING ** (rows if self.pays else rows * _AGAIN)
        self._rows, self._hits = fading * self._rows + rows, fading * self._hits + hits

    def looked(self, rows: int, seconds: float) -> None:
        """A lookup of so many ``rows`` took so long."""
        fading = _FADING**rows
        self._looked, self._lookups = fading * self._looked + rows, fading * self._lookups + seconds

    def went_on(self, rows: int, seconds: float) -> None:
        """What came after the lookup took so long for ``rows`` that were not answered."""
        fading = _FADING**rows
        self._rested, self._rest = fading * self._rested + rows, fading * self._rest + seconds
