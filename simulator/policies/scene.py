"""The policies for detectors that a comparison runs on recordings, beside the cascade itself.

A policy decides at each frame whether to ask the full model, and answers at once with the objects in view. Replies
arrive some frames later. All policies use the same recorded detections and motion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.detect.detections import NOTHING, Boxes, Detections, checked, f1, iou, match
from cachenet.shared.cascade.frame import Signature
from cachenet.shared.cascade.types import Level
from cachenet.simulator.traces.scene_recording import SceneRecording

#: Frame of a policy that has not asked yet: long before the first one.
_NEVER = -(10**9)


class Shown(NamedTuple):
    """Answer of a device at the moment of a frame, and its level."""

    objects: Detections
    level: Level


class ScenePolicy(Protocol):
    """What decides on a device. ``asks``, then ``answer`` are called once for each frame, in order."""

    def asks(self, frame: int) -> bool:
        """Whether to ask the full model about ``frame``."""

    def sent(self, frame: int) -> None:
        """The question about ``frame`` was sent. It is not while the line is busy."""

    def receive(self, frame: int, objects: Detections) -> None:
        """The full model's objects of ``frame``, in general an earlier one, have arrived."""

    def answer(self, frame: int) -> Shown:
        """The objects in ``frame``."""


class Device:
    """What policies share: recorded models and motion, with the time that they take.

    Attributes:
        recording: The recording.
    """

    def __init__(self, recording: SceneRecording) -> None:
        self.recording = recording
        self._ms = 0.0
        self._prepared = -1  # newest frame whose picture was prepared

    def detect(self, frame: int) -> Detections:
        """The detections of the device's detector, also those of low score."""
        self._ms += float(self.recording.base_ms[frame])
        return self.recording.base[frame]

    def signature(self, frame: int) -> Signature:
        """The signature of the picture."""
        self.prepare(frame)
        return self.recording.frames[frame].signature

    def moved(self, frame: int) -> npt.NDArray[np.bool_]:
        """The cells of the picture that have changed since the frame before."""
        self.prepare(frame)
        return self.recording.frames[frame].moved

    def shifts(self, frame: int, boxes: Boxes) -> Boxes:
        """Displacement of ``boxes`` of the frame before, for each of their four sides ``(n, 4)``."""
        self.prepare(frame)
        flow = self.recording.frames[frame].flow
        if flow is None or not len(boxes):
            return np.zeros_like(boxes)
        return np.tile(flow(boxes).shifts, 2)

    def carry(self, objects: Detections, since: int, to: int) -> Detections:
        """The objects of frame ``since``, moved with the picture to frame ``to``. What leaves the picture is lost."""
        for frame in range(since + 1, to + 1):
            boxes = objects.boxes + self.shifts(frame, objects.boxes)
            inside = centres_inside(boxes)
            objects = Detections(np.clip(boxes, 0, 1), objects.labels, objects.scores).take(inside)
        return objects

    def take_ms(self) -> float:
        """Time of models and pictures since the last reading, milliseconds."""
        ms, self._ms = self._ms, 0.0
        return ms

    def prepare(self, frame: int) -> None:
        """Count the time of preparing a picture, once."""
        if frame > self._prepared:
            self._ms += float(self.recording.picture_ms[frame])
            self._prepared = frame


