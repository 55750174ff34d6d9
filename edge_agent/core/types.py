"""What passes between the hierarchy, its levels and the shell that drives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from edge_agent.core.frame import Frame
from shared.filter import Word
from shared.risk import Belief

#: Runs a model on a frame's view; logits ``(classes,)`` float32.
Score = Callable[[Any], npt.NDArray[np.float32]]
#: A view, the recent labels and the risk that a cache between the layers may take in; logits out, and the risk that one
#: has taken, None if all of the model has run.
Judge = Callable[[Any, tuple[int, ...], float], tuple[npt.NDArray[np.float32], float | None]]
LocalName = Literal["frames", "submodels", "base"]
LOCAL: tuple[LocalName, ...] = get_args(LocalName)
#: ``full``: the full model, on the device itself.
LevelName = LocalName | Literal["full", "cloud", "fallback"]


class Guess(msgspec.Struct, frozen=True, eq=False):
    """What a level would answer: the ``belief`` that the context comes to on hearing the ``word`` of ``model``, new or
    remembered (None where no model has spoken)."""

    belief: Belief
    model: str
    word: Word | None = None

    @property
    def label(self) -> int:
        return self.belief.label


class Answer(msgspec.Struct, frozen=True):
    """The one answer of a frame. ``confidence``: the probability that its label is right; ``risk``: that the full
    model, asked now, would lead to another. ``reason`` says why it was no hit; empty for a hit. ``bare`` is the full
    model's first label where the cloud answered. ``audit``: the full model should judge this frame as well, when there
    is time."""

    frame: int
    label: int
    confidence: float
    risk: float
    level: LevelName
    model: str
    reason: str = ""
    bare: int | None = None
    audit: bool = False

    @property
    def hit(self) -> bool:
        """Whether a local level answered, and the full model was not asked anywhere."""
        return self.level in LOCAL


class Hit(msgspec.Struct, frozen=True, eq=False):
    """The frame is answered."""

    frame: Frame
    guess: Guess
    level: LevelName


class Ask(msgspec.Struct, frozen=True, eq=False):
    """The frame, ``begun`` then, should go to the full model, to be answered until ``deadline`` (seconds, on the clock
    of ``now``). ``recent``: the device's recent labels, oldest first. ``best``: what to answer if nothing comes.
    ``last``: what came of the last look, from which it is learned how far local models can be trusted. ``risk``: that a
    cache between the full model's layers may take.
    ``here``: the full model is on the device and sooner to be had than over the network: ``Hierarchy.here``."""

    frame: Frame
    recent: tuple[int, ...]
    begun: float
    deadline: float
    best: Guess
    last: Guess
    reason: str
    here: bool = False
    risk: float = 1.0


Step = Hit | Ask


class Reply(msgspec.Struct, frozen=True, eq=False):
    """The full model's scores for an earlier question; ``submodel`` is the one it recommends. ``here``: they were
    computed on the device. ``risk``: that the whole model would have said otherwise, where a cache between its layers
    has answered; None if it has itself."""

    frame: int
    logits: npt.NDArray[np.float32]
    submodel: str | None = None
    here: bool = False
    risk: float | None = None

    @property
    def whole(self) -> bool:
        """Whether all of the full model has run for it."""
        return self.risk is None
