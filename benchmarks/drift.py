"""What happens to the promise when the camera changes: frames turn dark, blurred or noisy in mid-stream.

    python -m benchmarks.drift --stream dwell --seeds 20

Streams of CIFAR-10 test images, on which nothing was fitted; from ``--onset`` on every picture is spoilt, and the full
model, which is the reference, sees it so as well. Ours with audits and without: false hits per frame, and what is
answered locally, in the frames before, in the thousand after, and in frames 1,001 to 4,000 after. Means over seeds.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from edge_agent.core.audits import Audits
from models import cifar10, recorded, replay, streams
from models.replay import Recorded
from shared.bundle import Bundle, Gate
from shared.image import Picture

_AFTER = 4000
#: What comes over the camera; the seed is the picture's number.
DRIFTS: dict[str, Callable[[Picture, int], Picture]] = {
    "dark": lambda picture, _: np.round(0.3 * picture).astype(np.uint8),
    "blurred": lambda picture, _: np.asarray(cv2.GaussianBlur(picture, (0, 0), 1.0), np.uint8),
    "noisy": lambda picture, seed: np.clip(
        np.round(picture + np.random.default_rng(seed).normal(0, 20, picture.shape)), 0, 255
    ).astype(np.uint8),
}


def measure(directory: Path, name: streams.Name, seeds: range, onset: int, budget: float) -> dict[str, object]:
    """The figures as the command prints them."""
    bundle = Bundle(directory)
    family, gate = replay.family(bundle.manifest), bundle.manifest.gate(budget)
    test = cifar10.load().test
    pictures = recorded.as_pictures(test.images)
    ways = {"none": pictures} | {
        drift: [spoil(picture, number) for number, picture in enumerate(pictures)] for drift, spoil in DRIFTS.items()
    }
    models = recorded.opened(bundle, 2)
    tables = {way: recorded.run_all(models, several) for way, several in ways.items()}

    figures: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    plans = [streams.plan(name, test.labels, seed, onset + _AFTER) for seed in seeds]
    for drift in DRIFTS:
        rows: dict[str, list[dict[str, dict[str, float]]]] = {"audited": [], "not audited": []}
        for plan in plans:
            spoilt = np.arange(len(plan)) >= onset
            logits = {
                model: np.where(spoilt[:, None], tables[drift][model][plan.source], table[plan.source])
                for model, table in tables["none"].items()
            }
            stream = Recorded(plan.label, logits, None)
            reference = replay.reference_labels(stream, family)
            for policy, own in rows.items():
                hierarchy = replay.ours(stream, family, gate.claim)
                if policy == "audited":
                    hierarchy.audits = _audits(gate, family, plan.seed)
                own.append(_figures(replay.run(stream, family, hierarchy), reference, onset))
        figures[drift] = {policy: _mean(own) for policy, own in rows.items()}
    return {
        "bundle": bundle.manifest.name,
        "stream": name,
        "first_seed": seeds.start,
        "seeds": len(seeds),
        "onset": onset,
        "max_false_hits": budget,
        "claim": gate.claim,
        "drifts": figures,
    }


def _audits(gate: Gate, family: replay.Family, seed: int) -> Audits:
    return Audits(gate.max_false_hits, 0.02, family.temperatures[family.full], random.Random(seed).random)


def _figures(run: replay.Replay, reference: replay.Labels, onset: int) -> dict[str, dict[str, float]]:
    false = run.hit & (run.labels != reference)
    spans = {
        "before": slice(0, onset),
        "first 1000 after": slice(onset, onset + 1000),
        "1001 to 4000 after": slice(onset + 1000, onset + _AFTER),
    }
    return {
        span: {"false_hit_rate": float(false[where].mean()), "local_share": float(run.hit[where].mean())}
        for span, where in spans.items()
    }


def _mean(rows: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        span: {figure: round(float(np.mean([row[span][figure] for row in rows])), 5) for figure in rows[0][span]}
        for span in rows[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--stream", choices=recorded.UNRELATED, default="dwell")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--onset", type=int, default=4000)
    parser.add_argument("--max-false-hits", type=float, default=0.01)
    asked = parser.parse_args()
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    print(json.dumps(measure(asked.bundle, asked.stream, seeds, asked.onset, asked.max_false_hits)))


if __name__ == "__main__":
    main()
