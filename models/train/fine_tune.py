"""Fine-tuning of a submodel for a working set that devices see and no submodel of the bundle covers.

The base model is fine-tuned on recent frames of devices and on the frames that the bundle was built from. The result
joins the bundle if it does better on the most recent frames, not trained on, than the models resident on such a device.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from zipfile import BadZipFile

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress

from cachenet.models.bundle_writer import link_models, publish
from cachenet.models.certify import traces
from cachenet.models.certify.calibrate import MAX_ERROR_PROBABILITY, coverage
from cachenet.models.certify.traces import Logits
from cachenet.models.data.cifar10 import Images, Labels
from cachenet.models.data.dataset import Dataset, LabelledFrames
from cachenet.models.export import quantise
from cachenet.models.export.export import export
from cachenet.models.export.from_onnx import RestoreError, from_onnx
from cachenet.models.train.candidates import RATE, SMALL, SMALL_RATE, LocalModel, manifest_entry, model_name, properties
from cachenet.models.train.distill import FineTuneData, Weights, mix, train_submodel
from cachenet.models.train.networks import macs
from cachenet.models.train.training import Recipe, camera_augment, normalise
from cachenet.shared.bundle.manifest import Bundle, Manifest, Model
from cachenet.shared.bundle.trust import Signer
from cachenet.shared.cascade.probability import Probabilities, fit_temperature, softmax
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Input, preprocessor

#: Minimum gain in answered frames, as a share of the most recent frames.
_MIN_GAIN = 0.02
#: Maximum p-value of the sign test over blocks.
_MAX_P = 0.05
#: Frames of a block of the sign test, because consecutive frames are alike.
_BLOCK = 8
#: Share of the recent frames, at their end, that the result is tested on.
_TEST_SHARE = 1 / 3
#: Frames left out before them, because consecutive frames are alike.
_GAP = 16
#: Copies of a recent frame in the training data.
_COPIES = 4
#: Epochs.
_EPOCHS = 2
#: Epochs of a small base model, which has more to learn.
_SMALL_EPOCHS = 8
#: Minimum length of an epoch as a share of the training data.
_EPOCH_SHARE = 0.5
#: Minimum length of an epoch, frames.
_EPOCH_FRAMES = 6000
#: Minimum length of an epoch of a small base model, frames.
_SMALL_EPOCH_FRAMES = 22_500
#: Minimum number of recent frames.
_MIN_FRAMES = 120
#: Arrays in a file of recent frames.
_ARRAYS = ("pictures", "scores", "frequencies")
#: Maximum number of fine-tuned submodels in a bundle; the oldest is removed.
_MAX_UPDATES = 16
#: Frames for INT8 calibration and for the statistics of normalisations.
_CALIBRATION = 500


class NoImprovement(Exception):
    """The submodel is not shown to be better. The message holds the comparison."""


class RecentFramesError(UserError):
    """A file holds no usable recent frames. The message names the reason."""


@dataclass(frozen=True)
class RecentFrames:
    """Recent frames of devices, oldest first."""

    images: Images  # ``(n, height, width, 3)`` uint8 RGB
    scores: Logits  # Full model's logits ``(n, classes)``
    frequency: Weights  # Frequency of each label in the working set ``(classes,)``

    @property
    def labels(self) -> tuple[int, ...]:
        """The working set: the smallest set of labels that makes up nine tenths of the frequency."""
        order = np.argsort(-self.frequency, kind="stable")
        count = int(np.searchsorted(np.cumsum(self.frequency[order]), 0.9 * self.frequency.sum())) + 1
        return tuple(sorted(order[:count].tolist()))


def read(path: Path, bundle: Bundle) -> RecentFrames:
    """Read the frames that a server wrote for ``bundle``. Raises ``RecentFramesError``."""
    full, classes = bundle.manifest.models[bundle.manifest.only("full")], len(bundle.manifest.labels)
    width, height = full.input.size
    try:
        with np.load(path, allow_pickle=False) as stored:
            pictures, scores, frequency = (stored[name] for name in _ARRAYS)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        raise RecentFramesError(f"{path} is no file of recent frames; a server writes them") from None
    n = len(pictures)
    if (pictures.shape, scores.shape, frequency.shape) != ((n, height, width, 3), (n, classes), (classes,)):
        raise RecentFramesError(f"{path} holds frames of another bundle")
    if n < _MIN_FRAMES:
        raise RecentFramesError(f"{path} holds {n} frames, and {_MIN_FRAMES} are needed")
    return RecentFrames(np.ascontiguousarray(pictures[:, :, :, ::-1]), scores, frequency)


def fine_tune(
    bundle: Bundle, recent: RecentFrames, dataset: Dataset, out: Path, progress: Progress, signer: Signer | None = None
) -> Bundle:
    """Fine-tune and test a submodel, and write ``bundle`` with it to ``out``.

    Args:
        recent: Recent frames of devices.
        dataset: Data that the bundle was built from.

    Raises:
        Unproven: The submodel is not shown to be better.
        RestoreError: The base model was not trained by this builder.
        OSError: ``out`` cannot be written.
    """
    manifest = bundle.manifest
    base, labels = manifest.only("base"), recent.labels
    spec = manifest.models[base].input
    if spec != dataset.classifier.input:
        raise RestoreError(f"{base} sees other pictures than the full model; it can be run, but not trained")
    tune = dataset.tune
    train, test = _divide(recent)
    data = FineTuneData(
        np.concatenate([dataset.learn.images, *[train.images] * _COPIES]),
        np.concatenate([dataset.learn.scores, *[train.scores] * _COPIES]),
    )
    rows = np.random.default_rng(0).permutation(len(tune))[:_CALIBRATION]
    network = from_onnx(bundle.path(base), normalise(tune.images[rows], spec))
    epochs, rate, frames = _SMALL_EPOCHS, SMALL_RATE, _SMALL_EPOCH_FRAMES
    if manifest.models[base].macs >= SMALL * manifest.models[manifest.only("full")].macs:
        # The rate falls with the error of the base model, or a good model would forget more than it learns.
        error = _error_rate(Session(bundle.path(base), "cpu", torch.get_num_threads()), spec, tune, labels)
        epochs, rate, frames = _EPOCHS, RATE * error, _EPOCH_FRAMES
    recipe = Recipe(phases=((epochs, spec.size),), rate=rate, batch=max(8, min(128, len(data.images) // 8)), decay=1e-4)
    building = out.with_name(out.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        checkpoint = building / "training.pt"
        train_submodel(
            network,
            spec,
            data,
            recipe,
            np.isin(data.labels(), labels),
            (tune.images, tune.scores),
            checkpoint,
            progress,
            "update",
            max(_EPOCH_SHARE, frames / len(data.images)),
        )
        checkpoint.unlink()
        name = _name(manifest.models, [manifest.labels[label] for label in labels])
        path = building / name / "1" / "model.onnx"
        export(network.eval(), path, properties(manifest.name, manifest.labels, name, spec))
        prepare = preprocessor(spec)
        images = np.concatenate([prepare(picture) for picture in traces.as_pictures(tune.images[rows])])
        quantise.match_precision(bundle.path(base), path, images)
        temperature, own_coverage = _measure(bundle, path, labels, tune)
        _test(bundle, path, temperature, labels, test)
        size = LocalModel(spec, network.parameters_count(), macs(network, spec.size))
        model = manifest_entry(building, name, "submodel", size, temperature, own_coverage, labels)
        return publish(building, _add(bundle, model, name, building), out, signer)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _error_rate(base: Session, spec: Input, tune: LabelledFrames, labels: tuple[int, ...]) -> float:
    """Return the base model's error rate on held-out frames of the working set, at least 1 %; 1.0 without frames."""
    rows = np.isin(tune.full_labels, labels)
    if not rows.any():
        return 1.0
    predicted = traces.run_model(base, spec, traces.as_pictures(tune.images[rows])).argmax(1)
    return max(0.01, float((predicted != tune.full_labels[rows]).mean()))


