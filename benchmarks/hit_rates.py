"""How much is answered locally, how often falsely, how accurately: replays of recorded streams of test images.

    python -m benchmarks.hit_rates --stream camera --seeds 20

Every stream draws from the CIFAR-10 test set, on which nothing was fitted; the models run once per frame and every
policy decides over the same scores:

- ``ours``: frame cache, submodels, base model and context, the gate at the budget.
- ``cachenet``: the paper's rule (arXiv 2007.01793), one submodel and the entropy of what it says, the threshold fitted
  to the same budget on the same streams as ours; the best submodel is always there.
- ``generalist``: ours without specialised submodels.
- ``server+context``: the full model on every frame with our filter; ``server-only``: the same without.
- ``oracle``: a local answer wherever any local model's first label is the reference's, else ``server+context``'s.

Each figure is a mean over seeds with its 95 % interval; ``over_budget`` is the share of streams whose false hits are
more than the budget.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from itertools import chain
from pathlib import Path

import numpy as np

from models import cifar10, recorded, replay, streams
from models.interval import intervals
from models.replay import Recorded, Replay
from shared.bundle import Bundle, Gate
from shared.context import FORGETFUL

Figures = dict[str, float]


def measure(directory: Path, stream: streams.Name, seeds: range, frames: int, budget: float) -> dict[str, object]:
    """The figures as the command prints them; shares of frames."""
    bundle = Bundle(directory)
    manifest = bundle.manifest
    gate = manifest.gate(budget)
    family = replay.family(manifest)
    models = recorded.opened(bundle)
    test = cifar10.load().test
    plans = [streams.plan(stream, test.labels, seed, frames) for seed in seeds]
    rows: dict[str, list[Figures]] = defaultdict(list)
    # Of unrelated pictures each is run once for all streams; a recording of many others would be large.
    together = [plans] if stream in recorded.UNRELATED else [[plan] for plan in plans]
    for recording in chain.from_iterable(recorded.record(group, test, models) for group in together):
        for policy, figures in _policies(recording, family, gate, budget).items():
            rows[policy].append(figures)
    return {
        "bundle": manifest.name,
        "stream": stream,
        "first_seed": seeds.start,
        "seeds": len(seeds),
        "frames": frames,
        "max_false_hits": budget,
        "claim": gate.claim,
        "entropy": gate.entropy,
        "policies": {policy: intervals(own) for policy, own in rows.items()},
    }


def _policies(recording: Recorded, family: replay.Family, gate: Gate, budget: float) -> dict[str, Figures]:
    full = recording.logits[family.full].argmax(1)
    reference = replay.reference_labels(recording, family)
    ways = {
        "ours": replay.ours(recording, family, gate.claim),
        "cachenet": replay.paper(recording, family, gate.entropy),
        "generalist": replay.ours(recording, family.generalists(), gate.claim),
        "server+context": replay.full_alone(recording, family, family.context, gate.claim),
        "server-only": replay.full_alone(recording, family, FORGETFUL),
    }
    runs = {policy: replay.run(recording, family, hierarchy) for policy, hierarchy in ways.items()}
    first = np.stack([recording.logits[name].argmax(1) for name in (family.base, *family.submodels)])
    known = (first == reference).any(0)
    runs["oracle"] = Replay(np.where(known, reference, runs["server+context"].labels), known)

    figures = {}
    for policy, run in runs.items():
        false_hits = run.false_hits(reference)
        figures[policy] = {
            "local_share": float(run.hit.mean()),
            "false_hit_rate": false_hits,
            "over_budget": float(false_hits > budget),
            "accuracy": float((run.labels == recording.truth).mean()),
            "agreement": float((run.labels == full).mean()),
            "full_model_accuracy": float((full == recording.truth).mean()),
        }
        if policy in ways:
            hits = ways[policy].tally.hits
            figures[policy] |= {f"{level}_share": count / len(full) for level, count in hits.items()}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--stream", choices=streams.NAMES, default="camera")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--max-false-hits", type=float, default=0.01)
    asked = parser.parse_args()
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    print(json.dumps(measure(asked.bundle, asked.stream, seeds, asked.frames, asked.max_false_hits)))


if __name__ == "__main__":
    main()
