"""The risk budget: which risk is small enough for a hit, so that all answers together keep within the budget.

The budget is about the mean over all answers, and a fixed threshold on single frames keeps it unevenly. So the
threshold follows the stream: it rises while less is spent than the budget, and falls by what a hit is expected to cost
(dual ascent on a long-term constraint: M. Zinkevich, "Online convex programming", ICML 2003).
"""

from __future__ import annotations

import math

#: By how much the logarithm of the threshold rises with a frame that costs nothing: e-fold in 200 frames.
_RATE = 0.005
#: Where the threshold begins, and between what it stays, in budgets. A long quiet time earns no more than the most.
_FIRST, _LEAST, _MOST = 3.0, 0.5, 4.0
#: No candidate that is hardly better than a coin toss is a hit.
_HIGHEST = 0.4


class RiskBudget:
    """The threshold of one stream.

    Attributes:
        threshold: The risk at or under which a candidate is a hit now.

    Example:
        >>> budget = RiskBudget(max_disagreement=0.02)
        >>> before = budget.threshold
        >>> budget.charge(0.06)
        >>> budget.threshold < before
        True
    """

    def __init__(self, max_disagreement: float) -> None:
        """``max_disagreement``: the mean share of all answers that may disagree with the full model, over 0."""
        self._budget = max_disagreement
        self.threshold = min(_HIGHEST, _FIRST * max_disagreement)

    def restart(self, scale: float = 1.0) -> None:
        """Be strict at first: nothing is known of what comes."""
        self.threshold = min(_HIGHEST, scale * self._budget)

    def charge(self, expected_risk: float, scale: float = 1.0) -> None:
        """A frame has been answered.

        Args:
            expected_risk: What the answer is expected to cost; 0 for one of the full model.
            scale: What the budget is to be multiplied by, where audits have found more disagreement than expected.
        """
        budget = self._budget * scale
        moved = self.threshold * math.exp(_RATE * (1.0 - expected_risk / budget))
        self.threshold = min(_HIGHEST, _MOST * budget, max(_LEAST * budget, moved))
