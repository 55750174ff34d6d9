"""The cascade on the CIFAR-10 streams.

    python -m benchmarks.cifar_streams
    python -m benchmarks.cifar_streams --stream dwell --seeds 5 --json

Streams of test images, on which nothing was fitted, at several risk budgets,
without audits: the share of frames that are answered locally, and the share of
all answers that disagree with the full model.
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

from cachenet.models.certify import traces
from cachenet.models.certify.traces import RecordedStream
from cachenet.models.data import cifar10, streams
from cachenet.models.report.confidence_interval import intervals
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.reference import disagreements

#: Risk budgets.
BUDGETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)

Row = dict[str, Any]


def measure(bundle: Bundle, name: streams.StreamName, seeds: range, frames: int, budgets: Sequence[float]) -> Row:
    """Measures of one kind of stream, as in the JSON."""
    family, models = traces.family_of(bundle.manifest), traces.open_models(bundle)
    test = cifar10.load().test
    plans = [streams.schedule(name, test.labels, seed, frames) for seed in seeds]
    groups = [[plan] for plan in plans]  # traces of many streams would be large
    if name in traces.UNRELATED:  # run each picture once for all streams
        shown = np.unique(np.concatenate([plan.source for plan in plans]))
        groups = [[replace(plan, source=np.searchsorted(shown, plan.source)) for plan in plans]]
        test = test.take(shown)
    found: dict[float, list[dict[str, float]]] = {budget: [] for budget in budgets}
    for stream in chain.from_iterable(traces.record_streams(group, test, models) for group in groups):
        for budget, rows in found.items():
            rows.append(_measures(stream, family, budget))
        if sys.stderr.isatty():
            print(f"\r{name}: {len(rows)} of {len(plans)} streams", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return {"curve": [{"max_disagreement": budget, **intervals(rows)} for budget, rows in found.items()]}


def _measures(stream: RecordedStream, family: traces.ModelFamily, budget: float) -> dict[str, float]:
    run = traces.replay(stream, family, traces.device_cascade(stream, family, budget))
    full = stream.trace(family).labels
    return {
        "local_share": 1.0 - float(run.misses.mean()),
        "disagreement": float(disagreements(run.labels, full).mean()),
        "agreement": float((run.labels == full).mean()),
        "truth": float((run.labels == stream.truth).mean()),
    }


def _tables(found: dict[str, Row], console: Console) -> None:
    for name, rows in found.items():
        table = Table("budget", "local", "disagreement", "agreement", "truth", title=name, box=None)
        for row in rows["curve"]:
            shares = (row[key]["mean"] for key in ("local_share", "disagreement", "agreement", "truth"))
            table.add_row(f"{row['max_disagreement']:.1%}", *(f"{share:.2%}" for share in shares))
        console.print(table)
        console.print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--stream", action="append", choices=streams.STREAM_NAMES, help="may be repeated; default: all")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    chosen = parser.parse_args()
    bundle = Bundle(chosen.bundle)
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    found = {
        name: measure(bundle, name, seeds, chosen.frames, BUDGETS) for name in chosen.stream or streams.STREAM_NAMES
    }
    setting = {"bundle": bundle.version[:12], "first_seed": seeds.start, "seeds": len(seeds), "frames": chosen.frames}
    if chosen.json:
        print(json.dumps({**setting, "streams": found}))
        return
    _tables(found, Console(highlight=False, markup=False))
    print(", ".join(f"{name} {value}" for name, value in setting.items()))


if __name__ == "__main__":
    main()
