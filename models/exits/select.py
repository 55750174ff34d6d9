"""Which caches to have: the set and thresholds of least expected time that keep within an error budget and a size.

Whether caches hit is not independent of one another, so sets are judged on what each cache says of each frame
(arXiv 2101.07344, section 5): every set of at most so many is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

#: The price of a wrong answer, in runs of the whole model: what is tried, dearest first. A threshold on risk is what is
#: saved by it over that price: early caches save more and so may risk more.
PRICES = tuple(1000 / 1.3**power for power in range(28))  # 1000 to 0.84


@dataclass(frozen=True)
class ExitChoice:
    """A cache that could be had. ``place``: number of its cut. ``risk`` and ``wrong`` ``(n,)``: by frame, what it gives
    for the risk of its answer, and whether that differs from the whole model's. ``lookup`` seconds, ``size`` bytes."""

    place: int
    risk: npt.NDArray[np.float64]
    wrong: npt.NDArray[np.bool_]
    lookup: float
    size: int


@dataclass(frozen=True)
class Composition:
    """``chosen``: candidates, in the order of the layers; ``thresholds`` on their risks. Expected per request:
    ``seconds``, and the share ``wrong``."""

    chosen: tuple[ExitChoice, ...]
    thresholds: tuple[float, ...]
    seconds: float
    wrong: float


def compose(
    candidates: Sequence[ExitChoice], reached: Sequence[float], whole: float, most: int, size: int, wrong: float
) -> Composition:
    """The best set of at most ``most`` caches, one a cut, of at most ``size`` bytes together, that answers at most the
    share ``wrong`` of requests falsely. ``reached``: seconds until each cut; ``whole``: of the uncut model. An empty
    one where none is quicker than that."""
    best = Composition((), (), whole, 0.0)
    for count in range(1, most + 1):
        for some in combinations(candidates, count):
            places = [one.place for one in some]
            if len(set(places)) < count or sum(one.size for one in some) > size:
                continue
            ordered = tuple(sorted(some, key=lambda one: one.place))
            for price in PRICES:
                limits = thresholds(ordered, reached, whole, price)
                seconds, errs = expected(ordered, limits, reached, whole)
                if errs > wrong:
                    continue  # a looser one may err less: an early cache then takes what a later one gets wrong
                if seconds < best.seconds:
                    best = Composition(ordered, limits, seconds, errs)
    return best


def thresholds(chosen: Sequence[ExitChoice], reached: Sequence[float], whole: float, price: float) -> tuple[float, ...]:
    """On the risk at each cache, where a wrong answer costs so many runs of the whole model."""
    return tuple((whole - reached[one.place]) / whole / price for one in chosen)


def expected(
    chosen: Sequence[ExitChoice], limits: Sequence[float], reached: Sequence[float], whole: float
) -> tuple[float, float]:
    """Seconds of a request, and the share of wrong answers."""
    left = np.ones(len(chosen[0].risk), np.bool_)
    seconds, errors, looked = 0.0, 0, 0.0
    for one, limit in zip(chosen, limits, strict=True):
        looked += one.lookup
        hit = left & (one.risk <= limit)
        seconds += float(hit.sum()) * (reached[one.place] + looked)
        errors += int((hit & one.wrong).sum())
        left &= ~hit
    seconds += float(left.sum()) * (whole + looked)
    return seconds / len(left), errors / len(left)
