"""The allowance: which risk is small enough for a hit, so that all hits together risk no more than the bundle allows.

A promise on false hits is about their share of all frames, and a threshold on single frames keeps it unevenly: where
most frames are sure it leaves nearly all of it unspent, and where few are it may spend it all. So the bundle says how
much risk may be *claimed*, a frame on average, and the threshold follows from the stream: it rises while less is
claimed, and falls by what a hit claims (dual ascent on the constraint, as in M. Zinkevich, "Online convex programming",
ICML 2003). How much may be claimed is proven on whole streams, this rule and all.
"""

from __future__ import annotations

import math

#: By how much the logarithm of the threshold rises with a frame that claims nothing.
_RATE = 0.005
#: Where it begins, and between what it stays, in claims: a long quiet time earns no more than this.
_FIRST, _LEAST, _MOST = 5.0, 0.5, 20.0
#: No guess that is hardly better than a coin's is a hit.
_HIGHEST = 0.5


class Allowance:
    """``claim``: the risk that may be claimed, a frame on average."""

    def __init__(self, claim: float) -> None:
        self._claim = claim
        #: The risk at or under which a guess is a hit now.
        self.threshold = min(_HIGHEST, _FIRST * claim)

    def spend(self, risk: float, factor: float = 1.0) -> None:
        """A frame has been answered that claims ``risk``: that of a hit, and none where the full model answered or an
        answer is said to be no more than a guess. ``factor``: what the claim is to be multiplied by."""
        if not (claim := self._claim * factor):
            return
        moved = self.threshold * math.exp(_RATE * (1.0 - risk / claim))
        self.threshold = min(_HIGHEST, _MOST * self._claim, max(_LEAST * self._claim, moved))
