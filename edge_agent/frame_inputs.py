"""Adapters between models and the cascade: cropped inputs of a frame, scoring functions and detecting functions."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from cachenet.shared.cascade.detect.detections import Detections
from cachenet.shared.cascade.types import Score, ScoreWithExits
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.early_exit import EarlyExitModel, RequestContext
from cachenet.shared.inference.engine import Batch, EngineError, Logits
from cachenet.shared.inference.image import Input, Picture, crop, preprocessor

log = logging.getLogger(__name__)


class FrameInputs:
    """Model inputs of one frame. Each input specification is cropped and scaled once."""

    def __init__(self, picture: Picture) -> None:
        """``picture``: (height, width, 3) uint8 BGR."""
        self._picture = picture
        self._crops: dict[Input, Picture] = {}

    def crop(self, spec: Input) -> Picture:
        if (cropped := self._crops.get(spec)) is None:
            cropped = self._crops[spec] = crop(self._picture, spec)
        return cropped


def scorer(
    name: str,
    run: Callable[[Batch], Logits],
    spec: Input,
    classes: int,
    on_failure: Callable[[str], None] = lambda _: None,
) -> Score:
    """The scoring function of a model: ``FrameInputs`` in, logits ``(classes,)`` out.

    Logits are NaN after a failed run and after scores that are not finite; the cascade ignores them.

    Args:
        run: Runs a batch of one image.
        on_failure: Called with the reason of every failed run.
    """
    preprocess = preprocessor(spec)

    def score(inputs: FrameInputs) -> Logits:
        return _guarded(name, lambda: (run(preprocess(inputs.crop(spec)))[0], None), classes, on_failure)[0]

    return score


def early_exit_scorer(
    name: str,
    model: EarlyExitModel,
    spec: Input,
    classes: int,
    on_failure: Callable[[str], None] = lambda _: None,
) -> ScoreWithExits:
    """The scoring function of a full model with early exits: logits, and the risk of the exit; see ``scorer``."""
    preprocess = preprocessor(spec)

    def score(inputs: FrameInputs, recent: tuple[int, ...], risk: float) -> tuple[Logits, float | None]:
        def run() -> tuple[Logits, float | None]:
            [result] = model.run(preprocess(inputs.crop(spec)), [RequestContext(recent, risk)])
            return result.logits, result.risk

        return _guarded(name, run, classes, on_failure)

    return score


def detecting(
    name: str, detector: Detector, on_failure: Callable[[str], None] = lambda _: None
) -> Callable[[Picture], Detections | None]:
    """The detecting function of a detector: a picture in, its detections out; None after a failed run.

    Args:
        on_failure: Called with the reason of every failed run.
    """

    def detect(picture: Picture) -> Detections | None:
        try:
            return detector(picture)
        except EngineError as error:
            _report(name, str(error), on_failure)
            return None

    return detect


def _guarded(
    name: str, run: Callable[[], tuple[Logits, float | None]], classes: int, on_failure: Callable[[str], None]
) -> tuple[Logits, float | None]:
    """The result of ``run``; NaN logits and no risk after a failure."""
    try:
        logits, risk = run()
        if np.isfinite(logits).all():
            return logits, risk
        error = "its scores are not finite"
    except EngineError as raised:
        error = str(raised)
    _report(name, error, on_failure)
    return np.full(classes, np.nan, np.float32), None


def _report(name: str, error: str, on_failure: Callable[[str], None]) -> None:
    log.error("%s: %s", name, error)
    on_failure(f"{name}: {error}")
