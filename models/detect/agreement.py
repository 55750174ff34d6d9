"""Agreement of a detector with the full model on a block of footage, and how much different footage it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from cachenet.models.detect.footage import Block, Pictures
from cachenet.models.export.detector import DetectorModel
from cachenet.shared.cascade.detect.detections import Detections, counts, match, pooled_f1
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.image import Picture

#: Scores among which a detector's threshold is chosen.
_THRESHOLDS = tuple(round(0.15 + 0.05 * step, 2) for step in range(14))
#: Least score of the detections that thresholds are chosen from.
LEAST = _THRESHOLDS[0]
#: Least intersection over union of one object in consecutive frames.
_LINK = 0.3
#: Frames after which an object that was not found again has gone.
_GONE = 10
#: Least number of frames of an object; a shorter one may be a false detection.
_LEAST_FRAMES = 5


@dataclass(frozen=True)
class Agreement:
    """F1 of a detector against the full model's objects, and the threshold of the score that it is for."""

    f1: float
    score: float


def as_pictures(pictures: Pictures) -> Iterator[Picture]:
    """BGR pictures from ``(n, height, width, 3)`` RGB."""
    return (np.ascontiguousarray(picture[:, :, ::-1]) for picture in pictures)


def run(detector: Detector, block: Block) -> list[Detections]:
    """The objects that ``detector`` finds in each frame, from ``LEAST`` where its decoder has that. Raises
    ``EngineError``.
    """
    return [detector(picture) for picture in as_pictures(block.pictures)]


def lowered(model: DetectorModel) -> DetectorModel:
    """``model`` with all detections from which a threshold is chosen."""
    score = min(LEAST, model.decoder.score)
    return replace(model, decoder=msgspec.structs.replace(model.decoder, score=score))


def at(found: Sequence[Detections], reference: Sequence[Detections], score: float) -> Agreement:
    """Agreement of detections with ``reference`` at a threshold of ``score``; counts are of all frames together."""
    pairs = zip(found, reference, strict=True)
    each = [counts(one.take(one.scores >= score), other) for one, other in pairs]
    return Agreement(pooled_f1(np.array(each).reshape(-1, 3)), score)


def best(found: Sequence[Detections], reference: Sequence[Detections]) -> Agreement:
    """Agreement at the threshold of the greatest F1; of equal ones the lowest."""
    return max((at(found, reference, score) for score in _THRESHOLDS), key=lambda one: (one.f1, -one.score))


def tracks(block: Block) -> int:
    """A rough number of different objects in a block, by linking the full model's boxes from frame to frame.

    Frames of a static camera are nearly alike; the number of objects says how much there was to learn from.
    """
    number = 0
    sequence = -1
    active: list[tuple[Detections, int, int]] = []  # an object's last box, frames since, and number of its boxes
    for row, found in enumerate(block.reference):
        if block.sequences[row] != sequence:
            sequence, active = int(block.sequences[row]), []
        boxes = np.concatenate([np.zeros((0, 4), np.float32), *(one.boxes for one, _, _ in active)])
        labels = np.concatenate([np.zeros(0, np.int64), *(one.labels for one, _, _ in active)])
        pairs = {j: i for i, j in match(boxes, labels, found.boxes, found.labels, _LINK)}
        linked = set(pairs.values())
        others = [
            (one, age + 1, length)
            for place, (one, age, length) in enumerate(active)
            if place not in linked and age < _GONE
        ]
        for j in range(len(found)):
            length = active[pairs[j]][2] + 1 if j in pairs else 1
            number += length == _LEAST_FRAMES
            others.append((found.take(slice(j, j + 1)), 0, length))
        active = others
    return number
