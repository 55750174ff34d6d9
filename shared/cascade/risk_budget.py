"""The risk budget: moves the threshold so that the mean charged risk stays within the budget.

The threshold rises on frames that cost less than the budget, and falls on frames that cost more (dual ascent on a
long-term constraint: M. Zinkevich, "Online convex programming", ICML 2003). A fixed threshold would spend more than the
budget on some streams and less on others.
"""

from __future__ import annotations

import math

#: Step size: rise of the log threshold with a frame that costs nothing. The threshold grows e-fold in 200 frames.
_RATE = 0.005
#: First threshold, as a multiple of the budget.
_INITIAL = 3.0
#: Least threshold, as a multiple of the budget.
_MIN = 0.5
#: Largest threshold, as a multiple of the budget; limits what a long quiet time can save up.
_MAX = 4.0
#: Largest threshold, as a risk.
MAX_RISK = 0.4


class RiskBudget:
    """The threshold of one stream.

    Attributes:
        threshold: Largest risk of a hit.

    Example:
        >>> budget = RiskBudget(max_disagreement=0.02)
        >>> before = budget.threshold
        >>> budget.charge(0.06)
        >>> budget.threshold < before
        True
    """

    def __init__(
        self, max_disagreement: float, initial: float = _INITIAL, rate: float = _RATE, least: float = _MIN
    ) -> None:
        """Start with a new stream.

        Args:
            max_disagreement: The budget, over 0; see ``CascadeSpec``.
            initial: First threshold, as a multiple of the budget.
            rate: Step size.
            least: Least threshold, as a multiple of the budget.
        """
        self._budget, self._rate, self._least = max_disagreement, rate, least
        self.threshold = min(MAX_RISK, initial * max_disagreement)

    @property
    def exhausted(self) -> bool:
        """Whether the threshold is the least one: the answers cost more than the budget."""
        return self.threshold <= self._least * self._budget

    def restart(self, scale: float = 1.0) -> None:
        """Set the threshold to the budget, multiplied by ``scale``.

        Stricter than at the start: after a scene change or an alarm the risks are known to be less reliable.
        """
        self.threshold = min(MAX_RISK, scale * self._budget)

    def charge(self, amount: float, scale: float = 1.0) -> None:
        """Charge one answer to the budget.

        Args:
            amount: Charge of the answer, 0 to 1: see ``Prediction.charge``. An early exit is charged its risk, the full
                model 0.
            scale: Factor of the budget, under 1 after alarms.
        """
        budget = self._budget * scale
        moved = self.threshold * math.exp(self._rate * (1.0 - amount / budget))
        self.threshold = min(MAX_RISK, _MAX * budget, max(self._least * budget, moved))
