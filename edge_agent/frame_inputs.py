"""Scoring: a picture as the models see it, and a model as the core wants it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from cachenet.shared.cascade.types import Judge, Score
from cachenet.shared.inference.early_exit import EarlyExitModel, RequestContext
from cachenet.shared.inference.engine import Batch, EngineError, Logits
from cachenet.shared.inference.image import Input, Picture, crop, preprocessor

log = logging.getLogger(__name__)


class FrameInputs:
    """A frame's picture as the models see it: cropped and scaled once, however many look."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._crops: dict[Input, Picture] = {}

    def crop(self, spec: Input) -> Picture:
        if (cropped := self._crops.get(spec)) is None:
            cropped = self._crops[spec] = crop(self._picture, spec)
        return cropped


def scorer(
    name: str, run: Callable[[Batch], Logits], spec: Input, classes: int, failed: Callable[[str], None] = lambda _: None
) -> Score:
    """A model as the core wants it: a view in, logits out. ``run``: of a batch of one. A run that fails, or whose
    scores are not finite, gives NaN for all labels, which the core takes for no look and no answer; ``failed`` is told
    why."""
    preprocess = preprocessor(spec)
    nothing = np.full(classes, np.nan, np.float32)

    def score(view: FrameInputs) -> Logits:
        try:
            logits: Logits = run(preprocess(view.crop(spec)))[0]
            if np.isfinite(logits).all():
                return logits
            error = "its scores are not finite"
        except EngineError as raised:
            error = str(raised)
        log.error("%s: %s", name, error)
        failed(f"{name}: {error}")
        return nothing

    return score


def early_exit_scorer(
    name: str, layered: EarlyExitModel, spec: Input, classes: int, failed: Callable[[str], None] = lambda _: None
) -> Judge:
    """A full model with caches between its layers, as the core wants it; ``failed``: see ``scorer``."""
    preprocess = preprocessor(spec)
    nothing = np.full(classes, np.nan, np.float32)

    def judged(view: FrameInputs, recent: tuple[int, ...], risk: float) -> tuple[Logits, float | None]:
        try:
            [passed] = layered.run(preprocess(view.crop(spec)), [RequestContext(recent, risk)])
            if np.isfinite(passed.logits).all():
                return passed.logits, passed.risk
            error = "its scores are not finite"
        except EngineError as raised:
            error = str(raised)
        log.error("%s: %s", name, error)
        failed(f"{name}: {error}")
        return nothing, None

    return judged
