"""Messages between the cascade, its models and its caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.frame import Frame

#: Logits of one frame ``(classes,)`` float32.
Scores = npt.NDArray[np.float32]
#: Runs a model on a frame's view; returns the logits.
Score = Callable[[Any], Scores]
#: Runs a full model that has early exits. Arguments: a frame's view, the recent labels, the largest risk of an exit's
#: answer. Returns the logits, and the risk of the exit that answered; None where the whole model ran.
ScoreWithExits = Callable[[Any, tuple[int, ...], float], tuple[Scores, float | None]]

#: ``submodels``, ``base``: the answer of that local model. ``frames``: another candidate, in general an earlier answer
#: of the full model. ``tracks``: objects of earlier frames, carried to this one. The answer ``unknown`` has the level
#: ``base``.
LocalLevel = Literal["frames", "tracks", "submodels", "base"]
LOCAL_LEVELS: tuple[LocalLevel, ...] = get_args(LocalLevel)
#: ``full``: the full model on the device; ``cloud``: on the server; ``fallback``: neither answered in time.
Level = LocalLevel | Literal["full", "cloud", "fallback"]

#: Name of the answer to a stream that is out of distribution; its label is None.
UNKNOWN = "unknown"


class Prediction(msgspec.Struct, frozen=True):
    """A local answer to a frame, with its risk.

    Attributes:
        label: Index of the label; None for ``unknown``.
        risk: Probability that the full model, asked now, would give another label.
        charge: What the answer costs the budget: the risk at the mean weights, without the uncertainty that raises a
            small risk; 0 for ``unknown``.
        level: Level that gives the label.
        model: Name of the model that gave the label.
    """

    label: int | None
    risk: float
    charge: float
    level: LocalLevel
    model: str


class Answer(msgspec.Struct, frozen=True):
    """The answer to a frame.

    Attributes:
        label: Index of the label; None for ``unknown``.
        confidence: Probability of the label: 1 - risk of a local answer, or the full model's calibrated probability.
        risk: Probability that the full model, asked now, would give another label; 0 for its own answer, the exit's
            risk for that of an early exit.
        level: Level that answered.
        model: Name of the model that answered.
        reason: Why the frame is a miss, and why no reply came; ``correction`` for a correction; empty for a hit.
        audit: Whether the full model is to answer this frame as well, in the background.
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
        """Whether a local level answered; true for ``unknown``, at level ``base``."""
        return self.level in LOCAL_LEVELS

    @property
    def unknown(self) -> bool:
        """Whether this is the answer ``unknown``."""
        return self.label is None


class Hit(msgspec.Struct, frozen=True, eq=False):
    """Result of a lookup: a local answer.

    Attributes:
        prediction: The answer and its risk.
        audit: Whether the full model is to answer this frame as well.
    """

    frame: Frame
    prediction: Prediction
    audit: bool = False


class Miss(msgspec.Struct, frozen=True, eq=False):
    """Result of a lookup: the full model has to answer.

    Attributes:
        recent: Labels of the latest hits and full answers, oldest first; no label twice in a row.
        begun: Time of the lookup, seconds on the caller's clock.
        deadline: Latest time of the answer, seconds on the same clock.
        fallback: Answer to a miss without a reply in time: the candidate of least risk; if there is none, the last
            label, or label 0.
        reason: Why the frame is a miss.
        on_device: Whether to run the full model on the device, because that is faster than the network.
        max_exit_risk: Largest risk of an early exit's answer.
    """

    frame: Frame
    recent: tuple[int, ...]
    begun: float
    deadline: float
    fallback: Prediction
    reason: str
    on_device: bool = False
    max_exit_risk: float = 1.0


Step = Hit | Miss


class Reply(msgspec.Struct, frozen=True, eq=False):
    """The full model's scores of a frame.

    Attributes:
        logits: Scores ``(classes,)`` float32.
        submodel: Name of the submodel that the server recommends; None for no recommendation.
        on_device: Whether the full model ran on the device.
        exit_risk: Where an early exit answered, the probability that the whole model would have given another label;
            None where the whole model ran.
    """

    frame: int
    logits: Scores
    submodel: str | None = None
    on_device: bool = False
    exit_risk: float | None = None

    @property
    def label(self) -> int:
        """The full model's label."""
        return int(self.logits.argmax())

    @property
    def whole(self) -> bool:
        """Whether the whole model ran, with no early exit."""
        return self.exit_risk is None
