"""Runs of policies over episodes, and the best static policy in hindsight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.literature.learned_offloading.links import Durations
from benchmarks.literature.learned_offloading.policies import STATIC, FixedRule, Policy, Static
from benchmarks.literature.learned_offloading.world import LOCAL, Episodes, Floats, World

#: Thresholds of the static policies.
THRESHOLDS = (0.0, *np.geomspace(1e-3, 0.4, 24).tolist())


@dataclass(frozen=True, eq=False)
class Played:
    """A policy's run over ``b`` episodes of ``n`` frames.

    Attributes:
        latency: Latency of each frame, seconds ``(b, n)``.
        error: Share of answers that differ from the reference ``(b,)``.
        charge: Mean risk of the answers ``(b,)``.
        asked: Share of frames that the server was asked about ``(b,)``.
    """

    latency: npt.NDArray[np.float32]
    error: Floats
    charge: Floats
    asked: Floats


def play(
    make: Callable[[World], Policy],
    episodes: Episodes,
    durations: Durations,
    thresholds: Floats | None = None,
    local: bool = True,
) -> Played:
    """Run a policy; ``thresholds`` and ``local`` as for ``World``."""
    world = World(episodes, durations, thresholds, local)
    policy = make(world)
    latency, wrong, charge, asked = [], [], [], []
    while not world.done:
        actions = policy.act(world)
        outcome = world.step(actions)
        policy.learn(world, actions, outcome)
        latency.append(outcome.latency.astype(np.float32))
        wrong.append(outcome.wrong)
        charge.append(outcome.charge)
        asked.append(outcome.asked)
    return Played(np.stack(latency, 1), np.mean(wrong, 0), np.mean(charge, 0), np.mean(asked, 0))


def static(episodes: Episodes, durations: Durations) -> Played:
    """Every static policy of the grid over every episode; ``b`` is settings times episodes, settings first."""
    found = []
    count, settings = len(episodes), len(THRESHOLDS)
    every = episodes.take(np.tile(np.arange(count), settings), np.zeros(count * settings))
    limits = np.repeat(THRESHOLDS, count)
    for other in STATIC:
        policy = Static(np.full(len(every), other))
        found.append(play(lambda _world, own=policy: own, every, durations, limits))  # type: ignore[misc]
    return joined(found)


def joined(runs: Sequence[Played]) -> Played:
    """The episodes of all runs, run by run."""
    return Played(*(np.concatenate([getattr(one, name) for one in runs]) for name in Played.__dataclass_fields__))


def hindsight(grid: Played, most: Floats) -> Played:
    """The run of least latency on each episode, among those of ``grid`` with an error of at most ``most`` ``(b,)``."""
    error = grid.error.reshape(-1, len(most))
    latency = grid.latency.mean(1, dtype=np.float64).reshape(error.shape)
    chosen = np.where(error <= most + 1e-9, latency, np.inf).argmin(0) * len(most) + np.arange(len(most))
    return Played(grid.latency[chosen], grid.error[chosen], grid.charge[chosen], grid.asked[chosen])


def price(episodes: Episodes, durations: Durations) -> float:
    """Price of an error at the budget of ``episodes``, seconds: for a risk of the threshold, the product's rule pays
    the latency of the full model's answer. A rule that answers all frames locally would have paid the device's."""
    world = World(episodes, durations)
    rule = FixedRule(world)
    paid, thresholds = [], []
    while not world.done:
        thresholds.append(world.threshold)
        actions = rule.act(world)
        outcome = world.step(actions)
        rule.learn(world, actions, outcome)
        paid.append(np.where(actions == LOCAL, np.nan, outcome.latency))
    latency = np.nanmean(paid) if np.isfinite(paid).any() else durations.full
    return float(latency / np.mean(thresholds))
