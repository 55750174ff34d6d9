"""Which submodel should go: the replacement policies against Belady's optimum.

    python -m benchmarks.replacement --room 2 --seeds 20

Long ``session`` streams are walked with their true labels: at every frame the server's selector says which submodel it
would recommend, and where that is another than before, it is used if it is resident and fetched if it is not.
``fetched`` is the share of such changes that cost a download; ``optimum`` knows the future (L. Belady, IBM Systems
Journal 5:2, 1966). Means over seeds with 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cloud_server.selector import recommend
from edge_agent.core.replacement import POLICIES, Policy
from edge_agent.core.submodels import LocalModel, Submodels
from models import sample, streams
from models.interval import interval
from shared.bundle import Bundle, Manifest
from shared.protocol import RECENT


def measure(directory: Path, room: int, seeds: range, frames: int) -> dict[str, object]:
    """The figures as the command prints them."""
    manifest = Bundle(directory).manifest
    rows: dict[str, list[float]] = defaultdict(list)
    changes = []
    for seed in seeds:
        wanted = _wanted(manifest, seed, frames)
        changes.append(len(wanted))
        for policy in POLICIES:
            rows[policy].append(_fetched(manifest, wanted, room, policy) / len(wanted))
        rows["optimum"].append(_least([name for name, _ in wanted], room) / len(wanted))
    return {
        "bundle": manifest.name,
        "stream": "session",
        "first_seed": seeds.start,
        "seeds": len(seeds),
        "frames": frames,
        "room": room,
        "submodels": len(manifest.submodels()),
        "changes": float(np.mean(changes)),
        "fetched": {policy: interval(own) for policy, own in rows.items()},
    }


def _wanted(manifest: Manifest, seed: int, frames: int) -> list[tuple[str, np.ndarray]]:
    """The submodels that are recommended one after another, each with the working set it is recommended for."""
    labels = streams.plan("session", sample.load().labels, seed, frames).label.tolist()
    uniform = np.full(len(manifest.labels), 1.0 / len(manifest.labels))
    wanted: list[tuple[str, np.ndarray]] = []
    recent: list[int] = []
    for label in labels:
        if not recent or recent[-1] != label:
            recent = [*recent, label][-RECENT:]
        name = recommend(manifest, np.eye(len(uniform))[label], recent)
        if name is not None and (not wanted or wanted[-1][0] != name):
            wanted.append((name, (np.bincount(recent, minlength=len(uniform)) + uniform) / (len(recent) + 1)))
    return wanted


def _fetched(manifest: Manifest, wanted: Sequence[tuple[str, np.ndarray]], room: int, policy: Policy) -> int:
    cache = Submodels(room, np.array(manifest.models[manifest.only("base")].coverage), policy)
    fetched = 0
    for name, working_set in wanted:
        cache.labels = working_set
        if not cache.touch(name):
            fetched += 1
            cache.admit(LocalModel(name, _silent, 1.0, np.array(manifest.models[name].coverage), 1))
    return fetched


def _silent(_view: object) -> np.ndarray:
    raise AssertionError("nobody is asked here")


def _least(names: Sequence[str], room: int) -> int:
    """Fetches of a cache that always lets go of what is wanted last."""
    following: list[float] = [math.inf] * len(names)
    seen: dict[str, int] = {}
    for place in reversed(range(len(names))):
        following[place] = seen.get(names[place], math.inf)
        seen[names[place]] = place
    resident: dict[str, float] = {}
    fetched = 0
    for name, then in zip(names, following, strict=True):
        if name not in resident:
            fetched += 1
            if len(resident) == room:
                del resident[max(resident, key=resident.__getitem__)]
        resident[name] = then
    return fetched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--room", type=int, default=2, help="submodels that fit")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=20_000)
    asked = parser.parse_args()
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    print(json.dumps(measure(asked.bundle, asked.room, seeds, asked.frames)))


if __name__ == "__main__":
    main()
