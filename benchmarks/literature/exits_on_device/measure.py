"""The measurement: local answers with and without exits, at equal false hits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.literature.exits_on_device import asking, cases
from benchmarks.literature.exits_on_device.cases import Case
from benchmarks.literature.exits_on_device.choice import Chosen, Outcome, Times, choose, ends, play, subsets
from benchmarks.literature.exits_on_device.stages import SITES, Stages
from benchmarks.literature.row import Inputs, Measurement, Row
from cachenet.simulator.world import hardware_profiles

#: Shares of false hits, of all frames, for which policies are chosen; the second decides.
LIMITS = (0.005, 0.01, 0.02)
#: Bar: mean device time of local answers without exits over that with exits.
_BAR = 1.5
#: Link for which policies are chosen, and all links.
_LINK, _LINKS = "wifi", ("lan", "wifi", "3g")
#: The machine that runs the measurement, and devices by profile.
_HOST, _DEVICES = "host", ("rpi4", "rpi5")
#: Policies that are chosen on the test frames as well: exactly equal shares of false hits, which no user can have.
_HINDSIGHT = ("hi", "ee-hi", "exit-only", "small", "small+base")
#: Samples of a bootstrap.
_DRAWS = 1000
Floats = npt.NDArray[np.float64]


def ratio(first: tuple[Floats, npt.NDArray[np.bool_]], second: tuple[Floats, npt.NDArray[np.bool_]], block: int) -> Any:
    """Mean of the first times over that of the second, each over its own mask, with a 95 % interval by a bootstrap over
    blocks of frames; None if one mask is empty."""
    if not first[1].any() or not second[1].any():
        return None
    sums = []
    for times, mask in (first, second):
        starts = np.arange(0, len(times), block)
        sums.append((np.add.reduceat(times * mask, starts), np.add.reduceat(mask.astype(np.float64), starts)))
    rng, drawn = np.random.default_rng(0), []
    count = len(sums[0][0])
    for rows in (np.arange(count), *(rng.integers(count, size=count) for _ in range(_DRAWS))):
        (a, n), (b, m) = ((own[rows].sum(), many[rows].sum()) for own, many in sums)
        if n and m and b:
            drawn.append((a / n) / (b / m))
    low, high = np.quantile(drawn[1:], (0.025, 0.975)).tolist()
    return {"mean": round(float(drawn[0]), 3), "interval": [round(low, 3), round(high, 3)]}


def measure(inputs: Inputs) -> Measurement:
    """Measure all cases. Raises ``UserError`` if a clip or CIFAR-10 is not there."""
    torch.set_num_threads(1)
    makers = (cases.camera,) if inputs.smoke else (cases.camera, cases.cifar)
    found = {case.name: _case(case, inputs) for case in (make(inputs) for make in makers)}
    key = str(LIMITS[1])
    speedups = {name: own[_HOST][key]["ee-hi@hindsight"]["speedup_of_local_answers"] for name, own in found.items()}
    means = {name: one["mean"] if one else 0.0 for name, one in speedups.items()}
    name, least = min(means.items(), key=lambda pair: pair[1])
    unit = f"times less device time of local answers at 1 % false hits, {name}"
    return Measurement(least, unit, least >= _BAR, found)


def _case(case: Case, inputs: Inputs) -> dict[str, Any]:
    inputs.say(f"{case.name}: exits of the base model, from {len(case.learn)} frames")
    stages = Stages(case, inputs.work, 1 if inputs.smoke else SITES)
    agreement = {
        one.name: round(float((one.test.argmax(1) == case.test.full.argmax(1)).mean()), 4) for one in stages.all
    }
    found: dict[str, Any] = {"frames": len(case.test), "agreement": agreement, "request_bytes": case.request}
    for name in (_HOST, *_DEVICES[: 1 if inputs.smoke else None]):
        device = hardware_profiles.device(name)
        reached, lookups = stages.measured if name == _HOST else stages.estimated(device)
        asks = {link: asking.question(device, link, case.full, case.request) for link in _LINKS}
        times = Times(reached, lookups, asks[_LINK].seconds)
        found[name] = {"stages_ms": _milliseconds(stages, times), "around_ms": 1e3 * asking.around_s(device)}
        found[name]["ask_ms"] = {link: round(1e3 * ask.seconds, 2) for link, ask in asks.items()}
        for limit in LIMITS[1:2] if inputs.smoke else LIMITS:
            sets = subsets(stages.all)
            chosen = {policy: choose(own, case, times, limit) for policy, own in sets.items()}
            chosen |= {f"{policy}@hindsight": choose(sets[policy], case, times, limit, "test") for policy in _HINDSIGHT}
            rows: dict[str, Any] = {}
            for policy, own in chosen.items():
                hi = chosen["hi@hindsight" if policy.endswith("@hindsight") else "hi"]
                base, base_ends = play(hi, case, times), ends(hi, times)
                outcome, own_ends = play(own, case, times), ends(own, times)
                if name == _HOST:
                    own_ends, alone = stages.chain(own.stages)
                    base_ends = [alone]
                rows[policy] = _row(own, outcome, own_ends, base, base_ends, case)
                for link, ask in asks.items():
                    work = float(outcome.device(own_ends).mean()) + asking.around_s(device)
                    asked = float((~outcome.local).mean())
                    rows[policy][f"decision_ms {link}"] = round(1e3 * (work + asked * ask.seconds), 3)
                    if device.watts is not None:
                        rows[policy][f"millijoules {link}"] = round(1e3 * asking.joules(device, work, asked, ask), 3)
            found[name][str(limit)] = rows
            inputs.say(f"{case.name}, {name}, {limit:.1%} false hits: " + _line(rows))
    return found


def _milliseconds(stages: Stages, times: Times) -> dict[str, list[float]]:
    """Milliseconds until each stage's place, and of its own model."""
    return {
        stage.name: [round(1e3 * times.reached[stage.site], 4), round(1e3 * times.lookups[stage.site], 4)]
        for stage in stages.all
    }


def _row(
    own: Chosen, outcome: Outcome, own_ends: list[float], base: Outcome, base_ends: list[float], case: Case
) -> dict[str, Any]:
    device, before = outcome.device(own_ends), base.device(base_ends)
    everything = np.ones(len(device), np.bool_)
    return {
        "stages": [stage.name for stage in own.stages],
        "answered": [round(float((outcome.answered == number).mean()), 4) for number in range(outcome.stages)],
        "local": round(float(outcome.local.mean()), 4),
        "false_hits": round(float(outcome.false.mean()), 4),
        "device_ms_of_local_answers": round(1e3 * float(device[outcome.local].mean()), 4)
        if outcome.local.any()
        else None,
        "device_ms": round(1e3 * float(device.mean()), 4),
        "speedup_of_local_answers": ratio((before, base.local), (device, outcome.local), case.block),
        "speedup_of_device": ratio((before, everything), (device, everything), case.block),
    }


def _line(rows: dict[str, Any]) -> str:
    """The share answered locally and the device's time of each policy, as progress."""
    return ", ".join(f"{policy} {row['local']:.1%} in {row['device_ms']} ms" for policy, row in rows.items())


ROW = Row("up to 60 % less latency and energy than hierarchical inference without exits (EE-HI, five devices)", measure)
