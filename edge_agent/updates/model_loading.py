"""A model file becomes a model that runs: opened, tried, and its scores checked. The probe process and the loader do
the same."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cachenet.shared.bundle.manifest import Layer, Manifest, Model, Way
from cachenet.shared.inference.early_exit import EarlyExitModel, load, runner
from cachenet.shared.inference.engine import EngineError, Logits, Provider, Session

#: Runs of a model that has been loaded, to see that it answers and how fast.
_TRIES = 5


def open_model(
    manifest: Manifest,
    name: str,
    find: Callable[[Model | Layer], Path],
    provider: Provider,
    threads: int,
    slowdown: float = 1.0,
    way: Way | None = None,
) -> Session | EarlyExitModel:
    """Load one model of a bundle.

    Args:
        find: Where a file of the bundle is.
        threads: Threads of a run.
        slowdown: See ``Session``.
        way: Kind of the caches between the layers that the model is to be run with; None for the model alone.

    Raises:
        EngineError: The model cannot be loaded.
    """
    if way is not None:
        return load(manifest, way, find, provider, threads, random.Random().random)
    return Session(find(manifest.models[name]), provider, threads, slowdown)


def time_run(
    session: Session | EarlyExitModel, image: np.ndarray, stopped: Callable[[], bool] = lambda: False
) -> tuple[float, Logits]:
    """Run a model some times on ``image``, (1, 3, height, width) float32.

    Returns:
        Seconds of the median run, and the scores of the last one.

    Raises:
        EngineError: A run fails, or ``stopped`` says that the program ends.
    """
    run, took = runner(session), []
    for _ in range(_TRIES):
        if stopped():
            raise EngineError("the program ends")
        begun = time.perf_counter()
        logits = run(image)
        took.append(time.perf_counter() - begun)
    return sorted(took)[_TRIES // 2], logits


def check_scores(name: str, logits: Logits, classes: int) -> None:
    """Raises ``EngineError`` where ``logits`` are not a finite score for each of ``classes`` labels."""
    if logits.shape != (1, classes):
        raise EngineError(f"{name}: gives scores of shape {logits.shape} for {classes} labels")
    if not np.isfinite(logits).all():
        raise EngineError(f"{name}: gives scores that are not finite")
