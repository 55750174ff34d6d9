"""The tracks of a scene: carried by motion, observed by a device's detector, confirmed or denied by the full model.

Every function returns new tracks and changes nothing, so that earlier frames can be computed again. Boxes follow a
Kalman filter with one variance a box (R. Kalman, 1960), in units of a detector's own variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.detect.detections import Boxes, Detections, iou, match
from cachenet.shared.cascade.detect.types import Motion

Array = npt.NDArray[np.float64]

# Columns of ``Tracks.state``.
#: Variance of the box, as a multiple of that of a detection.
VARIANCE = 0
#: Frames since the track began.
AGE = 1
#: Whether the full model has ever confirmed the track.
CONFIRMED = 2
#: Frames since the full model confirmed the track; since it began for a track that is not confirmed.
SINCE_FULL = 3
#: Replies of the full model in a row without the object.
DENIED = 4
#: Average rate of frames whose detections include the object, over the frames that a detector looked at.
DETECTED = 5
#: Frames in a row that a detector looked at without finding the object.
MISSES = 6
#: Average log odds of the detections' scores.
SCORE = 7
#: Average intersection over union of the carried box and its detection.
AGREEMENT = 8
#: Average consistency of the motion.
CONSISTENCY = 9
#: Frames since a detector or the full model looked at the track.
SINCE_LOOK = 10
_COLUMNS = 11

#: Variance that a frame of motion adds to a box that moves consistently. On the build frames of vtest.avi with two
#: detectors 0.02 to 0.04 are alike, and 0.06 to 0.2 worse.
_MOTION_VARIANCE = 0.03
#: Variance that inconsistent motion adds.
_INCONSISTENT_VARIANCE = 0.3
#: Consistency at which a track ends: no point of the box is found in the next frame, as after a cut.
_LOST = 0.0
#: Weight of the newest frame in the averages of ``state``.
_NEWEST = 0.3
#: Least intersection over union of a track and its detection.
ASSOCIATED = 0.3
#: Frames in a row without a detection after which a track ends: confirmed by the full model, or not.
_MAX_MISSES = (10, 3)
#: Replies of the full model in a row without the object after which a track ends.
_MAX_DENIED = 3
#: Most tracks of a scene; those with the best average rate of detections stay.
MAX_TRACKS = 128
#: Least and greatest log odds of a score.
_LOG_ODDS = 6.0


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """The tracks of one frame, one row a track.

    Attributes:
        keys: Identity of each track: frame and row of its first detection ``(n,)`` int64.
        labels: Index of each label ``(n,)`` int64.
        boxes: Boxes, which may reach over the picture's border ``(n, 4)`` float32.
        state: What is known of each track ``(n, 11)`` float64; see the columns above.
    """

    keys: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    boxes: Boxes
    state: Array

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Tracks:
        """The tracks at ``rows``."""
        return Tracks(self.keys[rows], self.labels[rows], self.boxes[rows], self.state[rows])

    @property
    def visible(self) -> Boxes:
        """The part of each box inside the picture ``(n, 4)``."""
        clipped: Boxes = np.clip(self.boxes, 0.0, 1.0)
        return clipped


#: An empty scene.
NO_TRACKS = Tracks(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros((0, _COLUMNS)))


def carry(tracks: Tracks, motion: Motion) -> Tracks:
    """The tracks in the next frame. Those whose centre has left the picture end."""
    if not len(tracks):
        return tracks
    shifts, consistency = motion
    boxes = tracks.boxes + np.concatenate([shifts, shifts], 1)
    state = tracks.state.copy()
    moving = np.abs(shifts).max(1) > 0
    state[:, VARIANCE] += _MOTION_VARIANCE * moving + _INCONSISTENT_VARIANCE * (1.0 - consistency)
    state[:, AGE] += 1.0
    state[:, SINCE_FULL] += 1.0
    state[:, SINCE_LOOK] += 1.0
    state[:, CONSISTENCY] += _NEWEST * (consistency - state[:, CONSISTENCY])
    middle = boxes[:, :2] + boxes[:, 2:]  # (n, 2), twice the centre
    inside = (middle > 0.0).all(1) & (middle < 2.0).all(1) & (consistency > _LOST)
    carried = Tracks(tracks.keys, tracks.labels, boxes, state)
    return carried if inside.all() else carried.take(inside)


def observe(tracks: Tracks, found: Detections, frame: int, replace: bool = False) -> Tracks:
    """The tracks after a device's detector has looked at their frame. Unmatched detections begin tracks.

    Args:
        replace: Whether the detector's boxes replace those of the tracks, and each detection has its track.
    """
    state, boxes = tracks.state.copy(), tracks.boxes.copy()
    visible = tracks.visible
    pairs = match(visible, tracks.labels, found.boxes, found.labels, ASSOCIATED)
    state[:, DETECTED] *= 1.0 - _NEWEST
    state[:, MISSES] += 1.0
    state[:, SINCE_LOOK] = 0.0
    if pairs:
        rows, columns = np.array(pairs).T
        gain = state[rows, VARIANCE] / (state[rows, VARIANCE] + 1.0)
        if replace:
            boxes[rows], state[rows, VARIANCE] = found.boxes[columns], 1.0
        else:
            boxes[rows] += gain[:, None].astype(np.float32) * (found.boxes[columns] - visible[rows])
            state[rows, VARIANCE] *= 1.0 - gain
        state[rows, DETECTED] += _NEWEST
        state[rows, MISSES] = 0.0
        state[rows, SCORE] += _NEWEST * (_log_odds(found.scores[columns]) - state[rows, SCORE])
        overlap = _paired_iou(visible[rows], found.boxes[columns])
        state[rows, AGREEMENT] += _NEWEST * (overlap - state[rows, AGREEMENT])
    limits = np.where(state[:, CONFIRMED] > 0, *_MAX_MISSES)
    alive = state[:, MISSES] <= limits
    updated = Tracks(tracks.keys, tracks.labels, boxes, state)
    if not alive.all():
        updated = updated.take(alive)
    return _with_new(updated, found, {j for _, j in pairs}, frame, confirmed=False, all_new=replace)


def confirm(tracks: Tracks, reference: Detections, frame: int) -> Tracks:
    """The tracks after the full model has answered their frame. Its boxes replace those of the tracks."""
    state, boxes = tracks.state.copy(), tracks.boxes.copy()
    pairs = match(tracks.visible, tracks.labels, reference.boxes, reference.labels, ASSOCIATED)
    state[:, DENIED] += 1.0
    if pairs:
        rows, columns = np.array(pairs).T
        boxes[rows] = reference.boxes[columns]
        state[rows, VARIANCE] = 0.0
        state[rows, CONFIRMED] = 1.0
        state[rows, SINCE_FULL] = 0.0
        state[rows, SINCE_LOOK] = 0.0
        state[rows, DENIED] = 0.0
    alive = state[:, DENIED] <= _MAX_DENIED
    updated = Tracks(tracks.keys, tracks.labels, boxes, state)
    if not alive.all():
        updated = updated.take(alive)
    return _with_new(updated, reference, {j for _, j in pairs}, frame, confirmed=True, all_new=True)


def _with_new(tracks: Tracks, found: Detections, used: set[int], frame: int, confirmed: bool, all_new: bool) -> Tracks:
    """The tracks and a new one for each detection that is not ``used``, within ``MAX_TRACKS``.

    Unless ``all_new``, one that overlaps a track of its label begins no track: it is a second box of one object.
    """
    rows = np.array([j for j in range(len(found)) if j not in used], np.int64)
    if not all_new and len(rows) and len(tracks):
        overlap = iou(found.boxes[rows], tracks.visible)
        twice = ((overlap >= ASSOCIATED) & (found.labels[rows][:, None] == tracks.labels[None])).any(1)
        rows = rows[~twice]
    if not len(rows):
        return tracks
    state = np.zeros((len(rows), _COLUMNS))
    state[:, CONFIRMED] = confirmed
    state[:, VARIANCE] = 0.0 if confirmed else 1.0
    state[:, DETECTED] = 0.0 if confirmed else _NEWEST
    state[:, SCORE] = 0.0 if confirmed else _log_odds(found.scores[rows])
    state[:, AGREEMENT] = 0.5
    state[:, CONSISTENCY] = 1.0
    # The frame and the rank of a detection identify a track, however often its frame is computed again.
    keys = np.int64(frame) * 1024 + 512 * confirmed + rows
    all_tracks = Tracks(
        np.concatenate([tracks.keys, keys]),
        np.concatenate([tracks.labels, found.labels[rows]]),
        np.concatenate([tracks.boxes, found.boxes[rows]]),
        np.concatenate([tracks.state, state]),
    )
    if len(all_tracks) <= MAX_TRACKS:
        return all_tracks
    best = np.lexsort((all_tracks.keys, -all_tracks.state[:, DETECTED], -all_tracks.state[:, CONFIRMED]))[:MAX_TRACKS]
    return all_tracks.take(np.sort(best))


def _log_odds(scores: npt.NDArray[np.float32]) -> Array:
    p = np.clip(scores.astype(np.float64), 1e-9, 1.0 - 1e-9)
    clipped: Array = np.clip(np.log(p / (1.0 - p)), -_LOG_ODDS, _LOG_ODDS)
    return clipped


def _paired_iou(boxes: Boxes, others: Boxes) -> Array:
    """Intersection over union of each box and the other box in its row ``(n,)``."""
    low, high = np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])
    shared = np.maximum(high - low, 0.0).prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (others[:, 2:] - others[:, :2]).prod(1) - shared
    overlap: Array = (shared / np.maximum(union, 1e-12)).astype(np.float64)
    return overlap
