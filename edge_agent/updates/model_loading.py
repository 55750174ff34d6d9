"""Opening, timing and checking of models, for the probe process and the loader."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cachenet.shared.bundle.manifest import ExitKind, Layer, Manifest, Model
from cachenet.shared.inference.early_exit import EarlyExitModel, load, runner
from cachenet.shared.inference.engine import EngineError, Logits, Provider, Session

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
) -> Session | EarlyExitModel:
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
    return Session(find(manifest.models[name]), provider, threads, slowdown)


def time_run(
    session: Session | EarlyExitModel, image: np.ndarray, stopped: Callable[[], bool] = lambda: False
) -> tuple[float, Logits]:
    """Run a model several times on one image.

    Args:
        image: (1, 3, height, width) float32.
        stopped: Whether to give up.

    Returns:
        Seconds of the median run, and the logits of the last one.

    Raises:
        EngineError: A run fails, or ``stopped`` returns true.
    """
    run, seconds = runner(session), []
    for _ in range(_RUNS):
        if stopped():
            raise EngineError("the program ends")
        begun = time.perf_counter()
        logits = run(image)
        seconds.append(time.perf_counter() - begun)
    return sorted(seconds)[_RUNS // 2], logits


def check_scores(name: str, logits: Logits, classes: int) -> None:
    """Raise ``EngineError`` unless ``logits`` are finite and of shape (1, classes)."""
    if logits.shape != (1, classes):
        raise EngineError(f"{name}: gives scores of shape {logits.shape} for {classes} labels")
    if not np.isfinite(logits).all():
        raise EngineError(f"{name}: gives scores that are not finite")
