"""What happens to the promise when the camera changes: frames turn dark, blurred or noisy in mid-stream.

    python -m benchmarks.drift --stream dwell --seeds 20

Streams of CIFAR-10 test images, on which nothing was fitted; from ``--onset`` on every picture is spoilt, and the full
model sees it so as well. The cascade with audits and without: disagreement over all answers, and what is answered
locally, in the frames before, in the thousand after, and in frames 1,001 to 4,000 after. ``alarms``: how often audits
found disagreement over the budget; ``scene_changes``: alarms of the picture. Means over seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from cachenet.models.certify import recorded, replay
from cachenet.models.certify.replay import Recorded
from cachenet.models.data import cifar10, streams
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.audits import FLOOR
from cachenet.shared.cascade.reference import disagreements
from cachenet.shared.cascade.replay import Run
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT
from cachenet.shared.inference.image import Picture
from cachenet.shared.media.signature import sign

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
    family = replay.family(bundle.manifest)
    test = cifar10.load().test
    plans = [streams.plan(name, test.labels, seed, onset + _AFTER) for seed in seeds]
    shown = np.unique(np.concatenate([plan.source for plan in plans]))  # no other picture needs to be looked at
    plans = [replace(plan, source=np.searchsorted(shown, plan.source)) for plan in plans]
    test = test.take(shown)
    pictures = recorded.as_pictures(test.images)
    ways = {"none": pictures} | {
        drift: [spoil(picture, number) for number, picture in enumerate(pictures)] for drift, spoil in DRIFTS.items()
    }
    models = recorded.opened(bundle, 2)
    tables = {way: recorded.run_all(models, several) for way, several in ways.items()}
    signatures = {way: [sign(picture) for picture in several] for way, several in ways.items()}

    figures: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for drift in DRIFTS:
        rows: dict[str, list[dict[str, dict[str, float]]]] = {"audited": [], "not audited": []}
        for plan in plans:
            spoilt = np.arange(len(plan)) >= onset
            logits = {
                model: np.where(spoilt[:, None], tables[drift][model][plan.source], table[plan.source])
                for model, table in tables["none"].items()
            }
            signed = [
                signatures[drift if after else "none"][source]
                for after, source in zip(spoilt.tolist(), plan.source.tolist(), strict=True)
            ]
            stream = Recorded(plan.label, logits, signed)
            for policy, own in rows.items():
                cascade = replay.cascade(stream, family, budget, FLOOR if policy == "audited" else 0.0)
                spans = _figures(replay.run(stream, family, cascade), stream.trace(family).labels, onset)
                spans["all"] = {
                    "alarms": float(cascade.audits.alarms if cascade.audits is not None else 0),
                    "scene_changes": float(cascade.tally.scene_changes),
                }
                own.append(spans)
        figures[drift] = {policy: _mean(own) for policy, own in rows.items()}
    return {
        "bundle": bundle.manifest.name,
        "stream": name,
        "first_seed": seeds.start,
        "seeds": len(seeds),
        "onset": onset,
        "max_disagreement": budget,
        "drifts": figures,
    }


def _figures(run: Run, full: replay.Labels, onset: int) -> dict[str, dict[str, float]]:
    disagree = disagreements(run.labels, full)
    parts = {
        "before": slice(0, onset),
        "first 1000 after": slice(onset, onset + 1000),
        "1001 to 4000 after": slice(onset + 1000, onset + _AFTER),
    }
    return {
        span: {
            "disagreement": float(disagree[where].mean()),
            "local_share": 1.0 - float(run.full_answered[where].mean()),
        }
        for span, where in parts.items()
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
    parser.add_argument("--max-disagreement", type=float, default=MAX_DISAGREEMENT)
    asked = parser.parse_args()
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    print(json.dumps(measure(asked.bundle, asked.stream, seeds, asked.onset, asked.max_disagreement)))


if __name__ == "__main__":
    main()
