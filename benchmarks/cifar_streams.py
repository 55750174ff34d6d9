"""The cascade on the CIFAR-10 streams, beside the rule that it replaced.

    python -m benchmarks.cifar_streams
    python -m benchmarks.cifar_streams --stream dwell --seeds 5 --json

Streams of test images, on which nothing was fitted, at several risk budgets,
without audits: the share of frames that is answered locally, and the share of
all answers that disagree with the full model. "before" is the rule of version
330b56d on the same streams, seeds 1000 to 1019, at five claims, recorded once.
"at equal disagreement" is the share that the cascade answers locally where it
disagrees as often as the rule before, between its two nearest budgets.
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

BUDGETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
_BEFORE = Path(__file__).parent / "data" / "cifar10_330b56d.json"

Row = dict[str, Any]


def measure(bundle: Bundle, name: streams.Name, seeds: range, frames: int, budgets: Sequence[float]) -> Row:
    """One stream's figures, as the JSON has them."""
    family, models = replay.family(bundle.manifest), recorded.opened(bundle)
    test = cifar10.load().test
    plans = [streams.plan(name, test.labels, seed, frames) for seed in seeds]
    together = [[plan] for plan in plans]  # a recording of many would be large
    if name in recorded.UNRELATED:  # each picture that is shown is run once for all streams
        shown = np.unique(np.concatenate([plan.source for plan in plans]))
        together = [[replace(plan, source=np.searchsorted(shown, plan.source)) for plan in plans]]
        test = test.take(shown)
    found: dict[float, list[dict[str, float]]] = {budget: [] for budget in budgets}
    for stream in chain.from_iterable(recorded.record(group, test, models) for group in together):
        for budget, rows in found.items():
            rows.append(_figures(stream, family, budget))
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


def _figures(stream: Recorded, family: replay.Family, budget: float) -> dict[str, float]:
    run = replay.run(stream, family, replay.cascade(stream, family, budget))
    full = stream.trace(family).labels
    return {
        "local_share": 1.0 - float(run.full_answered.mean()),
        "disagreement": float(disagreements(run.labels, full).mean()),
        "agreement": float((run.labels == full).mean()),
        "truth": float((run.labels == stream.truth).mean()),
    }


def compared(curve: Sequence[Row], before: Sequence[Row]) -> list[Row]:
    """The rule before, at each of its points that no other of its points beats, beside the cascade where it disagrees
    as often. ``local_share`` is None where the cascade disagrees more at every budget; where it disagrees less at every
    budget, its largest share stands."""
    own = _best([(row["disagreement"]["mean"], row["local_share"]["mean"]) for row in curve])
    found = []
    for disagreement, share in _best([(row["disagreement"], row["local_share"]) for row in before]):
        here = None
        if disagreement >= own[0][0]:
            rates, shares = np.array(own).T
            here = round(float(np.interp(disagreement, rates, shares)), 5)
        difference = None if here is None else round(here - share, 5)
        found.append({"disagreement": disagreement, "before": share, "local_share": here, "difference": difference})
    return found


def _best(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points (disagreement, local share) those that no other beats, in the order of disagreement."""
    kept: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda one: (one[0], -one[1])):
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return kept


def _tables(found: dict[str, Row], console: Console) -> None:
    for name, rows in found.items():
        table = Table("budget", "local", "disagreement", "bare agreement", "truth", title=name, box=None)
        for row in rows["curve"]:
            shares = (row[key]["mean"] for key in ("local_share", "disagreement", "agreement", "truth"))
            table.add_row(f"{row['max_disagreement']:.1%}", *(f"{share:.2%}" for share in shares))
        console.print(table)
        table = Table("disagreement", "local before", "local at equal disagreement", "points", box=None)
        for row in rows["at_equal_disagreement"]:
            here, difference = row["local_share"], row["difference"]
            cells = ("-", "-") if here is None else (f"{here:.1%}", f"{100 * difference:+.1f}")
            table.add_row(f"{row['disagreement']:.2%}", f"{row['before']:.1%}", *cells)
        console.print(table)
        console.print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--stream", action="append", choices=streams.NAMES, help="may come again; default: all")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    asked = parser.parse_args()
    bundle = Bundle(asked.bundle)
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    found = {name: measure(bundle, name, seeds, asked.frames, BUDGETS) for name in asked.stream or streams.NAMES}
    setting = {"bundle": bundle.version[:12], "first_seed": seeds.start, "seeds": len(seeds), "frames": asked.frames}
    if asked.json:
        print(json.dumps({**setting, "streams": found}))
        return
    _tables(found, Console(highlight=False, markup=False))
    print(", ".join(f"{name} {value}" for name, value in setting.items()))


if __name__ == "__main__":
    main()
