"""Bytes and agreement of compressed features and of the rivals, picture by picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.real.measure import DRAWS

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sent:
    """What a setting sent of each measured picture.

    Attributes:
        name: Name of the setting.
        nbytes: Bytes of each picture ``(n,)``, without those that are the same for every picture.
        agrees: Whether the answer is the full model's ``(n,)``, 0 or 1.
    """

    name: str
    nbytes: Floats
    agrees: Floats

    @property
    def point(self) -> tuple[float, float]:
        """Mean bytes and agreement."""
        return float(self.nbytes.mean()), float(self.agrees.mean())


def cheapest(nbytes: Floats, agreement: Floats, wanted: float) -> float:
    """Least mean bytes with an agreement of ``wanted``, on lines between settings; infinite if none agrees so much.

    A sender that draws between two settings reaches the points of the line between them, so the rival's curve is the
    upper convex hull of its settings.

    Args:
        nbytes: Mean bytes of each setting ``(settings,)``.
        agreement: Agreement of each.
        wanted: Agreement.
    """
    enough, less = agreement >= wanted, agreement < wanted
    if not enough.any():
        return float("inf")
    best = float(nbytes[enough].min())
    if less.any():
        share = (wanted - agreement[less][:, None]) / (agreement[enough] - agreement[less][:, None])
        between = nbytes[less][:, None] + share * (nbytes[enough] - nbytes[less][:, None])
        best = min(best, float(between.min()))
    return best


def ratios(features: list[Sent], rivals: list[Sent], block: int) -> list[dict[str, Any]]:
    """Bytes of the cheapest rival over bytes of each level of the features, at the level's agreement.

    Args:
        features: The levels.
        rivals: Settings of the rivals; the best are chosen on the measured pictures, to their advantage.
        block: Consecutive pictures that the bootstrap draws as one.

    Returns:
        For each level ``bytes``, ``agreement``, ``rival_bytes``, ``ratio``, and its 95 % ``interval`` by a bootstrap in
        which features and rivals have the same pictures.
    """
    both = [*features, *rivals]
    starts = np.arange(0, len(both[0].nbytes), block)
    nbytes, agrees = (
        np.stack([np.add.reduceat(values, starts) for values in columns])
        for columns in ([one.nbytes for one in both], [one.agrees for one in both])
    )
    counts = np.diff(np.append(starts, len(both[0].nbytes)))
    rng = np.random.default_rng(0)
    drawn = np.stack(
        [np.bincount(row, minlength=len(starts)) for row in rng.integers(len(starts), size=(DRAWS, len(starts)))]
    )
    totals = drawn @ counts
    draws = [(nbytes @ drawn.T / totals).T, (agrees @ drawn.T / totals).T]  # (DRAWS, settings)
    found = []
    for number, level in enumerate(features):
        size, agreement = level.point
        rival = cheapest(*_means(rivals), agreement)
        samples = [
            cheapest(one[len(features) :], agree[len(features) :], agree[number]) / one[number]
            for one, agree in zip(*draws, strict=True)
        ]
        found.append(
            {
                "bytes": round(size, 1),
                "agreement": round(agreement, 4),
                "agreement_interval": _interval(draws[1][:, number]),
                "rival_bytes": round(rival, 1),
                "ratio": round(rival / size, 3),
                "interval": _interval(np.array(samples)),
            }
        )
    return found


def _means(sent: list[Sent]) -> tuple[Floats, Floats]:
    sizes, agreements = zip(*(one.point for one in sent), strict=True)
    return np.array(sizes), np.array(agreements)


def _interval(samples: Floats) -> list[float]:
    return [round(float(one), 4) for one in np.quantile(samples, (0.025, 0.975), method="nearest")]
