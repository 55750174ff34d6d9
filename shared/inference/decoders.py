"""Decoders: from the output tensors of a detector to boxes with labels and scores, described as data.

Strides and cells follow from the shapes of the tensors and the size of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.detect.detections import MAX_DETECTIONS, Boxes

DecoderKind = Literal["ssd", "yolox", "yolov5", "yolov8", "nanodet", "fastestdet", "detr", "heatmap"]
DECODER_KINDS: tuple[DecoderKind, ...] = get_args(DecoderKind)

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Floats = npt.NDArray[np.float32]
_Rows = npt.NDArray[np.int64]
#: Most boxes of a frame before non-maximum suppression, by score: bounds its time. A detector gives some ten boxes for
#: one object at a low threshold.
MAX_CANDIDATES = 4 * MAX_DETECTIONS
#: Smallest and largest stride of a grid of cells, pixels.
_STRIDES = tuple(1 << power for power in range(2, 8))
#: Largest score above 1 that is taken as 1: the rounding of a softmax in float16.
_ROUNDING = 1e-3


class DecodeError(ValueError):
    """Tensors that do not fit their decoder. The message is one line."""


class Decoder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the output of a detector becomes detections; part of a bundle.

    The outputs by kind, for one picture, with ``n`` boxes and ``c`` classes:

    - ``ssd``: finished boxes, as left, top, right and bottom in shares of the input ``(1, n, 4)``, and either the class
      ``(1, n)`` and score ``(1, n)`` of each, or a score for each class ``(1, n, c)``.
    - ``yolox``: ``(1, n, 5 + c)``, a row for each cell of a grid for each stride: centre and logarithm of the size in
      cells, objectness, classes.
    - ``yolov5``: ``(1, n, 5 + c)``: centre and size in pixels of the input, objectness, classes.
    - ``yolov8``: ``(1, 4 + c, n)``: centre and size in pixels of the input, classes.
    - ``nanodet``: ``(1, n, c + 4 * bins)``, a row for each cell: classes, and distributions over the distances to the
      four sides in cells.
    - ``fastestdet``: ``(1, 5 + c, rows, columns)``: objectness, centre and size as logits, classes.
    - ``detr``: logits ``(1, n, c)`` or ``(1, n, c + 1)``, and centre and size in shares of the input ``(1, n, 4)``.
    - ``heatmap``: ``(1, 4 + c, rows, columns)``: centre from the cell's own index, and logarithm of the size, in cells;
      classes, with 0 wherever a neighbour is higher.

    Attributes:
        kind: Structure of the output tensors.
        classes: For each label of the bundle, the index of the detector's class.
        score: Least score of a detection.
        overlap: Largest intersection over union of two detections of one label (non-maximum suppression).
        bins: Of ``nanodet``: number of distances of a distribution.
        no_object: Of ``detr``: whether the last logit is of "no object", and scores are a softmax over all; otherwise
            each logit is of a sigmoid.
    """

    kind: DecoderKind
    classes: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    score: _Share = 0.4
    overlap: _Share = 0.6
    bins: Annotated[int, msgspec.Meta(ge=2, le=64)] = 8
    no_object: bool = False


class Candidates(NamedTuple):
    """Boxes before non-maximum suppression, by decreasing score.

    Attributes:
        boxes: Left, top, right, bottom in shares of the model's input ``(n, 4)``; some may be partly outside.
        labels: Index of each box's label ``(n,)``.
        scores: Score of each box, 0 to 1 ``(n,)``.
    """

    boxes: Boxes
    labels: _Rows
    scores: _Floats


class _Chosen(NamedTuple):
    """Boxes of enough score.

    Attributes:
        rows: Their rows in the output ``(n,)``.
        labels: Index of each box's label ``(n,)``.
        scores: Score of each box ``(n,)``.
    """

    rows: _Rows
    labels: _Rows
    scores: _Floats


class _Run(NamedTuple):
    """What a decoder takes."""

    outputs: Sequence[_Floats]
    decoder: Decoder
    size: tuple[int, int]  # Width and height of the model's input, pixels


