"""Whether an early exit saves more time than it costs."""

from __future__ import annotations

#: Decay of the statistics with each row.
_DECAY = 0.998
#: Weight of the prior hit rate, rows.
_PRIOR_ROWS = 32.0
#: Prior hit rate.
_PRIOR_HIT_RATE = 0.5
#: Batches between two lookups of an exit that is not worthwhile.
_EXPLORE_EVERY = 32
#: Offset between the explorations of neighbouring exits, batches.
_EXPLORE_OFFSET = 7


class ExitCostModel:
    """Decayed means of an exit's hit rate, of the time of its lookup, and of the time of the model's remainder."""

    def __init__(self, place: int = 0) -> None:
        """``place``: number of the exit, from 0; exits that are not worthwhile are explored in different batches."""
        self._rows, self._hits = _PRIOR_ROWS, _PRIOR_ROWS * _PRIOR_HIT_RATE
        self._lookup_rows, self._lookup_s = 0.0, 0.0
        self._remainder_rows, self._remainder_s = 0.0, 0.0
        self._batches = _EXPLORE_OFFSET * place

    @property
    def is_worthwhile(self) -> bool:
        """Whether hits save more time than lookups take; True before the first measurements."""
        if not self._lookup_rows or not self._remainder_rows:
            return True
        saved = self._hits / self._rows * self._remainder_s / self._remainder_rows
        return saved > self._lookup_s / self._lookup_rows

    def should_probe(self) -> bool:
        """Whether to look up in this batch: if worthwhile, or for exploration."""
        self._batches += 1
        return self.is_worthwhile or self._batches % _EXPLORE_EVERY == 0

    def record_hits(self, hits: int, rows: int) -> None:
        """Record that ``hits`` of ``rows`` could be answered."""
        # An exploration stands for all the batches without a lookup before it.
        decay = _DECAY ** (rows if self.is_worthwhile else rows * _EXPLORE_EVERY)
        self._rows, self._hits = decay * self._rows + rows, decay * self._hits + hits

    def record_lookup(self, rows: int, seconds: float) -> None:
        """Record the time of a lookup of ``rows``."""
        decay = _DECAY**rows
        self._lookup_rows, self._lookup_s = decay * self._lookup_rows + rows, decay * self._lookup_s + seconds

    def record_remainder(self, rows: int, seconds: float) -> None:
        """Record the time of the rest of the model for the ``rows`` that the lookup left."""
        decay = _DECAY**rows
        self._remainder_rows = decay * self._remainder_rows + rows
        self._remainder_s = decay * self._remainder_s + seconds
