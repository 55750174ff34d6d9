"""Measure a submodel that is trained on what one device asks, for a state classifier at a new place.

    python -m benchmarks.place_classifier --data ../shared/data

A place is a square region of a static clip. The base model is distilled from the full model on another region, which
the full model labels. The device sees the footage of its place with that base model: its cascade asks, and the server's
training code learns from the frames that it asked about or audited, and proves the submodel on the latest of them. Then
the device goes on with the frames that follow: once with the base model alone and once with the submodel beside it. The
budgets give a curve of asked frames and agreement for each. The share asked at equal agreement is read from the base
model's curve at the submodel's agreement. ``continued`` is a device whose risk models have learned from the footage;
``fresh`` is one that starts with the bundle's priors, such as a second camera of the view.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks import real_tasks
from benchmarks.real_tasks import BASE, INPUT, ONE, WALKERS, ZONES, Clip, Range, Region
from cachenet.models.certify import traces
from cachenet.models.data.dataset import Dataset
from cachenet.models.export.classifier import load_classifier
from cachenet.models.export.export import export
from cachenet.models.train import fine_tune, local_networks
from cachenet.models.train.candidates import TrainedModel
from cachenet.models.train.networks import Shape
from cachenet.shared.bundle.manifest import FORMAT, MANIFEST, Bundle, Manifest, Model, file_digest
from cachenet.shared.cascade.audits import MIN_AUDIT_RATE
from cachenet.shared.cascade.build_cascade import build_cascade
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.features import Array, Stage
from cachenet.shared.cascade.frame import Frame, Signature
from cachenet.shared.cascade.model_cache import LocalModel
from cachenet.shared.cascade.probability import fit_temperature
from cachenet.shared.cascade.replay import ModelTrace, RecordedScores, fit_priors
from cachenet.shared.cascade.spec import CascadeSpec
from cachenet.shared.cascade.types import Miss, Reply
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Picture, crop, encode
from cachenet.shared.media.signature import sign
from cachenet.shared.transport.protocol import Answer, Timing
from cachenet.shared.transport.recent_frames import RecentFrame, RecentFrames, RecentFramesError

#: Budgets of the curves.
BUDGETS = (0.005, 0.01, 0.02, 0.03, 0.05)
#: Budget of the device while it sees its footage: strict, because the footage is a minute long.
FOOTAGE_BUDGET = 0.005
#: Seeds of the audits; shares are means over them.
SEEDS = range(4)
DEVICE = "cam"


@dataclass(frozen=True)
class Place:
    """A place: the region, the region of the other place, and ranges of frames.

    ``full``: prefix of existing models, or the name of a zone whose full model is trained.
    """

    full: str
    clip: Clip
    region: Region
    other: Region
    footage: Range
    play: Range


_OB: Region = (168, 0, 432, 432)
_REGIONS = {zone.name: zone.region for zone in ZONES}
PLACES = {
    # At the other place nobody sits at a table.
    "ob": Place("ob", ONE, _OB, (0, 0, 432, 432), ONE.held_out, ONE.play),
    # The other place is the same room, a little to the right.
    "ob_near": Place("ob", ONE, _OB, (336, 0, 432, 432), ONE.held_out, ONE.play),
    **{
        name: Place(name, WALKERS, _REGIONS[name], other, (200, 560), (570, 795))
        for name, other in {
            "vt_right": (224, 80, 128, 128),
            "vt_cross": (560, 320, 176, 176),
            "vt_kerb": (336, 240, 176, 176),
            "vt_centre": (560, 240, 128, 128),
        }.items()
    },
}


@dataclass(frozen=True, eq=False)
class Scene:
    """What both models say of the frames of a place, and the bundle that they make."""

    bundle: Bundle
    pictures: list[Picture]
    full: npt.NDArray[np.float32]
    base: npt.NDArray[np.float32]
    signatures: list[Signature]


def scene(place: Place, video: Path, full: Path, work: Path) -> Scene:
    """Train a base model on the other place, and run both models on the place."""
    classifier = load_classifier(full, INPUT)
    labels = len(classifier.labels)
    other = real_tasks._regions(video, place.other)[slice(*place.clip.train)]
    learned = len(other) * 2 // 3
    learn, tune = (real_tasks._part(classifier, part, 1) for part in (other[:learned], other[learned + 10 :]))
    small = TrainedModel("base", "", Shape(*BASE, labels, real_tasks.STEM))
    quiet = Progress(console=Console(quiet=True))
    network = local_networks.train(
        real_tasks._BUILD, Dataset(classifier, learn, tune, tune), [small], full, work / "teacher", quiet
    )["base"]
    files = {name: work / "bundle" / name / "1" / "model.onnx" for name in ("full", "base")}
    for file in files.values():
        file.parent.mkdir(parents=True)
    files["full"].write_bytes(full.read_bytes())
    export(network.eval(), files["base"], {})
    sessions = {name: (Session(file, "cpu"), INPUT) for name, file in files.items()}
    there = traces.run_models(sessions, other[learned + 10 :])
    temperature = fit_temperature(there["base"], np.asarray(there["full"].argmax(1), np.int64))
    trace = ModelTrace(there["full"], there["base"], [sign(picture) for picture in other[learned + 10 :]])
    models = {
        name: Model(
            name,  # type: ignore[arg-type]
            f"{name}/1/model.onnx",
            file.stat().st_size,
            file_digest(file),
            INPUT,
            temperature if name == "base" else 1.0,
            network.parameters_count(),
            1,
            1.0,
            (0.0,) * labels,
        )
        for name, file in files.items()
    }
    priors = fit_priors([trace], {}, temperature)
    manifest = Manifest(FORMAT, "place", "classification", classifier.labels, models, {}, priors)
    (work / "bundle" / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    pictures = [crop(picture, INPUT) for picture in real_tasks._regions(video, place.region)]
    found = traces.run_models(sessions, pictures)
    return Scene(Bundle(work / "bundle"), pictures, found["full"], found["base"], [sign(one) for one in pictures])


def cascade(
    models: Scene, manifest: Manifest, budget: float, seed: int, submodel: npt.NDArray[np.float32] | None = None
) -> Cascade:
    """The cascade of a device with the models of ``manifest``; ``submodel``: its logits on all frames, or None."""
    classes = len(manifest.labels)
    spec = CascadeSpec(
        classes, "full", priors=manifest.priors, max_disagreement=budget, seed=str(seed), audit_floor=MIN_AUDIT_RATE
    )
    base = LocalModel(
        "base", RecordedScores(models.base), manifest.models["base"].temperature, np.zeros(classes), level="base"
    )
    made = build_cascade(spec, base, 1 << 40)
    if submodel is not None:
        name = manifest.own_submodel(DEVICE)
        assert name is not None
        model = manifest.models[name]
        score, coverage = RecordedScores(submodel), np.array(model.coverage)
        made.install(LocalModel(name, score, model.temperature, coverage, seconds=1e-3))
    return made


def run(
    device: Cascade, models: Scene, frames: Range
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], list[int]]:
    """Whether each frame was asked or audited, whether each answer agrees, and the frames that were audits."""
    asked, agrees, audits = [], [], []
    for index in range(*frames):
        step = device.lookup(Frame(index, index, models.signatures[index]), float(index))
        reply = Reply(index, models.full[index])
        answer = device.complete(step, reply if isinstance(step, Miss) else None, index + 0.5)
        if answer.audit:
            device.on_audit_reply(reply, index + 0.5)
            audits.append(index)
        asked.append(isinstance(step, Miss) or answer.audit)
        agrees.append(answer.label == int(models.full[index].argmax()))
    return np.array(asked), np.array(agrees), audits


State = dict[Stage, tuple[Array, Array]]


def curve(
    models: Scene,
    place: Place,
    states: Mapping[tuple[float, int], State],
    manifest: Manifest,
    submodel: npt.NDArray[np.float32] | None = None,
) -> list[tuple[float, float]]:
    """Share of play frames that are asked, and agreement, for each budget. ``states``: see ``RiskEstimator.state``."""
    points = []
    for budget in BUDGETS:
        shares = []
        for seed in SEEDS:
            device = cascade(models, manifest, budget, seed, submodel)
            device.estimator.restore(states.get((budget, seed), {}))
            asked, agrees, _ = run(device, models, place.play)
            shares.append((asked.mean(), agrees.mean()))
        points.append(tuple(np.mean(shares, axis=0).tolist()))
    return points


def asked_at(points: Sequence[tuple[float, float]], agreement: float) -> float | None:
    """Share asked at an agreement, by linear interpolation of the upper hull in agreement; None outside the curve."""
    best = sorted(points, key=lambda point: point[1])
    if not best[0][1] <= agreement <= best[-1][1]:
        return None
    asked, agreed = (np.array(column) for column in zip(*best, strict=True))
    return float(np.interp(agreement, agreed, np.minimum.accumulate(asked[::-1])[::-1]))


def measure(name: str, videos: dict[str, Path], full: Path, work: Path) -> dict[str, Any]:
    """The measures of one place."""
    place = PLACES[name]
    models = scene(place, videos[place.clip.video], full, work)
    manifest, sha256 = models.bundle.manifest, models.bundle.manifest.models["full"].sha256
    device = cascade(models, manifest, FOOTAGE_BUDGET, 0)
    asked, _, _ = run(device, models, place.footage)
    rows = [place.footage[0] + int(row) for row in np.flatnonzero(asked)]
    timing = Timing(0.0, 0.0, 0.0, 1)
    frames = tuple(
        RecentFrame(
            DEVICE,
            encode(models.pictures[row])[1],
            Answer(models.full[row].astype("<f4").tobytes(), sha256, None, timing),
        )
        for row in rows
    )
    states = {}
    for budget in BUDGETS:
        for seed in SEEDS:
            before = cascade(models, manifest, budget, seed)
            run(before, models, place.footage)
            states[budget, seed] = before.estimator.state
    result: dict[str, Any] = {"frames": len(frames)}
    began = time.process_time()
    try:
        after = fine_tune.fine_tune(
            models.bundle,
            RecentFrames((DEVICE,), frames),
            work / "out",
            Progress(console=Console(quiet=True)),
        )
    except (fine_tune.NoImprovement, RecentFramesError) as error:
        return result | {"published": False, "why": str(error), "seconds": round(time.process_time() - began, 1)}
    seconds = time.process_time() - began
    own = after.manifest.own_submodel(DEVICE)
    assert own is not None
    logits = traces.run_model(Session(after.path(own), "cpu"), INPUT, models.pictures)
    played, labels = slice(*place.play), models.full[slice(*place.play)].argmax(1)
    curves = {}
    for kind, begun in (("continued", states), ("fresh", {})):
        base, points = (curve(models, place, begun, *more) for more in ((manifest,), (after.manifest, logits)))
        pairs = [(share, asked_at(base, agreement)) for share, agreement in points]
        equal = [(share, before) for share, before in pairs if before is not None]
        change = round(float(np.mean([new / old - 1 for new, old in equal])), 4) if equal else None
        curves[kind] = {
            "base": _rounded(base),
            "submodel": _rounded(points),
            "asked_at_equal_agreement": _rounded(equal),
            "change": change,
        }
    return result | {
        "published": True,
        "seconds": round(seconds, 1),
        "agreement": {
            "base": round(float((models.base[played].argmax(1) == labels).mean()), 4),
            "submodel": round(float((logits[played].argmax(1) == labels).mean()), 4),
        },
        **curves,
    }


def _rounded(points: Sequence[tuple[float, float]]) -> list[list[float]]:
    return [[round(value, 4) for value in point] for point in points]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="directory with state/ and videos/")
    parser.add_argument("--place", action="append", choices=PLACES, help="may be repeated (default: all)")
    parser.add_argument("--json", action="store_true", help="print the measures as JSON")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    videos = {ONE.video: chosen.data / "videos" / ONE.video, WALKERS.video: real_tasks.DEBIAN / WALKERS.video}
    results = {}
    for name in chosen.place or PLACES:
        with tempfile.TemporaryDirectory(prefix="cachenet-") as directory:
            work, prefix = Path(directory), PLACES[name].full
            full = chosen.data / "state" / f"{prefix}_full.onnx"
            if not full.exists():
                zone = next(zone for zone in ZONES if zone.name == prefix)
                full = real_tasks.zone_task(zone, videos[zone.clip.video].resolve(), work / "zone", 1).full
            results[name] = found = measure(name, videos, full, work)
        if not chosen.json:
            print(f"{name}: {_line(found)}", flush=True)
    if chosen.json:
        print(json.dumps(results))


def _line(found: dict[str, Any]) -> str:
    start = f"{found['frames']} frames, {found['seconds']} s, "
    if not found["published"]:
        return f"{start}{found['why']}"
    lines = [f"{start}agreement in play: {found['agreement']}"]
    for kind in ("continued", "fresh"):
        own = found[kind]
        base, submodel = (
            " ".join(f"{asked:.1%}@{agreement:.1%}" for asked, agreement in own[key]) for key in ("base", "submodel")
        )
        change = "-" if own["change"] is None else f"{own['change']:+.0%}"
        lines.append(f"  {kind}: asked at equal agreement {change}; base {base}; submodel {submodel}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
