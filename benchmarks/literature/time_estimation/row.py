"""The row ``time-estimation``: time of networks of families that were never measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.literature.row import Inputs, Measurement, Row
from benchmarks.literature.time_estimation import networks, sweep
from benchmarks.literature.time_estimation.estimator import Array, Columns, KernelEstimator, errors, family_out, weights
from benchmarks.literature.time_estimation.recording import Recording, record
from cachenet.models.report.confidence_interval import interval

#: Networks of the sweep.
_SWEEP = 540
#: Rounds of measurement.
_ROUNDS = 4
#: The bar: mean absolute relative error, rank correlation, share of networks within 10 %.
_MAPE, _SPEARMAN, _WITHIN = 0.075, 0.98, 0.9
#: Networks of a smoke run, and of its sweep.
_FEW = 6


def measure(inputs: Inputs) -> Measurement:
    """Measure networks and kernels, or read what was recorded, and estimate each family from the others."""
    unseen, kernels = networks.networks(inputs.data), sweep.networks(_FEW if inputs.smoke else _SWEEP)
    if inputs.smoke:
        unseen = [*unseen[:2], *unseen[9:11], *unseen[15:17]]
    measured: list[Recording] = []
    swept: list[Recording] = []
    for rounds in range(1, 2 if inputs.smoke else _ROUNDS + 1):
        measured = record(unseen, rounds, inputs.work / "networks", inputs.say)
        swept = record(kernels, rounds, inputs.work / "sweep", inputs.say)
    return evaluate(measured, swept)


def evaluate(unseen: Sequence[Recording], swept: Sequence[Recording]) -> Measurement:
    """Errors of the estimate and of simpler ones. A family's estimate uses none of its networks."""
    estimator = KernelEstimator(swept)
    estimated = {one.name: float(estimator.seconds(one.kernels).sum()) for one in unseen}
    columns: dict[str, Columns] = {
        "kernels": lambda one: (estimated[one.name], len(one.kernels), 1.0),
        "kernels, measured": _measured,
        "multiply-adds and operators": lambda one: (one.macs, len(one.kernels), 1.0),
        "multiply-adds": lambda one: (one.macs, 1.0),
    }
    estimates = {name: family_out(own, unseen) for name, own in columns.items()}
    overhead = weights(_measured, swept)
    estimates["kernels, overhead of the sweep"] = np.array([overhead @ columns["kernels"](one) for one in unseen])
    rows = {name: errors(own, unseen) | _interval(own, unseen) for name, own in estimates.items()}
    own = rows["kernels"]
    pays = own["mape"] <= _MAPE and own["spearman"] >= _SPEARMAN and own["within_10"] >= _WITHIN
    table = [
        {
            "name": one.name,
            "family": one.family,
            "ms": round(1e3 * one.whole, 3),
            "error": round(float(estimate / one.whole - 1), 4),
        }
        for one, estimate in zip(unseen, estimates["kernels"], strict=True)
    ]
    details = {
        "networks": len(unseen),
        "families": len({one.family for one in unseen}),
        "kernels_of_the_sweep": sum(len(one.kernels) for one in swept),
        "rows": rows,
        "table": table,
    }
    return Measurement(100 * own["mape"], "% mean absolute error, families left out", pays, details)


def _measured(one: Recording) -> tuple[float, ...]:
    """Sum of the measured kernels, their number, and a constant."""
    return sum(one.seconds), len(one.kernels), 1.0


def _interval(estimates: Array, unseen: Sequence[Recording]) -> dict[str, Any]:
    relative = np.abs(estimates / [one.whole for one in unseen] - 1)
    return {"interval": interval(relative.tolist())["interval"]}


ROW = Row("ANNETTE: 3.5 % and 7.4 % mean error; nn-Meter: 99 % of networks within 10 % on a mobile processor", measure)
