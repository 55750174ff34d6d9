"""What shares in 0..1 tell of their mean, by betting (I. Waudby-Smith and A. Ramdas, "Estimating means of bounded
random variables by betting", arXiv 2010.09686), so that it may be asked after every one of them.
"""

from __future__ import annotations

import math

import numpy as np

_CONFIDENCE = 0.95
#: The largest share of its wealth that a bet may lose.
_STAKE = 0.75


class AnytimeUpperBound:
    """An upper bound on the mean of shares in 0..1, valid at any time.

    It is the least mean against which betting that the true one is lower has multiplied its stake by twenty.
    """

    _means = np.geomspace(0.001, 0.999, 100)

    def __init__(self) -> None:
        self._log_wealth = np.zeros(len(self._means))
        self._most = np.zeros(len(self._means))
        self._count, self._sum, self._squares = 1.0, 0.5, 0.25 + 0.25  # one imagined half

    @property
    def value(self) -> float:
        """The bound; 1 before anything is known."""
        lost = self._most >= math.log(1.0 / (1.0 - _CONFIDENCE))
        return float(self._means[lost].min()) if lost.any() else 1.0

    def add(self, share: float) -> None:
        """A new share, 0..1."""
        mean = self._sum / self._count
        variance = max(self._squares / self._count - mean * mean, 1e-4)
        # The bet that would have grown fastest so far, to second order ("aGRAPA").
        edge = self._means - mean
        bets = np.clip(edge / (variance + edge * edge), 0.0, _STAKE / (1.0 - self._means))
        self._log_wealth += np.log1p(bets * (self._means - share))
        np.maximum(self._most, self._log_wealth, out=self._most)
        self._count += 1.0
        self._sum += share
        self._squares += share * share


class EDetector:
    """Evidence that the mean of shares in 0..1 has risen above ``allowed``, gathered since it began to: an e-detector
    (J. Shin, A. Ramdas and A. Rinaldo, "E-detectors", arXiv 2203.03532).

    Attributes:
        evidence: The e-value: over 100 falsely at most once in a hundred shares.
    """

    def __init__(self, allowed: float) -> None:
        """``allowed``: share, over 0 and under 1."""
        self._allowed = allowed
        self._bets = _STAKE / allowed * np.array([0.02, 0.1, 0.5])
        self._wealth = np.ones(len(self._bets))
        self.evidence = 1.0

    def add(self, share: float) -> None:
        """A new share, 0..1."""
        self._wealth = np.maximum(self._wealth, 1.0) * (1.0 + self._bets * (share - self._allowed))
        self.evidence = float(self._wealth.mean())

    def reset(self) -> None:
        """Forget all evidence."""
        self._wealth[:] = self.evidence = 1.0
