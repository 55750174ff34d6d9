"""Whether what was proven of some answers still holds, from a sample of them that is checked."""

from __future__ import annotations

from cachenet.shared.cascade.sequential_tests import AnytimeUpperBound, EDetector

#: From this evidence on they are not trusted: false alarms are one in so many checks.
_ALARM = 1000.0


class ExitMonitor:
    """Trusts until the errors speak against ``allowed``, a share; and again once enough checks have shown that they
    keep within it."""

    def __init__(self, allowed: float) -> None:
        self._allowed = allowed
        self._bound: AnytimeUpperBound | None = None
        self._detector = EDetector(allowed)

    @property
    def trusted(self) -> bool:
        return self._bound is None

    def add(self, wrong: bool) -> bool:
        """An answer was checked; whether trust has changed."""
        before = self.trusted
        if self._bound is None:
            self._detector.add(float(wrong))
            if self._detector.e_value >= _ALARM:
                self._bound = AnytimeUpperBound()
        else:
            self._bound.add(float(wrong))
            if self._bound.value <= self._allowed:
                self.forget()
        return self.trusted != before

    def forget(self) -> None:
        """Trust anew: what is checked from now on is something else."""
        self._bound = None
        self._detector.reset()
