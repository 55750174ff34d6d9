"""One budget: how often a device and the caches between the full model's layers err together, on many streams.

    python -m benchmarks.layer_budget --streams 100

Of test pictures, on which nothing was fitted. Models and caches look at every picture once; then devices are replayed,
one stream after the other, all of which ask one server. Per kind of stream, shares of frames, means with their 95 %
interval, and the share of streams in which they are more than the budget:

- ``alone``: false hits of devices whose server has no caches between layers.
- ``device``: false hits of devices whose server has them.
- ``layers``: answers to which a cache between layers led, and to which the whole model would not have.
- ``together``: ``device`` and ``layers``, what the budget is for.
- ``strict``: ``device``, and all answers to which a cache led and that are not the reference's, although the whole
  model, which may err, would have led to most of them as well.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.core.types import Ask, Reply
from models import cifar10, recorded, replay, streams
from models.interval import interval
from models.layers.cuts import placed
from models.layers.proof import Scores, consult
from models.layers.replayed import picture, replayed
from shared.bundle import WAYS, Bundle, Manifest, Way
from shared.image import Picture
from shared.layered import Layered, Question
from shared.segments import read

BUDGET = 0.01
KINDS: tuple[streams.Name, ...] = ("session", "dwell")


@dataclass
class Followed:
    """A device's stream. ``asked``: the numbers of the pictures that it asked about, each with the labels it had seen.
    By frame: false hits of the ``device``; answers to which a cache between ``layers`` led otherwise than the whole
    model would have, and those that are ``unlike`` the reference's."""

    device: npt.NDArray[np.bool_]
    layers: npt.NDArray[np.bool_]
    unlike: npt.NDArray[np.bool_]
    asked: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)


def measure(directory: Path, count: int, frames: int, first_seed: int, way: Way, threads: int) -> dict[str, Any]:
    """The figures as the command prints them."""
    bundle = Bundle(directory)
    manifest = bundle.manifest
    if way not in manifest.layers:
        raise SystemExit(f"layer_budget: {directory} has no {way} caches; make them with 'model-builder layers'")
    test = cifar10.load().test
    said, whole = consulted(bundle, [way], recorded.as_pictures(test.images), threads)
    tables = local(bundle, test, whole)
    found: dict[str, Any] = {}
    for name in KINDS:
        plans = [streams.plan(name, test.labels, seed, frames) for seed in range(first_seed, first_seed + count)]
        layered = replayed(manifest, way, said[way], whole, random.Random(first_seed).random)
        without = [follow(plan, manifest, tables, None) for plan in plans]
        found[name] = figures(without, [follow(plan, manifest, tables, layered) for plan in plans])
        found[name]["trusted"] = layered.watch.trusted
    return {
        "bundle": manifest.name,
        "way": way,
        "max_false_hits": BUDGET,
        "claim": manifest.gate(BUDGET).claim,
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


def follow(plan: streams.Plan, manifest: Manifest, tables: dict[str, Scores], layered: Layered | None) -> Followed:
    """A device with all local models on a stream of unrelated pictures. ``layered``: the full model with caches, see
    ``replayed``; without them if None."""
    family, claim = replay.family(manifest), manifest.gate(BUDGET).claim
    stream = replay.Recorded(plan.label, {name: table[plan.source] for name, table in tables.items()}, None)
    reference = replay.reference_labels(stream, family)
    hierarchy = replay.ours(stream, family, claim)
    none = np.zeros(len(plan), np.bool_)
    found = Followed(none, none.copy(), none.copy())
    for index, number in enumerate(plan.source.tolist()):
        step = hierarchy.look(stream.frame(index), float(index))
        now, reply, otherwise = index + replay.ASKING_S, None, None
        if isinstance(step, Ask):
            found.asked.append((number, step.recent))
            reply = whole = Reply(index, stream.logits[family.full][index])
            if layered is not None:
                [one] = layered.run(picture(number), [Question(step.recent, step.risk, str(plan.seed))])
                if one.layer is not None:
                    reply = Reply(index, one.logits, risk=one.risk)
                    otherwise = deepcopy(hierarchy).settle(step, whole, now).label
        answer = hierarchy.settle(step, reply, now)
        false = answer.label != reference[index]
        found.device[index] = answer.hit and false
        found.layers[index] = otherwise is not None and answer.label != otherwise
        found.unlike[index] = otherwise is not None and false
    return found


def figures(without: Sequence[Followed], with_: Sequence[Followed]) -> dict[str, Any]:
    """Of devices whose server has no caches between layers, and of the same ones where it has."""
    rates = {
        "alone": [one.device.mean() for one in without],
        "device": [one.device.mean() for one in with_],
        "layers": [one.layers.mean() for one in with_],
        "together": [(one.device | one.layers).mean() for one in with_],
        "strict": [(one.device | one.unlike).mean() for one in with_],
    }
    asked = {"asked_alone": without, "asked": with_}
    return {
        **{name: interval([float(rate) for rate in own]) for name, own in rates.items()},
        **{name: float(np.mean([len(one.asked) / len(one.device) for one in own])) for name, own in asked.items()},
        "over_budget": {
            name: float(np.mean(np.array(rates[name]) > BUDGET)) for name in ("alone", "together", "strict")
        },
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
