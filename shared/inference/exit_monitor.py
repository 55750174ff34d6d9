"""Sequential monitor of the error rate of early exits."""

from __future__ import annotations

from cachenet.shared.cascade.sequential_tests import AnytimeUpperBound, EDetector

#: E-value at which exits are no longer trusted: one false alarm in 1000 checks.
_ALARM_E = 1000.0


class ExitMonitor:
    """Trusts the exits until their error rate is significantly over ``allowed``, and again once it is certified under.

    Example:
        >>> monitor = ExitMonitor(allowed=0.01)
        >>> [monitor.add(True) for _ in range(3)], monitor.trusted
        ([False, False, True], False)
    """

    def __init__(self, allowed: float) -> None:
        """``allowed``: largest error rate, over 0 and under 1."""
        self._allowed = allowed
        self._bound: AnytimeUpperBound | None = None
        self._detector = EDetector(allowed)

    @property
    def trusted(self) -> bool:
        """Whether exits may answer."""
        return self._bound is None

    def add(self, wrong: bool) -> bool:
        """Add the outcome of a check. Returns whether ``trusted`` has changed."""
        before = self.trusted
        if self._bound is None:
            self._detector.add(float(wrong))
            if self._detector.e_value >= _ALARM_E:
                self._bound = AnytimeUpperBound()
        else:
            self._bound.add(float(wrong))
            if self._bound.value <= self._allowed:
                self._bound = None
                self._detector.reset()
        return self.trusted != before
