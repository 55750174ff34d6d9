"""CacheNet against the trivial policies over several tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.real import trivial
from benchmarks.real.measure import DRAWS, Measured, quantiles, resampled
from benchmarks.real.policies import AUDIT_FLOOR, DEFAULT

#: Tolerance of comparisons of shares, which are rounded to five places.
_TOLERANCE = 1e-5


def pooled(tasks: Sequence[Measured], seed: int) -> dict[str, Any]:
    """CacheNet's agreement minus that of the best trivial policy in hindsight at an equal share asked.

    Returns:
        ``difference``: the mean, each task with the same weight; ``interval``: its 95 % bootstrap interval over blocks
        of frames within these tasks; ``interval_over_tasks``: the same over tasks, as a sample of all cameras;
        ``tasks``: the comparison of each task.
    """
    rng = np.random.default_rng(seed)
    found, means, draws = {}, [], []
    for task in tasks:
        found[task.name], best = _best(task)
        difference = task.agrees[DEFAULT].astype(np.float64) - best
        means.append(difference.mean())
        draws.append(resampled(difference, rng))
    drawn = rng.integers(len(tasks), size=(DRAWS, len(tasks)))
    return {
        "difference": round(float(np.mean(means)), 5),
        "interval": quantiles(np.mean(draws, axis=0)),
        "interval_over_tasks": quantiles(np.array(means)[drawn].mean(1)),
        "tasks": found,
    }


def _best(task: Measured) -> tuple[dict[str, Any], npt.NDArray[np.bool_]]:
    """The comparison on one task, and the agreement by frame of the best trivial policy.

    The best setting agrees most among those that ask no more than CacheNet; where all ask more, it asks least.
    ``asked_for_equal``: the smallest share that a setting asks which agrees no less than CacheNet, or None.
    """
    row = task.rows[DEFAULT]
    settings = [(name, at) for name, tried in task.tried.items() for at in range(len(tried.runs))]
    asked = np.concatenate([tried.asked for tried in task.tried.values()])
    agreement = np.concatenate([tried.agreement for tried in task.tried.values()])
    allowed = asked <= max(row["asked"] + _TOLERANCE, asked.min())
    best = int(np.where(allowed, agreement, -1.0).argmax())
    equal = asked[agreement >= row["agreement"] - _TOLERANCE]
    name, at = settings[best]
    tried = task.tried[name]
    comparison = {
        "asked": row["asked"],
        "agreement": row["agreement"],
        "trivial": name,
        "setting": dict(tried.settings[at]),
        "trivial_asked": round(float(asked[best]), 5),
        "trivial_agreement": round(float(agreement[best]), 5),
        "difference": round(row["agreement"] - float(agreement[best]), 5),
        "asked_for_equal": round(float(equal.min()), 5) if len(equal) else None,
    }
    return comparison, tried.agrees[at]


def dominated(task: Measured, floor: float = AUDIT_FLOOR) -> list[str]:
    """The trivial policies with thresholds from the tuning frames that agree more than CacheNet's default policy, and
    ask no more than it asks beyond the audit floor ``floor``."""
    row = task.rows[DEFAULT]
    beyond = max(0.0, row["asked"] - floor)
    return [
        name
        for name in trivial.SETTINGS
        if task.rows[name]["asked"] <= beyond + _TOLERANCE and task.rows[name]["agreement"] > row["agreement"]
    ]
