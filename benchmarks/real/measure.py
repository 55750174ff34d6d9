"""Measures of every policy on one task."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.real import policies, trivial
from benchmarks.real.recording import Recording, Recordings
from benchmarks.real.task import Task
from benchmarks.real.trivial import Run, Tried
from cachenet.shared.cascade.probability import fit_temperature, softmax
from cachenet.shared.cascade.reference import disagreements

#: Disagreement that thresholds of the trivial policies may reach: the default of ``--max-disagreement``.
BUDGET = 0.02
#: Frames of a block, which the bootstrap draws as one: consecutive frames are not independent.
BLOCK = 40
#: Samples of a bootstrap.
DRAWS = 2000

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Measured:
    """The result of one task.

    Attributes:
        name: Name of the task.
        about: Properties of frames, student and full model.
        rows: Measures by policy, as in the JSON.
        agrees: Whether each answer is the full model's label ``(n,)`` bool, by policy.
        tried: The trivial policies with all settings on the play frames.
    """

    name: str
    about: Row
    rows: dict[str, Row]
    agrees: dict[str, npt.NDArray[np.bool_]]
    tried: dict[str, Tried]


def measure(task: Task, recordings: Recordings, seed: int) -> Measured:
    """Run all policies on the play frames."""
    play, tune = recordings.play, recordings.tune
    temperature = fit_temperature(tune.base, tune.labels)
    on_tune, on_play = softmax(tune.base, temperature), softmax(play.base, temperature)
    rows: dict[str, Row] = {}
    agrees: dict[str, npt.NDArray[np.bool_]] = {}

    def add(name: str, run: Run, hindsight: bool = False, **more: Any) -> None:
        rows[name] = measures(run, play, task.truth, seed) | {"hindsight": hindsight} | more
        agrees[name] = run.labels == play.labels

    runs = {name: policies.cachenet(recordings, budget, seed) for name, budget in policies.CACHENET.items()}
    curve = _curve(trivial.tried([{}] * len(runs), list(runs.values()), play))
    for name, run in runs.items():
        add(name, run, setting={"max_disagreement": policies.CACHENET[name]})
    rows[policies.DEFAULT]["curve"] = curve
    tried = {}
    for rule, settings in trivial.SETTINGS.items():
        tried[str(rule)] = found = trivial.run_all(rule, play, on_play)
        tuned = trivial.run_all(rule, tune, on_tune).choice(BUDGET)
        add(rule, found.runs[tuned], setting=settings[tuned], curve=_curve(found))
        best = found.choice(BUDGET)
        add(f"{rule}@hindsight", found.runs[best], hindsight=True, setting=settings[best])
    add("server-only", trivial.server_only(play))
    add("oracle", trivial.oracle(play), hindsight=True)
    return Measured(task.name, _about(task, recordings, temperature), rows, agrees, tried)


def measures(run: Run, play: Recording, truth: npt.NDArray[np.int64] | None, seed: int) -> Row:
    """The measures of one run; shares are of all frames."""
    full = play.labels
    agrees, counts = run.labels == full, Counter(run.level)
    return {
        "asked": _rounded(run.asked.mean()),
        "disagreement": _rounded(disagreements(run.labels, full).mean()),
        "agreement": _rounded(agrees.mean()),
        "interval": interval(agrees.astype(np.float64), seed),
        "truth": None if truth is None else _rounded((run.labels == truth).mean()),
        "overruled": int((run.misses & ~agrees).sum()),
        "levels": {level: _rounded(count / len(full)) for level, count in counts.most_common()},
        "ms": _rounded(run.local_ms.mean()),
    }


def interval(values: npt.NDArray[np.float64], seed: int) -> list[float] | None:
    """95 % interval of the mean of ``values`` ``(n,)``, of consecutive frames, by a bootstrap over blocks. None for
    fewer than two blocks."""
    if len(values) <= BLOCK:
        return None
    return quantiles(resampled(values, np.random.default_rng(seed)))


def resampled(values: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Means ``(DRAWS,)`` of ``values`` over blocks drawn with replacement."""
    starts = np.arange(0, len(values), BLOCK)
    sums, counts = np.add.reduceat(values, starts), np.diff(np.append(starts, len(values)))
    drawn = rng.integers(len(starts), size=(DRAWS, len(starts)))
    means: npt.NDArray[np.float64] = sums[drawn].sum(1) / counts[drawn].sum(1)
    return means


def quantiles(means: npt.NDArray[np.float64]) -> list[float]:
    """The central 95 % of bootstrapped means."""
    return [_rounded(bound) for bound in np.quantile(means, (0.025, 0.975))]


def _curve(tried: Tried) -> list[list[float]]:
    """``[asked, agreement]`` of each setting, sorted."""
    points = zip(tried.asked.tolist(), tried.agreement.tolist(), strict=True)
    return [list(point) for point in sorted({(_rounded(asked), _rounded(agreement)) for asked, agreement in points})]


def _about(task: Task, recordings: Recordings, temperature: float) -> Row:
    play, tune = recordings.play, recordings.tune
    return {
        "frames": len(play),
        "full": {
            "truth": None if task.truth is None else _rounded((play.labels == task.truth).mean()),
            "changes": int((np.diff(play.labels) != 0).sum()),
            "ms": _rounded(play.full_ms.mean()),
        },
        "student": {
            "agreement_tune": _rounded((tune.base.argmax(1) == tune.labels).mean()),
            "agreement": _rounded((play.base.argmax(1) == play.labels).mean()),
            "temperature": _rounded(temperature),
            "ms": _rounded(play.base_ms.mean()),
        },
    }


def _rounded(value: Any) -> float:
    return round(float(value), 5)
