"""What each model of a bundle is worth on frames that it was not trained on: its temperature and its coverage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress

from cachenet.models.certify import recorded
from cachenet.models.certify.replay import Logits
from cachenet.models.data.dataset import LabelledFrames
from cachenet.models.train.distill import mix
from cachenet.models.train.training import sense
from cachenet.shared.cascade.probability import fit_temperature, softmax
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Input

#: One minus the top probability at or under which a local model counts as sure of a label.
SURE = 0.05


def measure(
    tune: LabelledFrames,
    inputs: Mapping[str, Input],
    full: str,
    paths: Mapping[str, Path],
    special: Mapping[str, Sequence[int]],
    seed: int,
    progress: Progress,
) -> tuple[dict[str, float], dict[str, tuple[float, ...]]]:
    """Temperatures and coverage by name, on frames as they are and as a camera sees them. ``special``: the labels of
    models that are for some of them."""
    sensed = sense(tune.images, np.random.default_rng(seed))
    pictures = recorded.as_pictures(np.concatenate([tune.images, sensed]))
    logits = {
        name: recorded.run(Session(path, "cpu", torch.get_num_threads()), inputs[name], pictures, tune.seen)
        for name, path in progress.track(paths.items(), description="what each is worth")
    }
    answers = logits[full].argmax(1)

    def degree(name: str) -> float:
        # Of the full model we ask whether it is right, where anybody knows; of a local one, whether it says what the
        # full model would, and of a submodel that where it is used.
        if name == full:
            return 1.0 if tune.truth is None else fit_temperature(logits[full], np.tile(tune.truth, 2))
        return fit_temperature(logits[name], answers, mix(np.isin(answers, special[name])) if name in special else None)

    degrees = {name: round(degree(name), 4) for name in logits}
    covered = {name: coverage(own, degrees[name], logits[full], SURE) for name, own in logits.items()}
    return degrees, {name: tuple(round(float(share), 4) for share in own) for name, own in covered.items()}


def coverage(logits: Logits, temperature: float, full: Logits, threshold: float) -> npt.NDArray[np.float64]:
    """Per label of the full model, the share of images on which the model alone is sure enough and agrees."""
    answers = full.argmax(1)
    probabilities = softmax(logits, temperature)
    good = (1 - probabilities.max(1) <= threshold) & (probabilities.argmax(1) == answers)
    return np.array([good[answers == c].mean() if (answers == c).any() else 0.0 for c in range(full.shape[1])])


def accuracy(tune: LabelledFrames) -> dict[str, str]:
    """The full model's, where anybody knows it, for people."""
    if tune.truth is None:
        return {}
    return {"accuracy_tuned": f"{float((tune.answers == tune.truth).mean()):.4f}"}