def _divide(recent: RecentFrames) -> tuple[RecentFrames, RecentFrames]:
    """Divide recent frames into those to train on and those to test on."""
    start = int(len(recent.images) * (1 - _TEST_SHARE))
    before, after = slice(0, max(1, start - _GAP)), slice(start, None)
    return (
        RecentFrames(recent.images[before], recent.scores[before], recent.frequency),
        RecentFrames(recent.images[after], recent.scores[after], recent.frequency),
    )


def _measure(
    bundle: Bundle, path: Path, labels: tuple[int, ...], tune: LabelledFrames
) -> tuple[float, tuple[float, ...]]:
    """Return temperature and coverage of the submodel at ``path``, measured on held-out frames as for other models."""
    manifest, threads = bundle.manifest, torch.get_num_threads()
    base = manifest.models[manifest.only("base")]
    files = {"new": path, "base": bundle.path(manifest.only("base")), "full": bundle.path(manifest.only("full"))}
    sessions = {name: (Session(file, "cpu", threads), base.input) for name, file in files.items()}
    camera_images = camera_augment(tune.images, np.random.default_rng(0))
    local = {name: sessions[name] for name in ("new", "base")}
    plain = traces.run_models(local, traces.as_pictures(tune.images)) | {"full": tune.scores}
    camera = traces.run_models(sessions, traces.as_pictures(camera_images))
    logits = {name: np.concatenate([plain[name], camera[name]]) for name in plain}
    full = logits["full"].argmax(1)
    temperature = round(fit_temperature(logits["new"], full, mix(np.isin(full, labels))), 4)
    new_coverage, base_coverage = (
        coverage(logits[name], degree, logits["full"], MAX_ERROR_PROBABILITY)
        for name, degree in (("new", temperature), ("base", base.temperature))
    )
    adjusted = np.clip(np.array(base.coverage) + new_coverage - base_coverage, 0, 1)
    return temperature, tuple(round(float(share), 4) for share in adjusted)


