"""Audits: hits that the full model judges as well, drawn at random, so that the promise is checked while it is kept.

They keep the risk models honest where the cache would not have asked, and they are an unbiased sample of all hits: the
measured agreement of a device.
"""

from __future__ import annotations

from collections.abc import Callable

from cachenet.shared.cascade.rates import clopper_pearson
from cachenet.shared.cascade.sequential_tests import EDetector

#: Share of hits that is audited at least.
FLOOR = 0.02
#: The same for so many frames after an alarm.
_ALARMED, _ALARM_FRAMES = 0.25, 100
#: Evidence (an e-value) at which audits raise an alarm: at most one false one in a hundred audits.
_ALARM_EVIDENCE = 100.0
#: Audits raise an alarm where hits disagree more often than so many times the budget.
_CLEARLY = 2.0
#: What the budget is multiplied by after an alarm of the audits, and how far that may go.
_STRICTER, _STRICTEST = 0.5, 0.125
#: Audits without an alarm after which the budget is what it was.
_FORGIVEN = 200
_CONFIDENCE = 0.95


class Audits:
    """Which hits are audited, and what came of it.

    Attributes:
        sent: Hits that were sent to the full model.
        judged: Those of them that it has judged.
        wrong: Those to which it gave another label.
        alarms: How often disagreement was found to be over the budget.
        scale: What the budget is to be multiplied by.
    """

    def __init__(self, max_disagreement: float, floor: float, draw: Callable[[], float]) -> None:
        """
        Args:
            max_disagreement: The budget: mean share of all answers that may disagree.
            floor: Share of hits that is audited at least.
            draw: Random numbers in 0..1, from outside so that a run can be repeated.
        """
        self.sent = self.judged = self.wrong = self.alarms = 0
        self.scale = 1.0
        self._floor, self._draw = floor, draw
        self._detector = EDetector(_CLEARLY * max_disagreement)
        self._alarmed = self._calm = 0
        self._weight = self._wrong_weight = self._square_weight = 0.0
        self._frames = self._hits = 0

    @property
    def rate(self) -> float:
        """Share of hits that is audited now."""
        return max(self._floor, _ALARMED) if self._alarmed else self._floor

    def due(self) -> bool:
        """Whether the frame that comes now is audited if it is a hit. Call once per frame."""
        self._alarmed = max(0, self._alarmed - 1)
        return self._draw() < self.rate

    def raise_rate(self) -> None:
        """Audit more for a while: the scene has changed."""
        self._alarmed = _ALARM_FRAMES

    def count(self, hit: bool) -> None:
        """A frame has been answered by a hit or by the full model."""
        self._frames += 1
        self._hits += hit

    def judge(self, wrong: bool, rate: float) -> bool:
        """The full model has judged a hit.

        Args:
            wrong: Whether it gave another label.
            rate: The share of hits that was audited when this one was.

        Returns:
            Whether disagreement is now known to be over the budget.
        """
        self.judged += 1
        self.wrong += wrong
        weight = 1.0 / rate
        self._weight += weight
        self._wrong_weight += weight * wrong
        self._square_weight += weight * weight
        self._detector.add(float(wrong))
        self._calm += 1
        if self._detector.evidence >= _ALARM_EVIDENCE:
            self.alarms += 1
            self.scale = max(_STRICTEST, self.scale * _STRICTER)
            self._detector.reset()
            self._calm = 0
            self.raise_rate()
            return True
        if self._calm >= _FORGIVEN:
            self.scale = min(1.0, self.scale / _STRICTER)
            self._calm = 0
        return False

    def agreement(self) -> tuple[float, float, float] | None:
        """Estimated share of all answers that agree with the full model, and its 95 % interval; None before an audit.
        Fallbacks are left out.

        Hits count by their inverse probability of being audited (D. Horvitz and D. Thompson, Journal of the American
        Statistical Association 47, 1952), with the interval of as many equal audits; the full model's own answers
        agree.
        """
        if not self._weight or not self._frames:
            return None
        hits = self._hits / self._frames
        rate = self._wrong_weight / self._weight
        effective = self._weight**2 / self._square_weight
        low, high = clopper_pearson(rate * effective, effective, _CONFIDENCE)
        return 1.0 - hits * rate, 1.0 - hits * high, 1.0 - hits * low
