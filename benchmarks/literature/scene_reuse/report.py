"""Differences between the ways to choose a submodel, with intervals over places and blocks of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.literature.row import Measurement
from benchmarks.literature.scene_reuse import choice
from benchmarks.literature.scene_reuse.choice import GENERAL, Choice, Way
from benchmarks.literature.scene_reuse.trial import CASES, Case, Store, Trial
from cachenet.models.certify.intervals import Counts, starts
from cachenet.shared.cascade.detect.detections import pooled_f1

#: Samples of a bootstrap.
_DRAWS = 1000
#: Quantiles of a 95 % interval.
_BOUNDS = (0.025, 0.975)
#: Largest mean loss against the best submodel of the store, F1 or agreement.
BAR = 0.01
#: Largest time from the footage to the choice, seconds.
_MOST_SECONDS = 1.0

#: F1 of one model at one place: the measured value, and then that of each bootstrap sample of its blocks ``(1 + d,)``.
Values = npt.NDArray[np.float64]


def values(counts: Counts, seed: int) -> Values:
    """F1 of counts ``(n, 3)``; ``seed``: the same seed draws the same blocks for models of one place and time."""
    first = starts(len(counts))
    sums = np.add.reduceat(counts, first)
    drawn = np.random.default_rng(seed).integers(len(first), size=(_DRAWS, len(first)))
    together = np.concatenate([sums.sum(0)[None], sums[drawn].sum(1)])
    total = 2 * together[:, 0] + together[:, 1] + together[:, 2]
    result: Values = np.where(total > 0, 2 * together[:, 0] / np.maximum(total, 1), 1.0)
    return result


def chosen(trials: Sequence[Trial], choices: Sequence[Choice]) -> list[Values]:
    """Values of the chosen models of each trial, the mean where a way chooses at random."""
    return [
        np.mean([values(trial.outcomes[number].measured, row) for number in numbers], axis=0)
        for row, (trial, numbers) in enumerate(zip(trials, choices, strict=True))
    ]


def difference(trials: Sequence[Trial], own: Sequence[Values], other: Sequence[Values]) -> dict[str, Any]:
    """Mean difference over places with its 95 % interval: places and, at each, blocks are drawn."""
    apart = [mine - theirs for mine, theirs in zip(own, other, strict=True)]
    names = sorted({one.place for one in trials})
    places = np.stack(
        [np.mean([a for a, one in zip(apart, trials, strict=True) if one.place == name], axis=0) for name in names]
    )  # (places, 1 + draws)
    drawn = np.random.default_rng(0).integers(len(names), size=(_DRAWS, len(names)))
    samples = places[drawn, 1 + np.arange(_DRAWS)[:, None]].mean(1)
    low, high = np.quantile(samples, _BOUNDS)
    return {"mean": round(float(places[:, 0].mean()), 4), "interval": [round(float(low), 4), round(float(high), 4)]}


def case(store: Store, trials: Sequence[Trial], ways: Mapping[str, Way], kind: Case) -> dict[str, Any]:
    """F1 of each way, and its difference from the best submodel of the store and from the general model."""
    found = {name: chosen(trials, [way(one, kind) for one in trials]) for name, way in ways.items()}
    found["one model for all places"] = [values(one.pooled, row) for row, one in enumerate(trials)]
    best, general = found["best in the store"], found["general"]
    rows = {}
    for name, own in found.items():
        rows[name] = {
            "f1": difference(trials, own, [np.zeros_like(one) for one in own])["mean"],
            "less_best": difference(trials, own, best),
            "less_general": difference(trials, own, general),
        }
    size = float(np.mean([len(store.at(one, kind)) for one in trials]))
    return {"submodels_to_choose_from": round(size, 1), "ways": rows} | {
        f"key less audits, {asked} questions": difference(trials, found["key, 0 questions"], found[name])
        for name in found
        if name.startswith("audits") and (asked := int(name.split(", ")[1].split()[0]))
    }


def none_fits(store: Store, labels: int, questions: Sequence[int], trials: Sequence[Trial]) -> dict[str, Any]:
    """Reuse only below a distance that was found on other places, and reuse only of what beats the general model on
    audited frames."""
    way = choice.Nearest(store, labels, 0, 0.0)
    limits = {
        place: choice.threshold(way, [one for one in trials if one.place != place])
        for place in {one.place for one in trials}
    }
    some = [asked for asked in questions if asked]

    def by_key(trial: Trial, kind: Case) -> Choice:
        return [number for far, number in way.ordered(trial, kind)[:1] if far <= limits[trial.place]] or [GENERAL]

    def by_audits(asked: int) -> Way:
        return lambda trial, kind: [choice.most_agreeing(trial, [*store.at(trial, kind), GENERAL], asked)]

    rules: dict[str, Way] = {"key, 0 questions": by_key} | {
        f"audits, {asked} questions": by_audits(asked) for asked in some
    }
    result: dict[str, Any] = {"threshold": round(float(np.median(list(limits.values()))), 4)}
    for kind in CASES:
        general = chosen(trials, [[GENERAL]] * len(trials))
        rows = {}
        for name, rule in rules.items():
            choices = [rule(one, kind) for one in trials]
            rows[name] = {
                "reused": round(float(np.mean([numbers != [GENERAL] for numbers in choices])), 3),
                "less_general": difference(trials, chosen(trials, choices), general),
            }
        gains = [
            pooled_f1(one.outcomes[way(one, kind)[0]].measured) - pooled_f1(one.outcomes[GENERAL].measured)
            for one in trials
        ]
        refused = [by_key(one, kind) == [GENERAL] for one in trials]
        right = [no == (gain < 0) for no, gain in zip(refused, gains, strict=True)]
        result[kind] = {"rules": rows, "nearest_is_worse": round(float(np.mean(np.array(gains) < 0)), 3)}
        result[kind]["right_to_reuse_or_refuse"] = round(float(np.mean(right)), 3)
    return result


def result(found: dict[str, Any], asked: int) -> Measurement:
    """The figure: the mean loss of the key against the best submodel of the store, where the place returns.

    Args:
        asked: Questions of the audits that the key has to beat.
    """
    rows = [kind["cases"][one] for kind in found.values() if "cases" in kind for one in CASES[:2]]
    key = "key, 0 questions"
    near = all(row["ways"][key]["less_best"]["mean"] >= -BAR for row in rows)
    better = all(row["ways"][key]["less_general"]["interval"][0] > 0 for row in rows)
    beats_audits = all(row[f"key less audits, {asked} questions"]["mean"] >= 0 for row in rows)
    quick = found["time"]["key_ms"] <= 1000 * _MOST_SECONDS
    bars = {"within_bar": near, "beats_general": better, "beats_audits": beats_audits, "quick": quick}
    loss = -found["classifiers"]["cases"]["returning"]["ways"][key]["less_best"]["mean"]
    unit = "agreement lost against the best submodel of the store, classifiers, returning place, no question"
    return Measurement(loss, unit, all(bars.values()), {"bars": bars, **found})
