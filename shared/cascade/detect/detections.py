"""Detections: boxes with labels and scores, their overlap, and their matching."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Left, top, right and bottom of boxes as shares of the picture's width and height ``(n, 4)`` float32.
Boxes = npt.NDArray[np.float32]

#: Most detections of a frame; those of highest score are used. The wire and the core are bounded by it.
MAX_DETECTIONS = 256
#: Least width and height of a box, as a share of the picture.
_MIN_SIDE = 1e-4
#: Least intersection over union of two boxes of one object: the field's convention (PASCAL VOC).
SAME_OBJECT = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The objects that a detector finds in one frame, by decreasing score.

    Attributes:
        boxes: Boxes inside the picture ``(n, 4)`` float32.
        labels: Index of each box's label ``(n,)`` int64.
        scores: Score of each box, 0 to 1 ``(n,)`` float32.

    Example:
        >>> found = checked([[0.1, 0.1, 0.3, 0.5], [0.2, 0.1, np.nan, 1]], [0, 0], [0.9, 0.8], classes=1)
        >>> len(found), found.scores.tolist()
        (1, [0.8999999761581421])
    """

    boxes: Boxes
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64] | slice) -> Detections:
        """The detections at ``rows``."""
        return Detections(self.boxes[rows], self.labels[rows], self.scores[rows])


#: No detections.
NOTHING = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32))


def checked(boxes: npt.ArrayLike, labels: npt.ArrayLike, scores: npt.ArrayLike, classes: int) -> Detections:
    """Valid detections from a model's or a peer's arrays, by decreasing score.

    Boxes are clipped to the picture. What is not finite, has no area, a score outside 0 to 1 or a label outside the
    ``classes`` labels is dropped, and so is what exceeds ``MAX_DETECTIONS``.

    Args:
        boxes: Left, top, right, bottom, as shares of the picture ``(n, 4)``.
        labels: Index of each box's label ``(n,)``.
        scores: Score of each box ``(n,)``.

    Raises:
        ValueError: The arrays do not fit each other.
    """
    raw, named = np.asarray(boxes, np.float32), np.asarray(labels)
    confidence = np.asarray(scores, np.float32)
    n = len(raw)
    if raw.shape != (n, 4) or named.shape != (n,) or confidence.shape != (n,):
        raise ValueError(f"boxes {raw.shape}, labels {named.shape} and scores {confidence.shape} do not fit each other")
    if not n:
        return NOTHING
    finite = np.isfinite(raw).all(1) & np.isfinite(confidence)
    inside = np.clip(np.where(finite[:, None], raw, 0.0), 0.0, 1.0)
    large = ((inside[:, 2:] - inside[:, :2]) >= _MIN_SIDE).all(1)
    valid = finite & large & (confidence >= 0) & (confidence <= 1) & (named >= 0) & (named < classes)
    rows = np.flatnonzero(valid)
    rows = rows[np.lexsort((*inside[rows].T[::-1], named[rows], -confidence[rows]))][:MAX_DETECTIONS]
    return Detections(inside[rows], named[rows].astype(np.int64), confidence[rows])


def iou(boxes: Boxes, others: Boxes) -> npt.NDArray[np.float32]:
    """Intersection over union of each pair of boxes ``(n, m)``."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])  # (n, m, 2)
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])  # (n, m, 2)
    shared = np.maximum(high - low, 0.0).prod(2)  # (n, m)
    union = area(boxes)[:, None] + area(others)[None] - shared
    result: npt.NDArray[np.float32] = shared / np.maximum(union, 1e-12)
    return result


def area(boxes: Boxes) -> npt.NDArray[np.float32]:
    """Area of each box, as a share of the picture ``(n,)``."""
    result: npt.NDArray[np.float32] = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return result


def match(
    boxes: Boxes,
    labels: npt.NDArray[np.int64],
    others: Boxes,
    other_labels: npt.NDArray[np.int64],
    least: float = SAME_OBJECT,
) -> list[tuple[int, int]]:
    """Match boxes of equal label one to one, pairs of greatest overlap first.

    Args:
        least: Least intersection over union of a pair.

    Returns:
        Pairs of a row of ``boxes`` and a row of ``others``. Pairs of equal overlap are ordered by their boxes, so that
        the order of the rows changes nothing.
    """
    if not len(boxes) or not len(others):
        return []
    overlap = iou(boxes, others)
    rows, columns = np.nonzero((overlap >= least) & (labels[:, None] == other_labels[None]))
    order = np.lexsort((*others[columns].T, *boxes[rows].T, -overlap[rows, columns]))
    pairs: list[tuple[int, int]] = []
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    for i, j in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if i not in used_rows and j not in used_columns:
            used_rows.add(i)
            used_columns.add(j)
            pairs.append((i, j))
    return pairs


def counts(answer: Detections, reference: Detections) -> tuple[int, int, int]:
    """True positives, false positives and false negatives of an answer against a reference."""
    hits = len(match(answer.boxes, answer.labels, reference.boxes, reference.labels))
    return hits, len(answer) - hits, len(reference) - hits


def f1(true_positives: float, false_positives: float, false_negatives: float) -> float:
    """F1 score from counts; 1 where there is nothing to find and nothing was found."""
    total = 2 * true_positives + false_positives + false_negatives
    return 2 * true_positives / total if total else 1.0


def pooled_f1(found: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> float:
    """F1 score of the sum of counts ``(n, 3)``; of all frames of a stream, its streaming F1.

    M. Li et al., "Towards streaming perception", ECCV 2020 (arXiv 2005.10420).
    """
    return f1(*found.sum(0).tolist())


def object_errors(found: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Object error of each frame, 1 - F1 ``(n,)``, from its counts ``(n, 3)``."""
    return np.array([1.0 - f1(*own) for own in found.tolist()])


def corners(boxes: npt.ArrayLike) -> Boxes:
    """Boxes ``(n, 4)`` from left, top, width and height, which answers have."""
    converted = np.array(boxes, np.float32).reshape(-1, 4)
    converted[:, 2:] += converted[:, :2]
    return converted
