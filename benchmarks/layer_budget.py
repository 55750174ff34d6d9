"""One budget: how often a device and the early exits of its full model disagree together, on many streams.

    python -m benchmarks.layer_budget --streams 100

Of test pictures, on which nothing was fitted. Models and exits look at every picture once; then devices are replayed,
one stream after the other, all of which ask one server. Per kind of stream, means with their 95 % interval, and the
share of streams in which they are more than the budget:

- ``alone``: disagreement over all answers of devices whose server has no early exits.
- ``together``: the same where it has them; this is what the budget is for.
- ``exits``: answers of early exits that are not the full model's.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cachenet.models.certify import recorded, replay
from cachenet.models.data import cifar10, streams
from cachenet.models.exits.certify import Scores, consult
from cachenet.models.exits.replayed import picture, replayed
from cachenet.models.exits.sites import placed
from cachenet.models.report.confidence_interval import interval
from cachenet.shared.bundle.manifest import WAYS, Bundle, Manifest, Way
from cachenet.shared.cascade.frame import Signature
from cachenet.shared.cascade.reference import disagreements
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT
from cachenet.shared.cascade.types import Miss, Reply
from cachenet.shared.inference.early_exit import EarlyExitModel, RequestContext
from cachenet.shared.inference.graph_split import read
from cachenet.shared.inference.image import Picture
from cachenet.shared.media.signature import sign

BUDGET = MAX_DISAGREEMENT
#: What a question takes.
_ROUND_TRIP_S = 0.5
KINDS: tuple[streams.Name, ...] = ("session", "dwell")


@dataclass
class Followed:
    """A device's stream.

    Attributes:
        disagree: Answers that disagree with the full model ``(frames,)``.
        exits: Answers of early exits that are not the full model's ``(frames,)``.
        asked: The pictures that it asked about, by number, each with the labels it had seen.
    """

    disagree: npt.NDArray[np.bool_]
    exits: npt.NDArray[np.bool_]
    asked: list[tuple[int, tuple[int, ...]]]


def measure(directory: Path, count: int, frames: int, first_seed: int, way: Way, threads: int) -> dict[str, Any]:
    """The figures as the command prints them."""
    bundle = Bundle(directory)
    manifest = bundle.manifest
    if way not in manifest.layers:
        raise SystemExit(f"layer_budget: {directory} has no {way} caches; make them with 'model-builder layers'")
    test = cifar10.load().test
    pictures = recorded.as_pictures(test.images)
    signatures = [sign(one) for one in pictures]
    said, whole = consulted(bundle, [way], pictures, threads)
    tables = local(bundle, test, whole)
    found: dict[str, Any] = {}
    for name in KINDS:
        plans = [streams.plan(name, test.labels, seed, frames) for seed in range(first_seed, first_seed + count)]
        layered = replayed(manifest, way, said[way], whole, random.Random(first_seed).random)
        without = [follow(plan, manifest, tables, signatures, None) for plan in plans]
        found[name] = figures(without, [follow(plan, manifest, tables, signatures, layered) for plan in plans])
        found[name]["trusted"] = layered.watch.trusted
    return {
        "bundle": manifest.name,
        "way": way,
        "max_disagreement": BUDGET,
        "streams": count,
        "frames": frames,
        "first_seed": first_seed,
        "kinds": found,
    }


def consulted(
    bundle: Bundle, ways: Sequence[Way], pictures: Sequence[Picture], threads: int
) -> tuple[dict[Way, list[Scores]], Scores]:
    """What every cache says of every picture, and what the whole model does."""
    manifest = bundle.manifest
    full = manifest.models[manifest.only("full")]
    model = read((bundle.directory / full.file).read_bytes())
    caches = [(way, layer) for way in ways for layer in manifest.layers[way].caches]
    known = {layer.tensors: placed(layer.tensors, model.image, layer.share) for _, layer in caches}
    places = sorted(known.values(), key=lambda place: place.share)
    number = {place.tensors: at for at, place in enumerate(places)}
    files = [(number[layer.tensors], bundle.directory / layer.file) for _, layer in caches]
    said, whole = consult(model, places, files, full.input, pictures, threads)
    return {way: [own for own, (of, _) in zip(said, caches, strict=True) if of == way] for way in ways}, whole


def local(bundle: Bundle, split: cifar10.Split, whole: Scores) -> dict[str, Scores]:
    """What every model of the bundle says of every picture; ``whole`` for the full one."""
    full = bundle.manifest.only("full")
    models = {name: own for name, own in recorded.opened(bundle).items() if name != full}
    return {full: whole, **recorded.run_all(models, recorded.as_pictures(split.images))}


def follow(
    plan: streams.StreamSchedule,
    manifest: Manifest,
    tables: dict[str, Scores],
    signatures: Sequence[Signature],
    layered: EarlyExitModel | None,
) -> Followed:
    """A device with all local models on a stream of unrelated pictures.

    Args:
        tables: Scores of every model for every picture, by model.
        signatures: Of every picture.
        layered: The full model with early exits, see ``replayed``; None: without.
    """
    family = replay.family(manifest)
    own = [signatures[number] for number in plan.source.tolist()]
    stream = replay.Recorded(plan.label, {name: table[plan.source] for name, table in tables.items()}, own)
    full = stream.trace(family).labels
    cascade = replay.cascade(stream, family, BUDGET)
    labels, exits = full.copy(), np.zeros(len(plan), np.bool_)
    asked: list[tuple[int, tuple[int, ...]]] = []
    for index, number in enumerate(plan.source.tolist()):
        step = cascade.lookup(stream.frame(index), float(index))
        reply = None
        if isinstance(step, Miss):
            asked.append((number, step.recent))
            reply = Reply(index, stream.logits[family.full][index])
            if layered is not None:
                [one] = layered.run(picture(number), [RequestContext(step.recent, step.exit_risk, str(plan.seed))])
                if one.layer is not None:
                    reply = Reply(index, one.logits, exit_risk=one.risk)
        answer = cascade.complete(step, reply, index + _ROUND_TRIP_S)
        labels[index] = -1 if answer.label is None else answer.label
        exits[index] = reply is not None and not reply.whole and answer.label != full[index]
    return Followed(disagreements(labels, full), exits, asked)


def figures(without: Sequence[Followed], with_: Sequence[Followed]) -> dict[str, Any]:
    """Of devices whose server has no early exits, and of the same ones where it has."""
    rates = {
        "alone": [float(one.disagree.mean()) for one in without],
        "together": [float(one.disagree.mean()) for one in with_],
        "exits": [float(one.exits.mean()) for one in with_],
    }
    asked = {"asked_alone": without, "asked": with_}
    return {
        **{name: interval(own) for name, own in rates.items()},
        **{name: float(np.mean([len(one.asked) / len(one.disagree) for one in own])) for name, own in asked.items()},
        "over_budget": {name: float(np.mean(np.array(rates[name]) > BUDGET)) for name in ("alone", "together")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--way", choices=WAYS, default="gati")
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    print(json.dumps(measure(asked.bundle, asked.streams, asked.frames, asked.first_seed, asked.way, asked.threads)))


if __name__ == "__main__":
    main()