def centres_inside(boxes: Boxes) -> npt.NDArray[np.bool_]:
    """Whether the centre of each box is in the picture ``(n,)``."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.asarray(((middle > 0) & (middle < 1)).all(1), np.bool_)


def above(found: Detections, score: float) -> Detections:
    """The detections of at least ``score``."""
    return found.take(found.scores >= score)


class Hold:
    """Ask about every ``n``\\ th frame; hold the objects of the newest reply. ``server-only`` is n = 1.

    The base class of the other policies.
    """

    def __init__(self, device: Device, n: int) -> None:
        """``n``: frames from one question to the next; 0 to ask never."""
        self._device, self._n = device, n
        self._asked = _NEVER
        self._at, self._objects = _NEVER, NOTHING  # the newest reply and its frame

    def asks(self, frame: int) -> bool:
        return self._n > 0 and frame - self._asked >= self._n

    def sent(self, frame: int) -> None:
        self._asked = frame

    def receive(self, frame: int, objects: Detections) -> None:
        if frame > self._at:
            self._at, self._objects = frame, objects

    def answer(self, frame: int) -> Shown:
        return Shown(self._objects, "cloud" if self._at == frame else "frames")


class Carry(Hold):
    """Ask about every ``n``\\ th frame; carry the objects of the newest reply to the present by optical flow."""

    def answer(self, frame: int) -> Shown:
        if self._at == _NEVER:
            return Shown(NOTHING, "frames")
        level: Level = "cloud" if self._at == frame else "tracks"
        self._objects, self._at = self._device.carry(self._objects, self._at, frame), frame
        return Shown(self._objects, level)

    def receive(self, frame: int, objects: Detections) -> None:
        """A reply replaces everything: replies arrive in order."""
        self._at, self._objects = frame, objects


class Difference(Hold):
    """Hold the objects of the newest reply. Ask once the picture differs from that of the last question by a mean
    square of more than ``limit``, squared grey levels (the difference detector of NoScope: D. Kang et al., arXiv
    1703.02529, section 5.1)."""

    def __init__(self, device: Device, limit: float) -> None:
        super().__init__(device, 1)
        self._limit = limit
        self._asked_picture: npt.NDArray[np.float32] | None = None
        self._picture: npt.NDArray[np.float32] | None = None

    def asks(self, frame: int) -> bool:
        self._picture = self._device.signature(frame).thumbnail
        if self._asked_picture is None:
            return True
        return float(((self._picture - self._asked_picture) ** 2).mean()) > self._limit

    def sent(self, frame: int) -> None:
        super().sent(frame)
        self._asked_picture = self._picture


class DeviceBase(Hold):
    """The device's detector on every frame, with a threshold on its score. No questions."""

    def __init__(self, device: Device, score: float) -> None:
        super().__init__(device, 0)
        self._score = score

    def answer(self, frame: int) -> Shown:
        return Shown(above(self._device.detect(frame), self._score), "base")


class Motion(DeviceBase):
    """Motion first, then the device's detector, as Frigate does (docs.frigate.video, "motion detection"): it runs if
    more than a share ``cells`` of the picture has changed. Otherwise the objects are held. No questions."""

    def __init__(self, device: Device, score: float, cells: float) -> None:
        super().__init__(device, score)
        self._cells, self._started = cells, False

    def answer(self, frame: int) -> Shown:
        if self._started and float(self._device.moved(frame).mean()) <= self._cells:
            return Shown(self._objects, "frames")
        self._started = True
        self._objects = super().answer(frame).objects
        return Shown(self._objects, "base")


@dataclass(slots=True)
class _Track:
    """An object that ``React`` follows.

    Attributes:
        box: Box ``(4,)``, which may reach out of the picture.
        found: Runs of a detector that have found it.
        missed: Runs of the device's detector since one found it.
        age: Frames since the full model found it; None: it never has.
    """

    box: npt.NDArray[np.float32]
    label: int
    found: int = 1
    missed: int = 0
    age: int | None = None


