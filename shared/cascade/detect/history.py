"""The recent frames of a scene: a reply about an earlier frame is carried from that frame to the present."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from cachenet.shared.cascade.detect.detections import NOTHING, Detections
from cachenet.shared.cascade.detect.scene_features import SceneStage
from cachenet.shared.cascade.detect.tracks import NO_TRACKS, Tracks, carry, confirm, observe
from cachenet.shared.cascade.detect.types import SceneFrame

#: Frames that are remembered; a reply that is later is dropped. Three seconds at ten frames a second.
HISTORY = 32


@dataclass(slots=True, eq=False)
class Moment:
    """One frame: what was measured, the tracks that follow from it, and what was answered.

    Attributes:
        found: Detections of the device's detector; None where none ran.
        stage: Stage that the frame has reached.
        answer_score: See ``LocalDetector``; of the detector that ran.
        reply: The full model's objects; None before its reply.
        carried: Tracks of the frame before, carried to this one.
        observed: These after ``found``.
        tracks: These after ``reply``: all that is known of the frame.
        change: Largest change of a block since a detector ran, before this frame's run, grey levels.
        since_look: Frames since a detector ran, before this frame's run.
        last_missed: Objects of the full model's newest answer, at that time, that no candidate covered.
        answer: The objects of the frame's answer.
        raw_error: Expected object error of that answer before calibration; None before the answer.
    """

    frame: SceneFrame
    carried: Tracks
    observed: Tracks
    tracks: Tracks
    found: Detections | None = None
    stage: SceneStage = "carried"
    answer_score: float | None = None
    reply: Detections | None = None
    change: float = 0.0
    since_look: int = 0
    last_missed: int = 0
    answer: Detections = NOTHING
    raw_error: float | None = None


class History:
    """The last ``HISTORY`` frames. Late replies, in any order, give the tracks that they would have given in time."""

    def __init__(self) -> None:
        self._moments: OrderedDict[int, Moment] = OrderedDict()

    def __len__(self) -> int:
        return len(self._moments)

    @property
    def newest(self) -> int | None:
        """Index of the newest frame; None before the first."""
        return next(reversed(self._moments), None)

    def add(self, frame: SceneFrame) -> Moment:
        """Add the next frame. Its tracks are those of the frame before, carried."""
        before = next(reversed(self._moments.values())).tracks if self._moments else NO_TRACKS
        carried = _carry(before, frame)
        # Without the view: a large picture must not stay in memory for as long as the history.
        without = msgspec.structs.replace(frame, view=None)
        moment = self._moments[frame.index] = Moment(without, carried, carried, carried)
        if len(self._moments) > HISTORY:
            self._moments.popitem(last=False)
        return moment

    def observe(self, moment: Moment, found: Detections, stage: SceneStage, answer_score: float | None = None) -> None:
        """Add the detections of a device's detector to the newest frame."""
        moment.found, moment.stage, moment.answer_score = found, stage, answer_score
        moment.observed = moment.tracks = _observe(moment, found)

    def find(self, index: int) -> Moment | None:
        """The frame ``index``; None if it is no longer remembered."""
        return self._moments.get(index)

    def confirm(self, moment: Moment, reply: Detections) -> None:
        """Add the full model's objects to a frame, and compute the tracks of all later frames again."""
        moment.reply = reply
        moment.tracks = confirm(moment.observed, reply, moment.frame.index)
        before = moment.tracks
        for index, later in self._moments.items():
            if index > moment.frame.index:
                later.carried = later.observed = _carry(before, later.frame)
                if later.found is not None:
                    later.observed = _observe(later, later.found)
                later.tracks = later.observed if later.reply is None else confirm(later.observed, later.reply, index)
                before = later.tracks

    def clear(self) -> None:
        """Forget all frames."""
        self._moments.clear()


def _observe(moment: Moment, found: Detections) -> Tracks:
    return observe(moment.carried, found, moment.frame.index, moment.answer_score is not None)


def _carry(tracks: Tracks, frame: SceneFrame) -> Tracks:
    """``tracks`` of the frame before in ``frame``; none where the motion is unknown."""
    if frame.flow is None:
        return NO_TRACKS
    return carry(tracks, frame.flow(tracks.boxes)) if len(tracks) else tracks
