"""What passes between the cascade, its levels and the shell that drives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.frame import Frame

#: Logits of one frame ``(classes,)`` float32.
Scores = npt.NDArray[np.float32]
#: Runs a model on a frame's view.
Score = Callable[[Any], Scores]
#: Runs a full model that has early exits: the view, the recent labels and the risk that an exit may take. Returns the
#: logits, and the risk that an exit has taken, None if all of the model has run.
Judge = Callable[[Any, tuple[int, ...], float], tuple[Scores, float | None]]

#: ``frames``: an answer of the full model that is held; ``submodels``, ``base``: a local model's label.
LocalLevel = Literal["frames", "submodels", "base"]
LOCAL_LEVELS: tuple[LocalLevel, ...] = get_args(LocalLevel)
#: ``full``: the full model, on the device itself.
Level = LocalLevel | Literal["full", "cloud", "fallback"]

#: The name of the answer to a picture that the bundle was not made for; its label is None.
UNKNOWN = "unknown"


class Prediction(msgspec.Struct, frozen=True):
    """What a local level would answer.

    Attributes:
        label: Index of the label; None for ``unknown``.
        risk: Probability that the full model, asked now, would give another label.
        expected_risk: The same by the most probable weights of the risk model, which is what the budget is charged.
        level: Where the label comes from.
        model: Name of the model that gave it; empty for a held answer of the full model.
    """

    label: int | None
    risk: float
    expected_risk: float
    level: LocalLevel
    model: str


class Answer(msgspec.Struct, frozen=True):
    """The one answer of a frame.

    Attributes:
        frame: Index of the frame.
        label: Index of the label; None for ``unknown``.
        confidence: Probability of the label: one minus the risk of a local answer, the full model's own probability of
            its answer.
        risk: Probability that the full model, asked now, would give another label; 0 for its own answer.
        level: Where the answer comes from.
        model: Name of the model that gave it.
        reason: Why the answer is no hit; empty for a hit.
        audit: Whether the full model is to judge this frame as well, when there is time.
    """

    frame: int
    label: int | None
    confidence: float
    risk: float
    level: Level
    model: str
    reason: str = ""
    audit: bool = False

    @property
    def hit(self) -> bool:
        """Whether a local level answered, and the full model was not asked anywhere."""
        return self.level in LOCAL_LEVELS


class Hit(msgspec.Struct, frozen=True, eq=False):
    """The frame is answered. ``audit``: the full model is to judge it as well."""

    frame: Frame
    prediction: Prediction
    audit: bool = False


class Miss(msgspec.Struct, frozen=True, eq=False):
    """The frame goes to the full model.

    Attributes:
        recent: The device's recent labels, oldest first.
        begun: When the frame was taken up, seconds on the clock of ``now``.
        deadline: Until when it is to be answered, on the same clock.
        fallback: What is answered if nothing comes.
        reason: Why the frame is no hit.
        on_device: The full model is on the device and sooner to be had than over the network.
        exit_risk: Risk that an early exit between the full model's layers may take.
    """

    frame: Frame
    recent: tuple[int, ...]
    begun: float
    deadline: float
    fallback: Prediction
    reason: str
    on_device: bool = False
    exit_risk: float = 1.0


Step = Hit | Miss


class Reply(msgspec.Struct, frozen=True, eq=False):
    """The full model's scores for an earlier question.

    Attributes:
        frame: Index of the frame.
        logits: ``(classes,)`` float32.
        submodel: The submodel that the server recommends.
        on_device: Whether they were computed on the device.
        exit_risk: Probability that the whole model would have given another label, where an early exit has answered;
            None if all of the model has run.
    """

    frame: int
    logits: Scores
    submodel: str | None = None
    on_device: bool = False
    exit_risk: float | None = None

    @property
    def label(self) -> int:
        """The full model's answer."""
        return int(self.logits.argmax())

    @property
    def whole(self) -> bool:
        """Whether all of the full model has run for it."""
        return self.exit_risk is None