class React(Hold):
    """REACT (A. Ghosh et al., arXiv 2210.01402): the device's detector on every ``edge``\\ th frame, optical flow
    between, a question every ``cloud``\\ th frame. A reply is carried to the present and replaces the tracks; the
    device's detections correct tracks, end them, and begin new ones.

    The paper leaves the constants open; these were chosen by hand on vtest.avi. A detection belongs to a track that it
    overlaps by 0.3. It moves the track's box halfway, or a fifth below ``begins``. A second detection confirms a
    track. It ends after more than 2 runs without a detection, or 8 if the full model has found it.
    """

    _OVERLAP, _APART = 0.3, 0.4
    _STRONG, _WEAK = 0.5, 0.2
    _MISSES, _KNOWN_MISSES = 2, 8
    _FOUND = 2
    #: Frames after a reply for which its boxes are taken as they are.
    _FRESH = 2

    def __init__(self, device: Device, edge: int, cloud: int, score: float, begins: float) -> None:
        """Create the policy.

        Args:
            edge: Frames from one run of the device's detector to the next.
            cloud: Frames from one question to the next; 0 to ask never.
            score: Least score of a detection.
            begins: Least score of a detection that begins a track, at least ``score``.
        """
        super().__init__(device, cloud)
        self._edge, self._score, self._begins = edge, score, begins
        self._tracks: list[_Track] = []
        self._frames = 0
        self._reply: tuple[int, Detections] | None = None

    def receive(self, frame: int, objects: Detections) -> None:
        self._reply = frame, objects

    def answer(self, frame: int) -> Shown:
        level: Level = "tracks"
        self._carry(frame)
        if self._reply is not None:
            at, objects = self._reply
            self._reply, level = None, "cloud" if at == frame else level
            objects = self._device.carry(objects, at, frame)
            pairs = zip(objects.boxes, objects.labels.tolist(), strict=True)
            self._tracks = [_Track(box, label, found=self._FOUND, age=0) for box, label in pairs]
        if self._frames % self._edge == 0:
            level = "base"
            self._detect(above(self._device.detect(frame), self._score))
        self._frames += 1
        shown = [one for one in self._tracks if one.found >= self._FOUND]
        boxes, labels = _boxes(shown), [one.label for one in shown]
        return Shown(checked(boxes, labels, np.ones(len(shown)), max(labels, default=0) + 1), level)

    def _carry(self, frame: int) -> None:
        boxes = _boxes(self._tracks)
        boxes = boxes + self._device.shifts(frame, boxes)
        for track, box in zip(self._tracks, boxes, strict=True):
            track.box = box
            if track.age is not None:
                track.age += 1
        inside = centres_inside(boxes)
        self._tracks = [track for track, is_inside in zip(self._tracks, inside, strict=True) if is_inside]

    def _detect(self, found: Detections) -> None:
        tracks, boxes = self._tracks, _boxes(self._tracks)
        pairs = match(
            boxes, np.array([one.label for one in tracks], np.int64), found.boxes, found.labels, self._OVERLAP
        )
        for one in tracks:
            one.missed += 1
        for row, column in pairs:
            track = tracks[row]
            track.missed, track.found = 0, track.found + 1
            if track.age is None or track.age > self._FRESH:
                weight = self._STRONG if found.scores[column] >= self._begins else self._WEAK
                track.box = (1 - weight) * track.box + weight * found.boxes[column]
        used = {column for _, column in pairs}
        overlap = iou(found.boxes, boxes).max(1, initial=0.0)
        born = [
            _Track(found.boxes[row], int(found.labels[row]))
            for row in range(len(found))
            if row not in used and found.scores[row] >= self._begins and overlap[row] < self._APART
        ]
        limits = (self._MISSES if one.age is None else self._KNOWN_MISSES for one in tracks)
        self._tracks = [one for one, limit in zip(tracks, limits, strict=True) if one.missed <= limit] + born


def _boxes(tracks: Sequence[_Track]) -> Boxes:
    return np.array([one.box for one in tracks], np.float32).reshape(-1, 4)


class Oracle(Carry):
    """A bound, no policy: it knows the full model's objects. Of the newest reply and its own last objects, both
    carried, and of the device's detections it answers with exactly those boxes that are right. It asks where their
    error is more than ``limit``."""

    def __init__(self, device: Device, limit: float) -> None:
        super().__init__(device, 1)
        self._limit = limit
        self._last = NOTHING  # the last answer

    def asks(self, frame: int) -> bool:
        right = len(self._right(frame))
        return 1 - f1(right, 0, len(self._device.recording.full[frame]) - right) > self._limit

    def answer(self, frame: int) -> Shown:
        self._device.detect(frame)
        level = super().answer(frame).level  # carries the newest reply
        self._last = self._right(frame)
        return Shown(self._last, level)

    def _right(self, frame: int) -> Detections:
        """The candidates that match an object of the full model, one for each."""
        recording = self._device.recording
        candidates = [recording.base[frame], self._device.carry(self._last, frame - 1, frame)]
        if self._at != _NEVER:
            candidates.append(self._device.carry(self._objects, self._at, frame))
        boxes, labels, scores = (
            np.concatenate([getattr(one, column) for one in candidates]) for column in ("boxes", "labels", "scores")
        )
        reference = recording.full[frame]
        rows = [row for row, _ in match(boxes, labels, reference.boxes, reference.labels)]
        return Detections(boxes, labels, scores).take(np.array(rows, np.int64))


#: Makes a policy for a device.
Maker = Callable[[Device], ScenePolicy]
