"""Fine-tuning of a submodel on what one device, or devices with one view, have sent.

The model that is resident there learns the full model's scores of the recent frames. The result joins the bundle, for
these devices alone, if it is proven better on the most recent frames, which it has not seen. A submodel of other
devices that is proven better there is shared instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
import torch
from onnx import helper
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional as F

from cachenet.models.bundle_writer import link_models, publish, under_construction
from cachenet.models.certify import submodel_prior
from cachenet.models.certify.traces import Logits
from cachenet.models.data.cifar10 import Images
from cachenet.models.device_submodels import making_room, next_name, without
from cachenet.models.export import quantise
from cachenet.models.export.dequantise import dequantised
from cachenet.models.train import proof
from cachenet.models.train.candidates import model_name
from cachenet.models.train.distill import distillation_loss
from cachenet.models.train.local_models import LocalModel, manifest_entry, properties
from cachenet.models.train.networks import Network
from cachenet.models.train.onnx_network import NotTrainable, OnnxNetwork
from cachenet.models.train.proof import Comparison, Side
from cachenet.models.train.recent import Blocks, Footage, divide, footage
from cachenet.models.train.training import Batch, Recipe, fit, scores
from cachenet.shared.bundle.manifest import Bundle, Manifest, Model
from cachenet.shared.cascade.probability import Probabilities, softmax
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import preprocessor
from cachenet.shared.transport.recent_frames import RecentFrames

#: Epochs; the best one on the tuning block counts.
EPOCHS = 12
#: Least and most optimiser steps of an epoch. The first steps bring most of the gain, and later ones may lose it.
_STEPS = (8, 20)
#: Frames of a batch.
_BATCH = 16
#: Peak learning rate and weight decay of AdamW: small, because the model knows most of what it sees already.
_RATE, _DECAY = 3e-4, 1e-4
#: Largest shift of the augmentation, as a share of the picture's side. A camera does not move, but a person does.
_SHIFT = 1 / 24
#: Largest change of a channel's brightness by the augmentation, as a share.
_LIGHT = 0.15
#: Noise of the augmentation, grey levels.
_NOISE = 2.0
#: Least number of frames of the proof that have not the most frequent label: a model may give that label always.
_MIN_OTHERS = 4
#: Maximum number of submodels of devices in a bundle; the oldest is removed.
_MAX_UPDATES = 64
#: Before the number in the name of a device's submodel.
_PREFIX = "update-"


class NoImprovement(Exception):
    """No submodel is shown to be better. The message holds the comparison."""


class ClassifierNetwork(OnnxNetwork):
    """An ONNX classifier with weights that can be trained."""

    def heads(self, x: Tensor) -> list[Tensor]:
        """The logits ``(n, classes)`` of pictures ``(n, 3, height, width)``."""
        return [head[:, 0] for head in super().heads(x)]


@dataclass(frozen=True)
class _Resident:
    """What a device has: the base model, and the submodel that was proven for it, if any.

    Attributes:
        answers: Its answers to the frames of the proof; see ``proof.Side.answers``.
    """

    names: list[str]
    answers: np.ndarray[tuple[int], np.dtype[np.float64]]


def fine_tune(bundle: Bundle, recent: RecentFrames, out: Path, progress: Progress) -> Bundle:
    """Find or train a submodel for the devices of ``recent``, and write ``bundle`` with it to ``out``.

    Raises:
        NoImprovement: No submodel is shown to be better.
        NotTrainable: The resident model cannot be trained.
        RecentFramesError: There are too few pictures.
        OSError: ``out`` cannot be written.
    """
    manifest = bundle.manifest
    own = manifest.own_submodel(recent.devices[0]) if recent.devices else None
    start = own or manifest.only("base")
    blocks = divide(footage(recent, manifest, manifest.models[start].input))
    _check_labels(manifest, blocks.proof)
    resident = _resident(bundle, blocks, [manifest.only("base"), *([own] if own else [])])
    with under_construction(out) as building:
        shared = _shared(bundle, blocks, resident, recent.devices)
        if shared is not None:
            changed = without(manifest, recent.devices)
            model = manifest.models[shared]
            model = msgspec.structs.replace(model, devices=(*model.devices, *recent.devices))
            changed = msgspec.structs.replace(changed, models={**changed.models, shared: model})
            building.mkdir(parents=True)
            link_models(bundle, changed.models, building)
            return publish(building, changed, out)
        name = _name(manifest.models, recent.devices)
        path = building / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        _train(bundle, start, blocks, name, path, building, progress)
        before = manifest.models[start]
        tuned, proven = _outputs(path, before, blocks)
        side = proof.calibrate(tuned, blocks.tune.full)
        _test(proof.compare(side.answers(proven, blocks.proof.labels), resident.answers), blocks, resident)
        logits, unseen = np.concatenate([tuned, proven]), _joined(blocks)
        classes = tuple(np.flatnonzero(np.bincount(blocks.learn.labels, minlength=len(manifest.labels))).tolist())
        coverage = _coverage(side, logits, unseen, len(manifest.labels))
        size = LocalModel(before.input, before.parameters, before.macs)
        model = manifest_entry(building, name, "submodel", size, side.temperature, coverage, classes)
        model = msgspec.structs.replace(model, devices=recent.devices)
        added = _add(bundle, model, name, building)
        return publish(building, _with_prior(bundle, added, softmax(logits, side.temperature), blocks), out)


def _check_labels(manifest: Manifest, block: Footage) -> None:
    """Raise ``NoImprovement`` if the full model gives one label only in the proof."""
    counts = np.bincount(block.labels, minlength=len(manifest.labels))
    if len(block) - counts.max() < _MIN_OTHERS:
        label = manifest.labels[int(counts.argmax())]
        raise NoImprovement(f"{counts.max()} of the {len(block)} most recent frames are {label}; others are needed too")


def _resident(bundle: Bundle, blocks: Blocks, names: list[str]) -> _Resident:
    pairs = []
    for name in names:
        model = bundle.manifest.models[name]
        pairs.append(_outputs(bundle.path(name), model, blocks))
    return _Resident(names, proof.most_certain(pairs, blocks.tune.full, blocks.proof.labels))


def _shared(bundle: Bundle, blocks: Blocks, resident: _Resident, devices: tuple[str, ...]) -> str | None:
    """The submodel of other devices that is proven better for ``devices``, the best if there are several."""
    found: dict[str, Comparison] = {}
    for name, model in bundle.manifest.models.items():
        if model.devices and not set(devices) & set(model.devices):
            tuned, proven = _outputs(bundle.path(name), model, blocks)
            side = proof.calibrate(tuned, blocks.tune.full)
            found[name] = proof.compare(side.answers(proven, blocks.proof.labels), resident.answers)
    best = max(found, key=lambda name: found[name].gain, default=None)
    return best if best is not None and found[best].proves(len(found)) else None


def _train(bundle: Bundle, start: str, blocks: Blocks, name: str, path: Path, work: Path, progress: Progress) -> None:
    """Train a copy of the model ``start``, and write it to ``path`` in its precision."""
    manifest, learn = bundle.manifest, blocks.learn
    model = manifest.models[start]
    network, before, history = train(bundle, start, blocks, work / "training.pt", progress, name)
    if max(row["match"] for row in history) <= before:
        raise NoImprovement(f"{start} does not learn from these frames: on later ones it matches the full model less")
    trained = network.model()
    about = properties(manifest.name, manifest.labels, name, model.input)
    helper.set_model_props(trained, {f"cachenet.{key}": value for key, value in about.items()})
    path.write_bytes(trained.SerializeToString(deterministic=True))
    prepare = preprocessor(model.input)
    images = np.concatenate([prepare(np.ascontiguousarray(image[:, :, ::-1])) for image in learn.images])
    quantise.match_precision(bundle.path(start), path, images)


def train(
    bundle: Bundle, start: str, blocks: Blocks, checkpoint: Path, progress: Progress, title: str
) -> tuple[ClassifierNetwork, float, list[dict[str, float]]]:
    """Train a copy of the model ``start`` to give the full model's scores.

    Args:
        checkpoint: File of the interrupted training; it is removed at the end.

    Returns:
        The network of the best epoch on the frames to tune with; how closely ``start`` matches the full model on them;
        and ``match`` of each epoch.

    Raises:
        NotTrainable: The model cannot be trained.
    """
    learn, tune = blocks.learn, blocks.tune
    model = bundle.manifest.models[start]
    if model.input.colour == "grey":
        raise NotTrainable("a classifier of grey pictures cannot be trained")
    network = ClassifierNetwork(dequantised(onnx.load(str(bundle.path(start)))))
    steps = min(_STEPS[1], max(_STEPS[0], len(learn) // _BATCH))
    recipe = Recipe(((EPOCHS, model.input.size),), _RATE, _BATCH, _DECAY, warmup=0.1, optimiser="adamw")

    def batches(_epoch: int, rng: np.random.Generator) -> Iterator[Batch]:
        for _ in range(steps):
            rows = rng.integers(0, len(learn), _BATCH)
            yield augment(learn.images[rows], rng), torch.from_numpy(learn.full[rows])

    def evaluate(network: Network) -> dict[str, float]:
        return {"match": _match(scores(network, tune.images, model.input), tune.full)}

    before = evaluate(network)["match"]
    loss = distillation_loss()
    history = fit(
        network, model.input, recipe, batches, steps, loss, checkpoint, progress, title, evaluate, keep_best="match"
    )
    checkpoint.unlink()
    return network, before, history


def augment(images: Images, rng: np.random.Generator) -> Images:
    """Shift images ``(n, h, w, 3)`` a little, change the light of each channel, and add noise."""
    n, height, width = images.shape[:3]
    down, right = (max(1, round(_SHIFT * side)) for side in (height, width))
    padded = np.pad(images, ((0, 0), (down, down), (right, right), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    y, x = (rng.integers(0, 2 * reach + 1, n) for reach in (down, right))
    out = windows[np.arange(n), y, x].transpose(0, 2, 3, 1) * rng.uniform(1 - _LIGHT, 1 + _LIGHT, (n, 1, 1, 3))
    out += _NOISE * rng.standard_normal(out.shape, np.float32)
    augmented: Images = np.clip(np.rint(out), 0, 255).astype(np.uint8)
    return augmented


def _match(logits: Logits, full: Logits) -> float:
    """How closely a model's probabilities are the full model's: 1 if they are equal, towards 0 otherwise."""
    own, wanted = (F.log_softmax(torch.from_numpy(one), 1) for one in (logits, full))
    return float(torch.exp(-F.kl_div(own, wanted, reduction="batchmean", log_target=True)))


def _outputs(path: Path, model: Model, blocks: Blocks) -> tuple[Logits, Logits]:
    """Logits of the model file ``path`` on the frames to tune with, and on those to prove with."""
    session = Session(path, "cpu", torch.get_num_threads())
    return blocks.tune.logits(session, model.input), blocks.proof.logits(session, model.input)


def _test(comparison: Comparison, blocks: Blocks, resident: _Resident) -> None:
    """Raise ``NoImprovement`` unless the comparison proves the new submodel."""
    if not comparison.proves():
        raise NoImprovement(
            f"of the {len(blocks.proof)} most recent frames it answers {comparison.gain:+.1%} at equal agreement, "
            f"better in {comparison.wins} blocks and worse in {comparison.losses} than {' and '.join(resident.names)} "
            f"(p = {comparison.p:.3f})"
        )


def _joined(blocks: Blocks) -> Footage:
    """The frames that the submodel was not trained on."""
    first, second = blocks.tune, blocks.proof
    return Footage(
        np.concatenate([first.images, second.images]),
        np.concatenate([first.full, second.full]),
        [*first.signatures, *second.signatures],
    )


def _coverage(side: Side, logits: Logits, frames: Footage, classes: int) -> tuple[float, ...]:
    """For each label, the share of frames that the submodel answers right; of a label that is not seen, of all."""
    right, labels = side.answers(logits, frames.labels) > 0, frames.labels
    shares = [right[labels == label].mean() if (labels == label).any() else right.mean() for label in range(classes)]
    return tuple(round(float(share), 4) for share in shares)


def _with_prior(bundle: Bundle, manifest: Manifest, submodel: Probabilities, blocks: Blocks) -> Manifest:
    """The manifest with the prior for submodels, which learns from the frames that this one was not trained on."""
    name = manifest.only("base")
    logits = np.concatenate(_outputs(bundle.path(name), manifest.models[name], blocks))
    base, frames = softmax(logits, manifest.models[name].temperature), _joined(blocks)
    prior = submodel_prior.learned(manifest.priors, base, submodel, frames.labels.tolist(), frames.signatures)
    return (
        manifest if prior is None else msgspec.structs.replace(manifest, priors={**manifest.priors, "submodel": prior})
    )


def _name(models: dict[str, Model], devices: tuple[str, ...]) -> str:
    return model_name(next_name(models, _PREFIX), devices)


def _add(bundle: Bundle, model: Model, name: str, directory: Path) -> Manifest:
    """Link the other models into ``directory``, but for the oldest update if too many; return the manifest."""
    others = making_room(bundle.manifest, model.devices, _PREFIX, _MAX_UPDATES)
    link_models(bundle, others.models, directory)
    return msgspec.structs.replace(others, models={**others.models, name: model})