def _test(bundle: Bundle, path: Path, temperature: float, labels: tuple[int, ...], test: RecentFrames) -> None:
    """Compare the submodel at ``path`` with the resident models. Raises ``NoImprovement``."""
    manifest, threads = bundle.manifest, torch.get_num_threads()
    # Resident is the base model, and the submodel that answers most of the working set.
    best = sorted(manifest.submodels(), key=lambda name: -manifest.expected_coverage(name, test.frequency))[:1]
    pictures = traces.as_pictures(test.images)

    def predict(file: Path, spec: Input, degree: float) -> Probabilities:
        return softmax(traces.run_model(Session(file, "cpu", threads), spec, pictures), degree)

    resident = [manifest.only("base"), *best]
    models = [manifest.models[name] for name in resident]
    new = predict(path, models[0].input, temperature)
    old = [
        predict(bundle.path(name), model.input, model.temperature) for name, model in zip(resident, models, strict=True)
    ]
    gain = _compare(new, old, test.scores.argmax(1))
    blocks = np.add.reduceat(gain, np.arange(0, len(gain), _BLOCK))
    wins, losses = int((blocks > 0).sum()), int((blocks < 0).sum())
    if gain.mean() < _MIN_GAIN or _sign_test(wins, wins + losses) > _MAX_P:
        raise NoImprovement(
            f"of the {len(gain)} most recent frames of {'-'.join(manifest.labels[label] for label in labels)} it "
            f"answers {gain.mean():+.1%}, better in {wins} blocks and worse in {losses} than {' and '.join(resident)}"
        )


def _compare(new: Probabilities, resident: Sequence[Probabilities], full: Labels) -> npt.NDArray[np.float64]:
    """Return the gain of ``new`` over the most certain resident model on each frame ``(n,)``.

    A certain prediction scores 1 if it is the label ``full`` ``(n,)``, else -1; an uncertain one scores 0.
    """

    def score(probabilities: Probabilities) -> npt.NDArray[np.float64]:
        agrees = probabilities.argmax(1) == full
        return np.where(1 - probabilities.max(1) > MAX_ERROR_PROBABILITY, 0.0, np.where(agrees, 1.0, -1.0))

    stacked = np.stack(resident)  # (models, n, classes)
    most_certain = stacked.max(2).argmax(0)
    difference: npt.NDArray[np.float64] = score(new) - score(stacked[most_certain, np.arange(len(full))])
    return difference


def _sign_test(wins: int, trials: int) -> float:
    """Return the probability of at least ``wins`` wins if wins and losses are equally likely."""
    return float(sum(comb(trials, count) for count in range(wins, trials + 1)) / 2**trials)


def _name(models: dict[str, Model], labels: list[str]) -> str:
    numbers = [int(name.split("-")[1]) for name in models if name.startswith("update-")]
    return model_name(f"update-{max(numbers, default=0) + 1:03}", labels)


def _add(bundle: Bundle, model: Model, name: str, directory: Path) -> Manifest:
    """Link the other models into ``directory``, but for the oldest update if too many; return the manifest."""
    old = bundle.manifest
    updates = sorted(other for other in old.models if other.startswith("update-"))
    dropped = updates[: max(0, len(updates) + 1 - _MAX_UPDATES)]
    others = {other: entry for other, entry in old.models.items() if other not in dropped}
    link_models(bundle, others, directory)
    return msgspec.structs.replace(old, models={**others, name: model})
