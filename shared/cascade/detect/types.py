"""Messages between the cascade of a detector, its models and its caller.

They have the fields of ``cachenet.shared.cascade.types`` that the caller uses, so that one loop drives both cascades.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.detect.detections import Boxes, Detections
from cachenet.shared.cascade.frame import Signature
from cachenet.shared.cascade.types import LOCAL_LEVELS, Level, LocalLevel


class Motion(NamedTuple):
    """Where the content of boxes of the frame before is in this frame.

    Attributes:
        shifts: Displacement of each box, as shares of the picture's width and height ``(n, 2)`` float32.
        consistency: Share of the points in each box whose displacement is confirmed, 0 to 1 ``(n,)`` float32.
    """

    shifts: npt.NDArray[np.float32]
    consistency: npt.NDArray[np.float32]


#: Measures the motion of boxes ``(n, 4)`` of the frame before, between that frame and this one.
Flow = Callable[[Boxes], Motion]
#: Runs a detector on a frame's view; returns its detections, also those of low score.
Detect = Callable[[Any], Detections]


class SceneFrame(msgspec.Struct, frozen=True, eq=False):
    """One frame of a detector's stream.

    Attributes:
        index: Number of the frame, increasing.
        view: Input of the models' ``detect`` functions. The core passes it on unread; a replay uses recorded outputs.
        signature: Two small versions of the picture.
        moved: Which cells of a grid have changed since the frame before ``(rows, columns)`` bool.
        flow: Motion since the frame before; None for the first frame.
    """

    index: int
    view: Any
    signature: Signature
    moved: npt.NDArray[np.bool_]
    flow: Flow | None = None


@dataclass(frozen=True, slots=True)
class LocalDetector:
    """A loaded detector: the base model, a submodel, or the full model on the device.

    Attributes:
        detect: Runs the model on a frame's view. After a failed run it returns None.
        cost: Resident memory, bytes.
        seconds: Time of one run, seconds; 0 if unknown.
        level: Level of a local model; unused for a full model.
        answer_score: Least score of a detection that is answered as it is, where that was better than the answer of the
            tracks on held-out footage; None where the tracks answer.
    """

    name: str
    detect: Callable[[Any], Detections | None]
    cost: int = 0
    seconds: float = 0.0
    level: LocalLevel = "base"
    answer_score: float | None = None


class TrackedObject(msgspec.Struct, frozen=True):
    """An object in an answer.

    Attributes:
        track: Number of the object's track: equal in the frames that show one object.
        label: Index of the label.
        confidence: 1 - risk.
        box: Left, top, width and height, as shares of the picture.
        risk: Probability that the full model, asked now, would not find this object here.
    """

    track: int
    label: int
    confidence: float
    box: tuple[float, float, float, float]
    risk: float


class ScenePrediction(msgspec.Struct, frozen=True):
    """A local answer to a frame.

    Attributes:
        objects: The objects, by track.
        risk: Expected object error: 1 - F1 against the full model's objects, asked now. The budget is charged with it.
        level: Level that gives the answer.
        model: Name of the model that ran last; empty for none.
    """

    objects: tuple[TrackedObject, ...]
    risk: float
    level: LocalLevel
    model: str


class SceneAnswer(msgspec.Struct, frozen=True):
    """The answer to a frame: its objects; none is an answer as good as any.

    Attributes:
        risk: Expected object error of the answer; 0 for the full model's own answer.
        level: Level that answered. ``fallback``: the full model was asked and has not answered in time.
        reason: Why the full model was asked, and why no reply came; empty for a hit.
        audit: Whether the full model is to answer this frame as well, in the background.
    """

    frame: int
    objects: tuple[TrackedObject, ...]
    risk: float
    level: Level
    model: str
    reason: str = ""
    audit: bool = False

    #: Only classifiers have the answer ``unknown``.
    unknown: ClassVar[bool] = False

    @property
    def hit(self) -> bool:
        """Whether a local level answered."""
        return self.level in LOCAL_LEVELS

    @property
    def confidence(self) -> float:
        """Expected F1 of the answer."""
        return 1.0 - self.risk


class SceneHit(msgspec.Struct, frozen=True, eq=False):
    """Result of a lookup: a local answer. ``audit``: whether the full model is to answer this frame as well."""

    frame: SceneFrame
    prediction: ScenePrediction
    audit: bool = False


class SceneMiss(msgspec.Struct, frozen=True, eq=False):
    """Result of a lookup: the full model has to answer.

    Attributes:
        begun: Time of the lookup, seconds on the caller's clock.
        deadline: Latest time of the answer, seconds on the same clock.
        fallback: Answer to a miss without a reply in time.
        reason: Why the frame is a miss.
        on_device: Whether to run the full model on the device, because that is faster than the network.
    """

    #: A request of a detector has no recent labels and no early exits.
    recent: ClassVar[tuple[int, ...]] = ()
    max_exit_risk: ClassVar[float] = 1.0

    frame: SceneFrame
    begun: float
    deadline: float
    fallback: ScenePrediction
    reason: str
    on_device: bool = False


SceneStep = SceneHit | SceneMiss


class SceneReply(msgspec.Struct, frozen=True, eq=False):
    """The full model's objects of a frame.

    Attributes:
        detections: Objects whose score is at least the full model's threshold.
        submodel: Name of the submodel that the server recommends; None for no recommendation.
        on_device: Whether the full model ran on the device.
    """

    frame: int
    detections: Detections
    submodel: str | None = None
    on_device: bool = False
