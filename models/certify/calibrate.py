"""Temperature and coverage of each model of a bundle, on frames that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress

from cachenet.models.certify.traces import Logits, as_pictures, run_model
from cachenet.models.data.dataset import LabelledFrames
from cachenet.models.train.distill import mix
from cachenet.models.train.training import camera_augment
from cachenet.shared.cascade.probability import fit_temperature, softmax
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Input

#: Largest error probability at which a local model's answer counts as covered.
MAX_ERROR_PROBABILITY = 0.05


def calibrate_models(
    tune: LabelledFrames,
    inputs: Mapping[str, Input],
    full: str,
    paths: Mapping[str, Path],
    special: Mapping[str, Sequence[int]],
    seed: int,
    progress: Progress,
) -> tuple[dict[str, float], dict[str, tuple[float, ...]]]:
    """Temperatures and coverage by model name, on frames as they are and with camera augmentation.

    Args:
        inputs, paths: By model name.
        full: Name of the full model.
        special: Labels of the submodels for some labels, by name.
        seed: Of the augmentation.
    """
    sensed = camera_augment(tune.images, np.random.default_rng(seed))
    pictures = as_pictures(np.concatenate([tune.images, sensed]))
    logits = {
        name: run_model(Session(path, "cpu", torch.get_num_threads()), inputs[name], pictures, tune.full_input)
        for name, path in progress.track(paths.items(), description="calibration")
    }
    answers = logits[full].argmax(1)

    def temperature(name: str) -> float:
        # The full model is fitted to the true labels, local models to the full model's, submodels where they are used.
        if name == full:
            return 1.0 if tune.truth is None else fit_temperature(logits[full], np.tile(tune.truth, 2))
        return fit_temperature(logits[name], answers, mix(np.isin(answers, special[name])) if name in special else None)

    temperatures = {name: round(temperature(name), 4) for name in logits}
    covered = {
        name: coverage(own, temperatures[name], logits[full], MAX_ERROR_PROBABILITY) for name, own in logits.items()
    }
    return temperatures, {name: tuple(round(float(share), 4) for share in own) for name, own in covered.items()}


def coverage(logits: Logits, temperature: float, full: Logits, threshold: float) -> npt.NDArray[np.float64]:
    """Per label of the full model, the share of images that the local model answers alone and correctly.

    Args:
        logits, full: Of the local model and of the full model ``(n, classes)``.
        threshold: Largest error probability of an answer.
    """
    answers = full.argmax(1)
    probabilities = softmax(logits, temperature)
    good = (1 - probabilities.max(1) <= threshold) & (probabilities.argmax(1) == answers)
    return np.array([good[answers == c].mean() if (answers == c).any() else 0.0 for c in range(full.shape[1])])


def accuracy(tune: LabelledFrames) -> dict[str, str]:
    """The full model's accuracy, for the provenance; empty without true labels."""
    if tune.truth is None:
        return {}
    return {"accuracy_tuned": f"{float((tune.full_labels == tune.truth).mean()):.4f}"}
