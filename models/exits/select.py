"""Selects early exits: the set and thresholds of least expected time within an error budget and a size budget.

Exits do not hit independently of each other. So a set is evaluated on the answers of each head for each frame
(arXiv 2101.07344, section 5), and every set up to a given number of exits is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

#: Prices of a wrong answer that are tried, in runs of the whole model: from 1000 down to 0.84. The threshold on an
#: exit's risk is its saving divided by the price: an early exit saves more and so may risk more.
PRICES = tuple(1000 / 1.3**power for power in range(28))


@dataclass(frozen=True)
class ExitChoice:
    """A candidate for an exit.

    Attributes:
        site: Index of its site.
        risk: Its error probability for each frame ``(n,)``.
        wrong: Whether its answer differs from the whole model's ``(n,)``.
        lookup: Time of the head, seconds.
        size: Of the head's file, bytes.
    """

    site: int
    risk: npt.NDArray[np.float64]
    wrong: npt.NDArray[np.bool_]
    lookup: float
    size: int


class Composition(NamedTuple):
    """Exits in the order of the graph, thresholds on their risks, expected seconds of a request and share of errors."""

    chosen: tuple[ExitChoice, ...]
    thresholds: tuple[float, ...]
    seconds: float
    wrong: float


def compose(
    candidates: Sequence[ExitChoice], reached: Sequence[float], whole: float, most: int, size: int, wrong: float
) -> Composition:
    """The fastest set of exits with at most one at a site.

    Args:
        reached: Seconds until each site.
        whole: Seconds of the uncut model.
        most: Largest number of exits.
        size: Largest size of all heads, bytes.
        wrong: Largest share of wrong answers.

    Returns:
        The set; empty if none is faster than the uncut model.
    """
    best = Composition((), (), whole, 0.0)
    for count in range(1, most + 1):
        for subset in combinations(candidates, count):
            if len({one.site for one in subset}) < count or sum(one.size for one in subset) > size:
                continue
            ordered = tuple(sorted(subset, key=lambda one: one.site))
            for price in PRICES:
                limits = thresholds(ordered, reached, whole, price)
                seconds, errors = expected(ordered, limits, reached, whole)
                # A lower price may give fewer errors: an early exit may then answer what a later one gets wrong.
                if errors <= wrong and seconds < best.seconds:
                    best = Composition(ordered, limits, seconds, errors)
    return best


def thresholds(chosen: Sequence[ExitChoice], reached: Sequence[float], whole: float, price: float) -> tuple[float, ...]:
    """Threshold on the risk of each exit, if a wrong answer costs ``price`` runs of the whole model."""
    return tuple((whole - reached[one.site]) / whole / price for one in chosen)


def expected(
    chosen: Sequence[ExitChoice], limits: Sequence[float], reached: Sequence[float], whole: float
) -> tuple[float, float]:
    """Mean seconds of a request, and the share of wrong answers."""
    left = np.ones(len(chosen[0].risk), np.bool_)
    seconds, errors, lookups = 0.0, 0, 0.0
    for one, limit in zip(chosen, limits, strict=True):
        lookups += one.lookup
        hit = left & (one.risk <= limit)
        seconds += float(hit.sum()) * (reached[one.site] + lookups)
        errors += int((hit & one.wrong).sum())
        left &= ~hit
    seconds += float(left.sum()) * (whole + lookups)
    return seconds / len(left), errors / len(left)
