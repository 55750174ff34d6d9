"""An updated submodel: for a working set that devices see and no submodel of the bundle covers.

The base model is fine-tuned on what they sent of late and on the frames that the bundle was built from. It joins the
bundle if it does better on the most recent frames, which it has not seen, than what is resident on such a device; else
nothing changes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from zipfile import BadZipFile

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress

from cachenet.models.bundle_writer import lay, put
from cachenet.models.certify import recorded
from cachenet.models.certify.calibrate import SURE, coverage
from cachenet.models.certify.replay import Logits
from cachenet.models.data.cifar10 import Images
from cachenet.models.data.dataset import Dataset, LabelledFrames
from cachenet.models.export import cost, quantise
from cachenet.models.export.export import export
from cachenet.models.export.from_onnx import RestoreError, restore
from cachenet.models.export.metadata import written
from cachenet.models.train.candidates import RATE, SMALL, SMALL_RATE
from cachenet.models.train.distill import mix, train_submodel
from cachenet.models.train.networks import macs
from cachenet.models.train.training import Batch, Epoch, Recipe, augment, normalise, sense
from cachenet.shared.bundle.manifest import Bundle, Manifest, Model, file_digest
from cachenet.shared.bundle.trust import Signer
from cachenet.shared.cascade.probability import Probabilities, fit_temperature, softmax
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Input, blank, preprocessor

#: By how much more of the most recent frames it must answer, as a share; how unlikely so many better blocks of frames
#: must be if it were no better; and the frames of a block, for neighbours are alike.
_LEAST, _CHANCE, _BLOCK = 0.02, 0.05, 8
#: Of the recent frames, the part at the end that proves, and frames before it that are left out: neighbours are alike.
_PROVES, _GAP = 1 / 3, 16
#: How many times a recent frame counts: it is what the base model fails at, in the light of the place.
_HEED = 4
#: Epochs, and those of a small base model, which has more to learn.
_EPOCHS, _SMALL_EPOCHS = 2, 8
#: Length of an epoch: half of the frames, and so many looks at the least; a small base model's, so many.
_SHARE, _LOOKS, _SMALL_LOOKS = 0.5, 6000, 22_500
#: Share of the images that are trained on as a camera sees them.
_SENSED = 0.5
#: Frames to learn from and to prove with, at the least; and what a file of them holds.
_FEWEST = 120
_RECENT = ("pictures", "scores", "seen")
#: Updated submodels of a bundle; the oldest makes room.
_MOST = 16
#: Frames that ranges of INT8 are taken from, and timed runs.
_CALIBRATING, _RUNS = 500, 50


class Unproven(Exception):
    """A submodel that was not shown to be worth its bytes; the message says by how much."""


class RecentError(UserError):
    """A file that holds no recent frames; the message says why."""


@dataclass(frozen=True)
class Recent:
    """What devices sent of late, oldest first. ``images`` ``(n, side, side, 3)`` uint8 RGB, ``scores`` ``(n, classes)``
    of the full model; ``seen`` ``(classes,)``: how often the working set shows each label."""

    images: Images
    scores: Logits
    seen: npt.NDArray[np.float64]

    @property
    def labels(self) -> tuple[int, ...]:
        """The working set: the fewest labels that are nine tenths of what is seen."""
        order = np.argsort(-self.seen, kind="stable")
        count = int(np.searchsorted(np.cumsum(self.seen[order]), 0.9 * self.seen.sum())) + 1
        return tuple(sorted(order[:count].tolist()))


def read(path: Path, bundle: Bundle) -> Recent:
    """The frames that a server wrote for ``bundle``. Raises ``RecentError``."""
    full, classes = bundle.manifest.models[bundle.manifest.only("full")], len(bundle.manifest.labels)
    width, height = full.input.size
    try:
        with np.load(path, allow_pickle=False) as stored:
            pictures, scores, seen = (stored[name] for name in _RECENT)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        raise RecentError(f"{path} is no file of recent frames; a server writes them") from None
    n = len(pictures)
    shapes = {"pictures": (n, height, width, 3), "scores": (n, classes), "seen": (classes,)}
    if any(stored.shape != shape for stored, shape in zip((pictures, scores, seen), shapes.values(), strict=True)):
        raise RecentError(f"{path} holds frames of another bundle")
    if n < _FEWEST:
        raise RecentError(f"{path} holds {n} frames, and {_FEWEST} are needed")
    return Recent(np.ascontiguousarray(pictures[:, :, :, ::-1]), scores, seen)


@dataclass(frozen=True)
class FineTuned:
    """Images with the scores that the full model gave them as they are; each time they are looked at otherwise."""

    images: Images
    scores: Logits

    def epoch(self, batch: int, weights: npt.NDArray[np.float64] | None = None, share: float = 1.0) -> Epoch:
        def batches(_number: int, rng: np.random.Generator) -> Iterator[Batch]:
            count = self.steps(batch, share) * batch
            order = rng.choice(len(self.images), count, p=None if weights is None else weights / weights.sum())
            for start in range(0, count, batch):
                rows = order[start : start + batch]
                yield augment(self.images[rows], rng, sensed=_SENSED), torch.from_numpy(self.scores[rows])

        return batches

    def labels(self) -> npt.NDArray[np.int64]:
        labels: npt.NDArray[np.int64] = self.scores.argmax(1).astype(np.int64)
        return labels

    def steps(self, batch: int, share: float = 1.0) -> int:
        return max(1, int(share * len(self.images)) // batch)


def specialise(
    bundle: Bundle, recent: Recent, material: Dataset, out: Path, progress: Progress, signer: Signer | None = None
) -> Bundle:
    """Train, prove, and write ``bundle`` with its new submodel to ``out``. Raises ``Unproven``, ``RestoreError`` if the
    base model is not of this builder's making, and ``OSError``."""
    manifest = bundle.manifest
    base, labels = manifest.only("base"), recent.labels
    spec = manifest.models[base].input
    if spec != material.classifier.input:
        raise RestoreError(f"{base} sees other pictures than the full model; it can be run, but not trained")
    held = material.tune
    learned, proving = _divide(recent)

    copies = [learned.images] * _HEED
    taught = FineTuned(
        np.concatenate([material.learn.images, *copies]),
        np.concatenate([material.learn.scores, *[learned.scores] * _HEED]),
    )
    inside = np.isin(taught.labels(), labels)
    some = np.random.default_rng(0).permutation(len(held))[:_CALIBRATING]
    network = restore(bundle.path(base), normalise(held.images[some], spec))
    batch = max(8, min(128, len(taught.images) // 8))
    epochs, rate, looks = _SMALL_EPOCHS, SMALL_RATE, _SMALL_LOOKS
    if manifest.models[base].macs >= SMALL * manifest.models[manifest.only("full")].macs:
        ignorance = _ignorance(Session(bundle.path(base), "cpu", torch.get_num_threads()), spec, held, labels)
        # One that is nearly right is only refined, or it would forget more than it learns.
        epochs, rate, looks = _EPOCHS, RATE * ignorance, _LOOKS
    recipe = Recipe(phases=((epochs, spec.size),), rate=rate, batch=batch, decay=1e-4)
    building = out.with_name(out.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        checkpoint = building / "training.pt"
        train_submodel(
            network,
            spec,
            taught,
            recipe,
            inside,
            (held.images, held.scores),
            checkpoint,
            progress,
            "update",
            max(_SHARE, looks / len(taught.images)),
        )
        checkpoint.unlink()
        name = _name(manifest.models, [manifest.labels[label] for label in labels])
        path = building / name / "1" / "model.onnx"
        properties = {"bundle": manifest.name, "labels": written(manifest.labels), "model": name}
        export(network.eval(), path, {**properties, "input": msgspec.json.encode(spec).decode()})
        prepare = preprocessor(spec)
        images = np.concatenate([prepare(picture) for picture in recorded.as_pictures(held.images[some])])
        quantise.as_light_as(bundle.path(base), path, images)
        model = _prove(bundle, path, name, labels, recent.seen, held, proving)
        model = msgspec.structs.replace(model, parameters=network.parameters_count(), macs=macs(network, spec.size))
        return put(building, _add(bundle, model, name, building), out, signer)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _ignorance(base: Session, spec: Input, held: LabelledFrames, labels: tuple[int, ...]) -> float:
    """Of held-out frames of the working set, the share of which the base model says something else than the full one;
    at least a hundredth, or nothing could be learned."""
    rows = np.isin(held.answers, labels)
    if not rows.any():
        return 1.0
    said = recorded.run(base, spec, recorded.as_pictures(held.images[rows])).argmax(1)
    return max(0.01, float((said != held.answers[rows]).mean()))


def _divide(recent: Recent) -> tuple[Recent, Recent]:
    """What is learned from, and what proves."""
    cut = int(len(recent.images) * (1 - _PROVES))
    before, after = slice(0, max(1, cut - _GAP)), slice(cut, None)
    return (
        Recent(recent.images[before], recent.scores[before], recent.seen),
        Recent(recent.images[after], recent.scores[after], recent.seen),
    )


def _prove(
    bundle: Bundle,
    path: Path,
    name: str,
    labels: tuple[int, ...],
    seen: npt.NDArray[np.float64],
    held: LabelledFrames,
    proving: Recent,
) -> Model:
    """What the manifest says of the new submodel. Raises ``Unproven``."""
    manifest, threads = bundle.manifest, torch.get_num_threads()
    base_name = manifest.only("base")
    base = manifest.models[base_name]
    sessions = {
        name: (Session(path, "cpu", threads), base.input),
        base_name: (Session(bundle.path(base_name), "cpu", threads), base.input),
        "full": (Session(bundle.path(manifest.only("full")), "cpu", threads), base.input),
    }
    # What is known of every model was measured on held-out frames, so the new one is told by them, too.
    sensed = sense(held.images, np.random.default_rng(0))
    local = {one: sessions[one] for one in (name, base_name)}
    as_is = recorded.run_all(local, recorded.as_pictures(held.images)) | {"full": held.scores}
    through = recorded.run_all(sessions, recorded.as_pictures(sensed))
    said = {one: np.concatenate([as_is[one], through[one]]) for one in as_is}
    degree = round(fit_temperature(said[name], said["full"].argmax(1), mix(np.isin(said["full"].argmax(1), labels))), 4)
    covered = {
        one: coverage(said[one], degree if one == name else base.temperature, said["full"], SURE) for one in local
    }

    resident = _resident(bundle, seen, threads)
    pictures = recorded.as_pictures(proving.images)
    recently = {
        one: softmax(recorded.run(session, spec, pictures), manifest.models[one].temperature)
        for one, (session, spec) in resident.items()
    }
    new = softmax(recorded.run(*sessions[name], pictures), degree)
    better = _compare(new, list(recently.values()), proving.scores.argmax(1))
    blocks = np.add.reduceat(better, np.arange(0, len(better), _BLOCK))
    wins, losses = int((blocks > 0).sum()), int((blocks < 0).sum())
    shown = (
        f"of the {len(better)} most recent frames of {'-'.join(manifest.labels[label] for label in labels)} it answers "
        f"{better.mean():+.1%}, better in {wins} blocks and worse in {losses} than {' and '.join(resident)}"
    )
    if better.mean() < _LEAST or _tail(wins, wins + losses) > _CHANCE:
        raise Unproven(shown)
    own = np.clip(np.array(base.coverage) + covered[name] - covered[base_name], 0, 1)
    return Model(
        role="submodel",
        file=f"{name}/1/model.onnx",
        bytes=path.stat().st_size,
        sha256=file_digest(path),
        input=base.input,
        temperature=degree,
        parameters=0,
        macs=0,
        milliseconds=round(1000 * cost.seconds([path], blank(base.input), _RUNS)[0], 3),
        coverage=tuple(round(float(share), 4) for share in own),
        classes=labels,
    )


def _resident(bundle: Bundle, seen: npt.NDArray[np.float64], threads: int) -> recorded.Models:
    """What a device that sees labels as in ``seen`` has: the base model, and the submodel that answers most of them."""
    manifest = bundle.manifest
    submodels = sorted(manifest.submodels(), key=lambda one: -manifest.expected_coverage(one, seen))[:1]
    return {
        one: (Session(bundle.path(one), "cpu", threads), manifest.models[one].input)
        for one in (manifest.only("base"), *submodels)
    }


def _compare(
    new: Probabilities, resident: Sequence[Probabilities], full: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """By how much ``new`` does better on each frame than the surest of those that are ``resident`` ``(n,)``. To be sure
    and agree with ``full`` is worth one, to be sure and not to agree costs one, not to be sure is neither."""

    def worth(probabilities: Probabilities) -> npt.NDArray[np.float64]:
        agrees = probabilities.argmax(1) == full
        return np.where(1 - probabilities.max(1) > SURE, 0.0, np.where(agrees, 1.0, -1.0))

    every = np.stack(resident)  # (models, n, classes)
    surest = every.max(2).argmax(0)
    difference: npt.NDArray[np.float64] = worth(new) - worth(every[surest, np.arange(len(full))])
    return difference


def _tail(wins: int, of: int) -> float:
    """How likely so many wins or more are where winning and losing are alike (the sign test)."""
    return float(sum(comb(of, count) for count in range(wins, of + 1)) / 2**of)


def _name(models: dict[str, Model], labels: list[str]) -> str:
    taken = [int(name.split("-")[1]) for name in models if name.startswith("update-")]
    words = "-".join(labels).lower()
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in words)
    return f"update-{max(taken, default=0) + 1:03}-{plain}"[:40].rstrip("-")


def _add(bundle: Bundle, model: Model, name: str, directory: Path) -> Manifest:
    """Put the other models beside the new one, in ``directory``; what is to be said of all."""
    old = bundle.manifest
    updates = sorted(other for other in old.models if other.startswith("update-"))
    dropped = updates[: max(0, len(updates) + 1 - _MOST)]
    kept = {other: entry for other, entry in old.models.items() if other not in dropped}
    lay(bundle, kept, directory)
    return msgspec.structs.replace(old, models={**kept, name: model})
