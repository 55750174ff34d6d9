"""The cascade on the CIFAR-10 streams, against the earlier decision rule.

    python -m benchmarks.cifar_streams
    python -m benchmarks.cifar_streams --stream dwell --seeds 5 --json

Streams of test images, on which nothing was fitted, at several risk budgets,
without audits: the share of frames that are answered locally, and the share of
all answers that disagree with the full model. "before" is the rule of version
330b56d on the same streams, seeds 1000 to 1019, at five risk targets, measured
once. "at equal disagreement" is the cascade's local share at the disagreement
of the rule before, interpolated between its two nearest budgets.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cachenet.models.certify import recorded, replay
from cachenet.models.certify.replay import Recorded
from cachenet.models.data import cifar10, streams
from cachenet.models.report.confidence_interval import interval
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.reference import disagreements

#: Risk budgets.
BUDGETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
#: Measures of the earlier rule.
_BEFORE = Path(__file__).parent / "data" / "cifar10_330b56d.json"

Row = dict[str, Any]


def measure(bundle: Bundle, name: streams.Name, seeds: range, frames: int, budgets: Sequence[float]) -> Row:
    """Measures of one kind of stream, as in the JSON."""
    family, models = replay.family(bundle.manifest), recorded.opened(bundle)
    test = cifar10.load().test
    plans = [streams.plan(name, test.labels, seed, frames) for seed in seeds]
    groups = [[plan] for plan in plans]  # traces of many streams would be large
    if name in recorded.UNRELATED:  # run each picture once for all streams
        shown = np.unique(np.concatenate([plan.source for plan in plans]))
        groups = [[replace(plan, source=np.searchsorted(shown, plan.source)) for plan in plans]]
        test = test.take(shown)
    found: dict[float, list[dict[str, float]]] = {budget: [] for budget in budgets}
    for stream in chain.from_iterable(recorded.record(group, test, models) for group in groups):
        for budget, rows in found.items():
            rows.append(_measures(stream, family, budget))
        if sys.stderr.isatty():
            print(f"\r{name}: {len(rows)} of {len(plans)} streams", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    curve = [
        {"max_disagreement": budget, **{key: interval([row[key] for row in rows]) for key in rows[0]}}
        for budget, rows in found.items()
    ]
    before = json.loads(_BEFORE.read_text())[name]
    return {"curve": curve, "before": before, "at_equal_disagreement": compared(curve, before)}


def _measures(stream: Recorded, family: replay.Family, budget: float) -> dict[str, float]:
    run = replay.run(stream, family, replay.cascade(stream, family, budget))
    full = stream.trace(family).labels
    return {
        "local_share": 1.0 - float(run.full_answered.mean()),
        "disagreement": float(disagreements(run.labels, full).mean()),
        "agreement": float((run.labels == full).mean()),
        "truth": float((run.labels == stream.truth).mean()),
    }


def compared(curve: Sequence[Row], before: Sequence[Row]) -> list[Row]:
    """Points of the earlier rule that no other of its points beats, with the cascade's local share at the same
    disagreement. The share is None where the cascade disagrees more at every budget. Where it disagrees less at every
    budget, the share is its largest one."""
    own = _unbeaten([(row["disagreement"]["mean"], row["local_share"]["mean"]) for row in curve])
    found = []
    for disagreement, share in _unbeaten([(row["disagreement"], row["local_share"]) for row in before]):
        local = None
        if disagreement >= own[0][0]:
            rates, shares = np.array(own).T
            local = round(float(np.interp(disagreement, rates, shares)), 5)
        difference = None if local is None else round(local - share, 5)
        found.append({"disagreement": disagreement, "before": share, "local_share": local, "difference": difference})
    return found


def _unbeaten(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (disagreement, local share) that no other point beats, in order of disagreement."""
    front: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda one: (one[0], -one[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def _tables(found: dict[str, Row], console: Console) -> None:
    for name, rows in found.items():
        table = Table("budget", "local", "disagreement", "agreement", "truth", title=name, box=None)
        for row in rows["curve"]:
            shares = (row[key]["mean"] for key in ("local_share", "disagreement", "agreement", "truth"))
            table.add_row(f"{row['max_disagreement']:.1%}", *(f"{share:.2%}" for share in shares))
        console.print(table)
        table = Table("disagreement", "local before", "local at equal disagreement", "points", box=None)
        for row in rows["at_equal_disagreement"]:
            local, difference = row["local_share"], row["difference"]
            cells = ("-", "-") if local is None else (f"{local:.1%}", f"{100 * difference:+.1f}")
            table.add_row(f"{row['disagreement']:.2%}", f"{row['before']:.1%}", *cells)
        console.print(table)
        console.print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--stream", action="append", choices=streams.NAMES, help="may be repeated; default: all")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    chosen = parser.parse_args()
    bundle = Bundle(chosen.bundle)
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    found = {name: measure(bundle, name, seeds, chosen.frames, BUDGETS) for name in chosen.stream or streams.NAMES}
    setting = {"bundle": bundle.version[:12], "first_seed": seeds.start, "seeds": len(seeds), "frames": chosen.frames}
    if chosen.json:
        print(json.dumps({**setting, "streams": found}))
        return
    _tables(found, Console(highlight=False, markup=False))
    print(", ".join(f"{name} {value}" for name, value in setting.items()))


if __name__ == "__main__":
    main()
