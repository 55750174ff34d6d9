"""Measures the row: trains the policy on some streams and links, and compares it with its rivals on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.literature.learned_offloading import data, sac
from benchmarks.literature.learned_offloading.answers import PRECISIONS
from benchmarks.literature.learned_offloading.equal import Curve, ratios
from benchmarks.literature.learned_offloading.links import Durations, durations
from benchmarks.literature.learned_offloading.play import Played, hindsight, joined, play, price, static
from benchmarks.literature.learned_offloading.policies import (
    STATIC,
    FixedRule,
    Greedy,
    HiLcbLite,
    Knowledge,
    Policy,
    Static,
)
from benchmarks.literature.learned_offloading.world import ASK, DEVICE, Episodes, Floats, World, episodes
from benchmarks.literature.row import Inputs, Measurement, Row
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT

#: Risk budgets of the training.
_TRAINED = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)
#: Risk budgets; latencies are compared at the error of the product's rule at its default budget.
BUDGETS = (0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.06, 0.08)
REFERENCE = BUDGETS.index(MAX_DISAGREEMENT)
#: Seeds of the links in training, and in the measurement.
_TRAINING_LINKS, _LINKS = range(8), range(1000, 1012)
_DEVICE = "rpi4"
_ROUNDS = 25
_EPISODES = 96
#: At most this latency, as a share of the fixed rule's and of that in hindsight.
_BARS = {"fixed rule": 0.85, "hindsight": 1.05}


def measure(inputs: Inputs) -> Measurement:
    """Train and compare."""
    torch.set_num_threads(1)
    smoke = inputs.smoke
    device = durations(_DEVICE)
    training = [data.load_stream(place, inputs) for place in data.TRAINING[: 1 if smoke else None]]
    learning = episodes(training, _TRAINING_LINKS[: 1 if smoke else None])
    inputs.say("training streams are ready")
    prices = {budget: price(_with(learning, [budget]), device) for budget in BUDGETS}
    precision = _best_precision(learning, device)
    knowledge = _knowledge(learning, device, prices, precision)
    path = inputs.work / "policy.onnx"
    if not path.exists() or smoke:
        make = partial(_world, learning, device, prices, 2 if smoke else _EPISODES)
        sac.export(sac.train(make, 1 if smoke else _ROUNDS, 0, inputs.say), path)
    makers: dict[str, Callable[[World], Policy]] = {
        "fixed rule": FixedRule,
        "fixed rule, best precision": lambda world: FixedRule(world, precision),
        "greedy": lambda _world: Greedy(),
        "never ask": lambda world: Static(np.full(len(world.episodes), DEVICE)),
        "HI-LCB-lite": lambda world: HiLcbLite(world, _prices(world, prices), precision, knowledge),
        "HI-LCB-lite, cold": lambda world: HiLcbLite(world, _prices(world, prices), precision),
        "learned": lambda _world: sac.Learned(path),
    }
    streams = training if smoke else [data.load_stream(place, inputs) for place in data.MEASURED]
    inputs.say("the policies run")
    found = _compare(episodes(streams, _LINKS[: 2 if smoke else None]), len(streams), device, makers)
    main = found["policies"]
    ratio = {name: main["learned"]["latency_ms"] / main[name]["latency_ms"] for name in (*_BARS, "HI-LCB-lite")}
    pays = ratio["HI-LCB-lite"] < 1.0 and all(ratio[name] <= bar for name, bar in _BARS.items())
    details = {"bytes": path.stat().st_size, "precision": precision, "ratios": ratio, "prices_s": prices, **found}
    return Measurement(ratio["fixed rule"], "mean latency over the fixed rule's at equal error", pays, _plain(details))


def _plain(value: Any) -> Any:
    """``value`` with None in place of numbers that are not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _plain(own) for key, own in value.items()}
    if isinstance(value, list):
        return [_plain(own) for own in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _with(own: Episodes, budgets: Sequence[float]) -> Episodes:
    """The episodes at every budget, budget by budget."""
    rows = np.tile(np.arange(len(own)), len(budgets))
    return own.take(rows, np.repeat(np.asarray(budgets, np.float64), len(own)))


def _prices(world: World, prices: dict[float, float]) -> Floats:
    return np.array([prices[budget] for budget in world.episodes.budget.tolist()])


def _world(
    own: Episodes, device: Durations, prices: dict[float, float], count: int, number: int
) -> tuple[World, Floats]:
    """Random episodes with random budgets for round ``number`` of the training."""
    rng = np.random.default_rng(number)
    world = World(own.take(rng.integers(len(own), size=count), rng.choice(_TRAINED, count)), device)
    return world, _prices(world, prices)


def _best_precision(own: Episodes, device: Durations) -> int:
    """The precision with which the fixed rule has least latency on the training episodes."""
    at = _with(own, [MAX_DISAGREEMENT])
    runs = [play(partial(FixedRule, precision=precision), at, device) for precision in range(PRECISIONS)]
    return int(np.argmin([run.latency.mean() for run in runs]))


def _knowledge(own: Episodes, device: Durations, prices: dict[float, float], precision: int) -> Knowledge:
    """What HI-LCB-lite learns on the training episodes, each begun without knowledge."""
    world = World(_with(own, [MAX_DISAGREEMENT]), device)
    policy = HiLcbLite(world, _prices(world, prices), precision)
    while not world.done:
        actions = policy.act(world)
        policy.learn(world, actions, world.step(actions))
    return policy.knowledge


def _compare(
    own: Episodes, streams: int, device: Durations, makers: dict[str, Callable[[World], Policy]]
) -> dict[str, Any]:
    """Curves of all policies, and their latencies at equal error."""
    every = _with(own, BUDGETS)
    runs = {name: play(make, every, device) for name, make in makers.items()}
    count, at = len(own), _with(own, [MAX_DISAGREEMENT])
    fixed = runs["fixed rule"].error[REFERENCE * count : (REFERENCE + 1) * count]
    routes = [play(lambda _world, own=one: Static(np.full(count, own)), at, device) for one in STATIC]  # type: ignore[misc]
    runs["route in hindsight"] = hindsight(joined(routes), fixed)
    runs["always ask"] = play(lambda _world: Static(np.full(count, ASK)), at, device, local=False)
    runs["hindsight"] = hindsight(static(own, device), fixed)
    policies: dict[str, Any] = dict(ratios(_curves(runs, count, streams, "error"), "fixed rule", REFERENCE))
    at_risk = ratios(_curves(runs, count, streams, "charge"), "fixed rule", REFERENCE)
    for name, run in runs.items():
        parts = range(0, len(run.error), count)
        policies[name]["at_equal_risk"] = at_risk[name]
        policies[name]["curve"] = [
            {
                "error": float(run.error[first : first + count].mean()),
                "risk": float(run.charge[first : first + count].mean()),
                "asked": float(run.asked[first : first + count].mean()),
                "latency_ms": 1e3 * float(run.latency[first : first + count].mean()),
                "p95_ms": 1e3 * float(np.quantile(run.latency[first : first + count], 0.95)),
            }
            for first in parts
        ]
    return {"error": float(fixed.mean()), "streams": [one.name for one in own.streams], "policies": policies}


def _curves(runs: dict[str, Played], count: int, streams: int, measure: str) -> dict[str, Curve]:
    """The curves over ``error`` or ``charge``."""
    found = {}
    for name, run in runs.items():
        shape = (len(run.error) // count, streams, count // streams)
        latency = run.latency.mean(1, dtype=np.float64)
        found[name] = Curve(latency.reshape(shape), getattr(run, measure).reshape(shape))
    return found


ROW = Row(
    "adapts to the channel on a Raspberry Pi 4, without a figure that can be compared (SAC-d, arXiv 2201.02968); "
    "regret O(log T) (HI-LCB-lite, arXiv 2508.08985)",
    measure,
)
