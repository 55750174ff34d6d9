"""Opening, timing and checking of models, for the probe process and the loader."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np

from cachenet.shared.bundle.manifest import ExitKind, Layer, Manifest, Model
from cachenet.shared.cascade.detect.detections import Detections
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.early_exit import EarlyExitModel, load, runner
from cachenet.shared.inference.engine import EngineError, Logits, Provider, Session
from cachenet.shared.inference.image import Input, Picture, blank, crop, preprocessor

#: A loaded model that can run: a classifier, a full model with early exits, or a detector.
Runnable: TypeAlias = Session | EarlyExitModel | Detector

#: Runs of a loaded model to measure its time.
_RUNS = 5


def open_model(
    manifest: Manifest,
    name: str,
    find: Callable[[Model | Layer], Path],
    provider: Provider,
    threads: int,
    slowdown: float = 1.0,
    exit_kind: ExitKind | None = None,
) -> Runnable:
    """Load one model of a bundle.

    Args:
        find: Returns the path of a file of the bundle.
        threads: Threads of a run.
        slowdown: See ``Session``.
        exit_kind: Kind of early exits; None for the model without early exits.

    Raises:
        EngineError: The model cannot be loaded.
    """
    if exit_kind is not None:
        return load(manifest, exit_kind, find, provider, threads, random.Random().random)
    model = manifest.models[name]
    session = Session(find(model), provider, threads, slowdown)
    if model.decoder is None:
        return session.check_classifier()
    return Detector(session.run_all, model.input, model.decoder)


def answerer(opened: Runnable, spec: Input) -> Callable[[Picture], Logits | Detections]:
    """The function from a picture ``(height, width, 3)`` BGR to a model's logits ``(1, classes)`` or detections."""
    if isinstance(opened, Detector):
        return opened
    run, prepare = runner(opened), preprocessor(spec)
    return lambda picture: run(prepare(crop(picture, spec)))


def time_run(
    opened: Runnable, spec: Input, stopped: Callable[[], bool] = lambda: False
) -> tuple[float, Logits | Detections]:
    """Run a model several times on a blank picture.

    Args:
        spec: Input of the model.
        stopped: Whether to give up.

    Returns:
        Seconds of the median run, and what the last one gave. The time of a detector includes preprocessing and
        decoding.

    Raises:
        EngineError: A run fails, or ``stopped`` returns true.
    """
    run = _blank_run(opened, spec)
    seconds = []
    for _ in range(_RUNS):
        if stopped():
            raise EngineError("the program ends")
        begun = time.perf_counter()
        answer = run()
        seconds.append(time.perf_counter() - begun)
    return sorted(seconds)[_RUNS // 2], answer


def _blank_run(opened: Runnable, spec: Input) -> Callable[[], Logits | Detections]:
    if isinstance(opened, Detector):
        width, height = spec.size
        black, detector = np.zeros((height, width, 3), np.uint8), opened
        return lambda: detector(black)
    image, run = blank(spec), runner(opened)
    return lambda: run(image)


def check_answer(name: str, answer: Logits | Detections, classes: int) -> None:
    """Raise ``EngineError`` unless logits are finite and of shape (1, classes). Detections are always valid."""
    if isinstance(answer, Detections):
        return
    if answer.shape != (1, classes):
        raise EngineError(f"{name}: gives scores of shape {answer.shape} for {classes} labels")
    if not np.isfinite(answer).all():
        raise EngineError(f"{name}: gives scores that are not finite")
