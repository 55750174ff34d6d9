"""Scoring: a picture as the models see it, and a model as the core wants it."""

from __future__ import annotations

import logging

import numpy as np

from edge_agent.core.types import Score
from shared.engine import EngineError, Logits, Session
from shared.image import Input, Picture, crop, preprocessor

log = logging.getLogger(__name__)


class View:
    """A frame's picture as the models see it: cropped and scaled once, however many look."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._crops: dict[Input, Picture] = {}

    def crop(self, spec: Input) -> Picture:
        if (cropped := self._crops.get(spec)) is None:
            cropped = self._crops[spec] = crop(self._picture, spec)
        return cropped


def scorer(name: str, session: Session, spec: Input, classes: int) -> Score:
    """A model as the core wants it: a view in, logits out. One that fails has nothing to say: all labels alike, so
    that the frame goes on to the next level and the loop goes on at all."""
    preprocess = preprocessor(spec)
    nothing = np.zeros(classes, np.float32)

    def score(view: View) -> Logits:
        try:
            logits: Logits = session.run(preprocess(view.crop(spec)))[0]
            return logits
        except EngineError as error:
            log.error("%s: %s", name, error)
            return nothing

    return score