def decode(outputs: Sequence[npt.NDArray[Any]], decoder: Decoder, size: tuple[int, int]) -> Candidates:
    """The boxes in a detector's outputs for one picture, at most ``MAX_CANDIDATES``.

    A box has the class of highest score. What is not finite or has no area, a score below the decoder's or above 1, and
    classes without a label are dropped.

    Args:
        size: Width and height of the model's input, pixels.

    Raises:
        DecodeError: The outputs do not fit the decoder.
    """
    tensors = [np.asarray(output, np.float32) for output in outputs]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        boxes, chosen = _KINDS[decoder.kind](_Run(tensors, decoder, size))
        boxes /= np.array([*size, *size], np.float32)
        valid = np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes, labels, scores = boxes[valid], chosen.labels[valid], chosen.scores[valid]
    # Ties by the boxes: the order of the rows changes nothing.
    order = np.lexsort((*boxes.T[::-1], labels, -scores))[:MAX_CANDIDATES]
    return Candidates(boxes[order], labels[order], scores[order])


@lru_cache(maxsize=64)
def strides(cells: int, size: tuple[int, int]) -> tuple[int, ...]:
    """The strides of a detector with ``cells`` cells in all for an input of ``size`` (width, height); empty for none.

    >>> strides(3598, (416, 416))
    (8, 16, 32, 64)
    """
    counts = [-(-size[0] // stride) * -(-size[1] // stride) for stride in _STRIDES]
    for first in range(len(counts)):
        for last in range(first + 1, len(counts) + 1):
            if sum(counts[first:last]) == cells:
                return _STRIDES[first:last]
    return ()


@lru_cache(maxsize=64)
def grid(cells: int, size: tuple[int, int], offset: float) -> tuple[_Floats, _Floats]:
    """Centre ``(cells, 2)`` in pixels and stride ``(cells, 1)`` of each cell, rows first, finest stride first.

    Args:
        offset: Centre of a cell from its top left corner, cells.
    """
    found = strides(cells, size)
    if not found:
        raise DecodeError(f"{cells} rows fit no grid of cells of an input of {size[0]}x{size[1]}")
    centres, steps = [], []
    for stride in found:
        rows, columns = -(-size[1] // stride), -(-size[0] // stride)
        y, x = np.divmod(np.arange(rows * columns), columns)
        centres.append((np.stack([x, y], 1) + offset) * stride)
        steps.append(np.full((rows * columns, 1), stride))
    return np.concatenate(centres).astype(np.float32), np.concatenate(steps).astype(np.float32)


@lru_cache(maxsize=64)
def _labels(classes: tuple[int, ...], count: int) -> _Rows:
    """Label of each of a detector's ``count`` classes; -1 for none ``(count,)``."""
    if max(classes, default=0) >= count:
        raise DecodeError(f"the decoder has a label for class {max(classes)}, and the model has {count} classes")
    table = np.full(count, -1, np.int64)
    table[list(classes)] = np.arange(len(classes))
    return table


def _choose(
    scores: _Floats, decoder: Decoder, objectness: _Floats | None = None, powers: tuple[float, float] = (1.0, 1.0)
) -> _Chosen:
    """The rows of enough score.

    Args:
        scores: Score of each class ``(n, classes)``.
        objectness: Factor on all scores of a row ``(n,)``.
        powers: Exponents of objectness and score in their product.
    """
    table = _labels(decoder.classes, scores.shape[1])
    if objectness is None:
        rows = np.flatnonzero((scores >= _least(decoder)).any(1))
    else:
        objectness = objectness ** powers[0]
        rows = np.flatnonzero(objectness >= _least(decoder))
    some = scores[rows]
    classes = some.argmax(1)
    values = some[np.arange(len(rows)), classes]
    if objectness is not None:
        values = values ** powers[1] * objectness[rows]
    return _enough(rows, table[classes], values, decoder)


def _least(decoder: Decoder) -> float:
    """Least score of a detection; never 0, which suppressed cells have."""
    return max(decoder.score, float(np.finfo(np.float32).tiny))


def _enough(rows: _Rows, labels: _Rows, scores: _Floats, decoder: Decoder) -> _Chosen:
    """The rows with a label and enough score, bounded by ``MAX_CANDIDATES`` except for ties."""
    valid = (labels >= 0) & (scores >= _least(decoder)) & (scores <= 1 + _ROUNDING)
    if np.count_nonzero(valid) > MAX_CANDIDATES:
        valid &= scores >= np.partition(scores[valid], -MAX_CANDIDATES)[-MAX_CANDIDATES]
    return _Chosen(rows[valid], labels[valid], np.minimum(scores[valid], np.float32(1)))


def _tensor(run: _Run, axes: int, least: int) -> _Floats:
    """The only output without its first axis, which has ``axes`` axes; the classes' axis has at least ``least``."""
    if len(run.outputs) != 1 or run.outputs[0].ndim != axes + 1 or len(run.outputs[0]) != 1:
        raise _unfit(run)
    tensor: _Floats = run.outputs[0][0]
    if tensor.shape[-1 if run.decoder.kind in ("yolox", "yolov5", "nanodet") else 0] < least:
        raise _unfit(run)
    if axes == 3 and 0 in tensor.shape:  # a map without cells
        raise _unfit(run)
    return tensor


def _unfit(run: _Run) -> DecodeError:
    shapes = ", ".join(" x ".join(map(str, output.shape)) for output in run.outputs)
    return DecodeError(f"outputs of {shapes} do not fit the decoder {run.decoder.kind}")


def _centred(centres: _Floats, sizes: _Floats) -> Boxes:
    """Left, top, right and bottom ``(n, 4)`` from centres and sizes ``(n, 2)``."""
    half = sizes * np.float32(0.5)
    return np.concatenate([centres - half, centres + half], 1)


def _ssd(run: _Run) -> tuple[Boxes, _Chosen]:
    count = next((output.shape[-2] for output in run.outputs[:1] if output.ndim > 1), 0)
    sizes = [output.size for output in run.outputs]
    classes = run.outputs[-1].shape[-1] if len(sizes) == 2 and run.outputs[-1].ndim > 1 else 0
    if classes and sizes == [4 * count, classes * count]:
        chosen = _choose(run.outputs[1].reshape(count, classes), run.decoder)
    elif len(sizes) == 3 and sizes == [4 * count, count, count]:
        numbers, scores = run.outputs[1].reshape(-1), run.outputs[2].reshape(-1)
        # Finished boxes do not show the number of classes. One without a label is none of the decoder's.
        known = max(run.decoder.classes, default=0) + 1
        labels = np.full(count, -1)
        usable = (numbers >= 0) & (numbers < known)
        labels[usable] = _labels(run.decoder.classes, known)[numbers[usable].astype(np.int64)]
        chosen = _enough(np.arange(count), labels, scores, run.decoder)
    else:
        raise _unfit(run)
    return run.outputs[0].reshape(count, 4)[chosen.rows] * np.array([*run.size, *run.size], np.float32), chosen


def _yolox(run: _Run) -> tuple[Boxes, _Chosen]:
    table = _tensor(run, 2, 6)
    centres, steps = grid(len(table), run.size, 0.0)
    chosen = _choose(table[:, 5:], run.decoder, table[:, 4])
    some, steps = table[chosen.rows], steps[chosen.rows]
    boxes = _centred(centres[chosen.rows] + some[:, :2] * steps, np.exp(some[:, 2:4]) * steps)
    return boxes, chosen


def _yolov5(run: _Run) -> tuple[Boxes, _Chosen]:
    table = _tensor(run, 2, 6)
    chosen = _choose(table[:, 5:], run.decoder, table[:, 4])
    some = table[chosen.rows]
    return _centred(some[:, :2], some[:, 2:4]), chosen


def _yolov8(run: _Run) -> tuple[Boxes, _Chosen]:
    table = _tensor(run, 2, 5).T  # (n, 4 + classes)
    chosen = _choose(table[:, 4:], run.decoder)
    some = table[chosen.rows]
    return _centred(some[:, :2], some[:, 2:4]), chosen


def _nanodet(run: _Run) -> tuple[Boxes, _Chosen]:
    table = _tensor(run, 2, 4 * run.decoder.bins + 1)
    # NanoDet-Plus has four strides and the corners of the cells; NanoDet of 2020 has three and their centres.
    levels = strides(len(table), run.size)
    centres, steps = grid(len(table), run.size, 0.0 if len(levels) == 4 else 0.5)
    classes = table.shape[1] - 4 * run.decoder.bins
    chosen = _choose(table[:, :classes], run.decoder)
    logits = table[chosen.rows, classes:].reshape(-1, 4, run.decoder.bins)
    odds = np.exp(logits - logits.max(2, keepdims=True))
    distances = odds @ np.arange(run.decoder.bins, dtype=np.float32) / odds.sum(2) * steps[chosen.rows]  # (n, 4)
    middle = centres[chosen.rows]
    return np.concatenate([middle - distances[:, :2], middle + distances[:, 2:]], 1), chosen


def _fastestdet(run: _Run) -> tuple[Boxes, _Chosen]:
    grid = _tensor(run, 3, 6)
    rows, columns = grid.shape[1:]
    table = grid.reshape(len(grid), -1).T  # (rows * columns, 5 + classes)
    # Exponents of the authors' post-processing (FastestDet, utils/tool.py).
    chosen = _choose(table[:, 5:], run.decoder, table[:, 0], (0.6, 0.4))
    some, cells = table[chosen.rows, 1:5], _cells(chosen.rows, columns)
    sizes = 1 / (1 + np.exp(-some[:, 2:]))
    step, whole = np.array([run.size[0] / columns, run.size[1] / rows], np.float32), np.array(run.size, np.float32)
    return _centred((cells + np.tanh(some[:, :2])) * step, sizes * whole), chosen


def _detr(run: _Run) -> tuple[Boxes, _Chosen]:
    if len(run.outputs) != 2 or run.outputs[0].ndim != 3 or len(run.outputs[0]) != 1:
        raise _unfit(run)
    if run.outputs[1].shape != (1, run.outputs[0].shape[1], 4):
        raise _unfit(run)
    logits, boxes = run.outputs[0][0], run.outputs[1][0]
    if run.decoder.no_object:
        odds = np.exp(logits - logits.max(1, keepdims=True))
        scores = (odds / odds.sum(1, keepdims=True))[:, :-1]
    else:
        scores = 1 / (1 + np.exp(-logits))
    chosen = _choose(scores, run.decoder)
    some = boxes[chosen.rows] * np.array([*run.size, *run.size], np.float32)
    return _centred(some[:, :2], some[:, 2:]), chosen


def _heatmap(run: _Run) -> tuple[Boxes, _Chosen]:
    grid = _tensor(run, 3, 5)
    rows, columns = grid.shape[1:]
    table = grid.reshape(len(grid), -1).T  # (rows * columns, 4 + classes)
    chosen = _choose(table[:, 4:], run.decoder)
    some, step = table[chosen.rows], np.array([run.size[0] / columns, run.size[1] / rows], np.float32)
    return _centred((_cells(chosen.rows, columns) + some[:, :2]) * step, np.exp(some[:, 2:4]) * step), chosen


def _cells(rows: _Rows, columns: int) -> _Floats:
    """Column and row of cells ``(n, 2)``, from their numbers, rows first."""
    return np.stack([rows % columns, rows // columns], 1).astype(np.float32)


#: Boxes in pixels of the input ``(n, 4)``, and their rows, labels and scores, from float32 outputs.
_KINDS: dict[DecoderKind, Callable[[_Run], tuple[Boxes, _Chosen]]] = {
    "ssd": _ssd,
    "yolox": _yolox,
    "yolov5": _yolov5,
    "yolov8": _yolov8,
    "nanodet": _nanodet,
    "fastestdet": _fastestdet,
    "detr": _detr,
    "heatmap": _heatmap,
}
