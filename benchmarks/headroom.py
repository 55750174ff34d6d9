"""How much a local model could answer at most: the full model itself in a submodel's place, for nothing.

    python -m benchmarks.headroom --stream session --seeds 20

What stays unanswered then is what the cascade does not trust the full model itself with, whatever a submodel learns.
What lies between that and the submodels that there are is theirs to win. Replays of streams of test images, in shares
of frames, means over seeds with their 95 % intervals:

- ``base``: the base model alone; ``general``: with the general models of other sizes; ``submodels``: all of the bundle.
- ``full``: the full model as the only submodel, at the same risk budget.
- ``small`` and ``special``, where the submodels are smaller than the base model: the general model of their size alone,
  and with them.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cachenet.models.certify import recorded, replay
from cachenet.models.certify.replay import Family
from cachenet.models.data import cifar10, streams
from cachenet.models.data.scenes import SCENES, UNSEEN
from cachenet.models.report.confidence_interval import intervals
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.reference import disagreements
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT

#: What the full model is called where it is a submodel.
_TWIN = "twin"


def measure(
    directory: Path, stream: streams.Name, seeds: range, frames: int, budget: float, scenes: Sequence[int]
) -> dict[str, object]:
    """The figures as the command prints them."""
    bundle = Bundle(directory)
    test = cifar10.load().test
    plans = [streams.plan(stream, test.labels, seed, frames, None, scenes) for seed in seeds]
    shown = np.unique(np.concatenate([plan.source for plan in plans]))  # no other picture needs to be looked at
    plans = [replace(plan, source=np.searchsorted(shown, plan.source)) for plan in plans]
    every, alike = replay.family(bundle.manifest), replay.of_one_size(bundle.manifest)
    ways = _ways(every)
    if alike.base != every.base:
        ways |= {"small": alike.generalists(), "special": alike}
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for film in recorded.record(plans, test.take(shown), recorded.opened(bundle)):
        both = replace(film, logits=film.logits | {_TWIN: film.logits[every.full]})
        full = film.trace(every).labels
        for way, family in ways.items():
            run = replay.run(both, family, replay.cascade(both, family, budget))
            disagreement = float(disagreements(run.labels, full).mean())
            rows[way].append({"local_share": 1.0 - float(run.full_answered.mean()), "disagreement": disagreement})
    setting = {"bundle": bundle.version[:12], "stream": stream, "first_seed": seeds.start, "seeds": len(seeds)}
    limits = {"frames": frames, "scenes": list(scenes), "max_disagreement": budget}
    return {**setting, **limits, "ways": {way: intervals(own) for way, own in rows.items()}}


def _ways(every: Family) -> dict[str, Family]:
    """Which models look, by the name of the way."""
    twin = replace(
        every,
        submodels=(_TWIN,),
        general=(),
        temperatures=every.temperatures | {_TWIN: every.temperatures[every.full]},
        coverage=every.coverage | {_TWIN: np.ones_like(every.coverage[every.full])},
        seconds=every.seconds | {_TWIN: 0.0},
    )
    base = replace(every, submodels=(), general=())
    return {"base": base, "general": every.generalists(), "submodels": every, "full": twin}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--stream", choices=recorded.UNRELATED, default="session")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--max-disagreement", type=float, default=MAX_DISAGREEMENT)
    parser.add_argument("--unseen", action="store_true", help="only scenes that the bundle was not made for")
    asked = parser.parse_args()
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    scenes = UNSEEN if asked.unseen else range(len(SCENES))
    print(json.dumps(measure(asked.bundle, asked.stream, seeds, asked.frames, asked.max_disagreement, scenes)))


if __name__ == "__main__":
    main()
