"""Audits: hits, drawn at random, that the full model answers as well.

Audits train the risk models on frames that the cascade would not have asked about. They are a random sample of all
hits; weighted by the inverse rate, the sample estimates the agreement with the full model without bias.
"""

from __future__ import annotations

from collections.abc import Callable

from cachenet.shared.cascade.rates import clopper_pearson
from cachenet.shared.cascade.sequential_tests import EDetector

#: Default of the least share of hits that are audited.
MIN_AUDIT_RATE = 0.02
#: Least share of hits that are audited after an alarm or a scene change.
_RAISED_RATE = 0.25
#: Frames with that share.
_RAISED_FRAMES = 100
#: E-value at which the audits raise an alarm: at most one false alarm in a hundred audits.
_ALARM_E = 100.0
#: Share of wrong hits that the alarm tests against, as a multiple of the budget.
_ALARM_DISAGREEMENT = 2.0
#: Factor on the budget with each alarm.
_SCALE_STEP = 0.5
#: Least factor on the budget.
_MIN_SCALE = 0.125
#: Audits without an alarm after which one alarm's factor is removed.
_RECOVERY_AUDITS = 200
#: Confidence of the interval of the agreement.
_CONFIDENCE = 0.95


class Audits:
    """Draws the hits to audit, and evaluates the full model's answers to them.

    Attributes:
        sent: Number of hits that were chosen for an audit.
        judged: Number of these whose answer of the full model has come.
        wrong: Sum of the errors of these: the number with another label; ``unknown`` is never wrong.
        alarms: Number of alarms: the share of wrong hits is significantly over twice the budget.
        scale: Factor of the risk budget, 1 without alarms.
    """

    def __init__(self, max_disagreement: float, floor: float, draw: Callable[[], float]) -> None:
        """Create the audits of one stream.

        Args:
            max_disagreement: Risk budget; see ``CascadeSpec``.
            floor: Least share of hits that are audited.
            draw: Returns a uniform number in [0, 1).
        """
        self.sent = self.judged = self.alarms = 0
        self.wrong: float = 0
        self.scale = 1.0
        self._floor, self._draw = floor, draw
        self._detector = EDetector(_ALARM_DISAGREEMENT * max_disagreement)
        self._raised_frames = 0  # frames left with the raised rate
        self._since_alarm = 0  # audits
        self._weight = self._wrong_weight = self._square_weight = 0.0
        self._frames = self._hits = 0

    @property
    def rate(self) -> float:
        """Share of hits that are audited now."""
        return max(self._floor, _RAISED_RATE) if self._raised_frames else self._floor

    def due(self) -> bool:
        """Whether to audit the present frame if it is a hit. Call once per frame."""
        self._raised_frames = max(0, self._raised_frames - 1)
        return self._draw() < self.rate

    def raise_rate(self) -> None:
        """Audit at the raised rate for the next frames."""
        self._raised_frames = _RAISED_FRAMES

    def count(self, hit: bool) -> None:
        """Count an answered frame, a hit or an answer of the full model."""
        self._frames += 1
        self._hits += hit

    def judge(self, wrong: float, rate: float) -> bool:
        """Record the full model's answer to an audited hit.

        Args:
            wrong: Error of the hit, 0 to 1: whether the full model gave another label, False for ``unknown``; or the
                object error of a detector's hit.
            rate: Share of hits that were audited at that frame.

        Returns:
            Whether this raises an alarm.
        """
        self.judged += 1
        self.wrong += wrong
        weight = 1.0 / rate
        self._weight += weight
        self._wrong_weight += weight * wrong
        self._square_weight += weight * weight
        self._detector.add(float(wrong))
        self._since_alarm += 1
        if self._detector.e_value >= _ALARM_E:
            self.alarms += 1
            self.scale = max(_MIN_SCALE, self.scale * _SCALE_STEP)
            self._detector.reset()
            self._since_alarm = 0
            self.raise_rate()
            return True
        if self._since_alarm >= _RECOVERY_AUDITS:
            self.scale = min(1.0, self.scale / _SCALE_STEP)
            self._since_alarm = 0
        return False

    def agreement(self) -> tuple[float, float, float] | None:
        """Estimate the share of all answers that agree with the full model. Fallbacks do not count.

        Audited hits have the inverse of their audit rate as weight (D. Horvitz and D. Thompson, Journal of the American
        Statistical Association 47, 1952); the interval is that of the effective number of audits. The full model's own
        answers agree.

        Returns:
            The estimate, and the lower and upper end of its 95 % interval; None before the first audit.
        """
        if not self._weight or not self._frames:
            return None
        hits = self._hits / self._frames
        rate = self._wrong_weight / self._weight
        effective = self._weight**2 / self._square_weight
        low, high = clopper_pearson(rate * effective, effective, _CONFIDENCE)
        return 1.0 - hits * rate, 1.0 - hits * high, 1.0 - hits * low
