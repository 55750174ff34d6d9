"""Finds the decoder of a detector from the names, shapes and values of its outputs in trial runs.

Shapes alone are ambiguous: ``(1, 3549, 85)`` may be YOLOX or a decoded grid. So each decoder has a test of the shapes
and one of the values: scores are within 0 to 1, decoded centres are near their cells, suppressed cells are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.decoders import DECODER_KINDS, DecoderKind, strides

#: Outputs of several pictures by name, in the order of the graph.
Outputs = Mapping[str, Sequence[npt.NDArray[Any]]]
#: What a decoder takes, for messages.
TAKES: dict[DecoderKind, str] = {
    "ssd": "boxes, classes and scores after non-maximum suppression, or boxes and a score for each class",
    "yolox": "(1, cells, 5 + classes), not decoded",
    "yolov5": "(1, n, 5 + classes), decoded",
    "yolov8": "(1, 4 + classes, n), decoded",
    "nanodet": "(1, cells, classes + 4 x bins)",
    "fastestdet": "(1, 5 + classes, rows, columns)",
    "detr": "logits and boxes",
    "heatmap": "(1, 4 + classes, rows, columns)",
}
#: Rounding of a score, and of a sum of scores.
_ROUNDING, _SUM_ROUNDING = 1e-3, 0.02
#: Share of the rows that must agree with a decoder: a network gives a few odd rows.
_MOST = 0.9
#: Largest centre and logarithm of a size that are not decoded, cells. Decoded ones are pixels.
_NOT_DECODED = 8.0
#: Largest share of cells with a score in a suppressed heatmap: of 3 x 3 cells one is highest.
_PEAKS = 0.4
#: Largest box in shares of the input; a larger one is in pixels.
_SHARES = 2.0


class DecoderError(UserError):
    """The outputs are of no decoder, or of several. The message lists the decoders."""


@dataclass(frozen=True)
class Form:
    """The outputs of a detector as a decoder takes them.

    Attributes:
        outputs: Names of the outputs, in the decoder's order.
        classes: Number of classes; None where it cannot be known.
        first: Number of the first class; 1 where 0 is the background.
        bins: See ``Decoder``.
        no_object: See ``Decoder``.
        columns: Of ``ssd``: the columns of the first output with left, top, right and bottom.
        table: Of ``ssd``: the columns of the first output with class and score, where they are no outputs of their own;
            None for an own output.
        pixels: Of ``ssd``: whether boxes are in pixels of the input.
    """

    kind: DecoderKind
    outputs: tuple[str, ...]
    classes: int | None = None
    first: int = 0
    bins: int = 8
    no_object: bool = False
    columns: tuple[int, int, int, int] = (0, 1, 2, 3)
    table: tuple[int | None, int | None] = (None, None)
    pixels: bool = False


def find_decoder(
    name: str, outputs: Outputs, size: tuple[int, int], kind: DecoderKind | None = None, classes: int | None = None
) -> Form:
    """Find the decoder of outputs.

    Args:
        name: File name for errors.
        outputs: Outputs for some pictures.
        size: Width and height of the input, pixels.
        kind: Decoder that the user names; only the shapes must fit it. None to find it.
        classes: Number of classes; None if unknown.

    Raises:
        DecoderError: No decoder fits, or several do.
    """
    case = _Case(outputs, size, classes, kind is not None)
    if kind is not None:
        if (form := _RULES[kind](case)) is None:
            raise DecoderError(f"{name}: its outputs ({_shapes(outputs)}) do not fit {kind}, which takes {TAKES[kind]}")
        return form
    forms = [form for one in DECODER_KINDS if (form := _RULES[one](case)) is not None]
    if len(forms) == 1:
        return forms[0]
    fit = f"may be of {' or '.join(form.kind for form in forms)}" if forms else "are of no detector that is known"
    known = "; ".join(f"{one}: {takes}" for one, takes in TAKES.items())
    raise DecoderError(f"{name}: its outputs ({_shapes(outputs)}) {fit}; name one with --decoder ({known})")


def _shapes(outputs: Outputs) -> str:
    return ", ".join(f"{name} {' x '.join(map(str, values[0].shape))}" for name, values in outputs.items())


class _Case:
    """Outputs, and what is known about the model.

    Attributes:
        named: Whether the user names the decoder, so that values are not tested.
        outputs: Outputs of numbers, by name.
        tensors: Those of one shape for all pictures, by name ``(pictures, ...)`` float32.
    """

    def __init__(self, outputs: Outputs, size: tuple[int, int], classes: int | None, named: bool) -> None:
        self.size, self.classes, self.named = size, classes, named
        self.outputs = {name: values for name, values in outputs.items() if np.issubdtype(values[0].dtype, np.number)}
        self.tensors = {
            name: np.stack(values).astype(np.float32)
            for name, values in self.outputs.items()
            if len({value.shape for value in values}) == 1
        }

    def tables(self) -> list[tuple[str, npt.NDArray[np.float32]]]:
        """Outputs ``(1, n, d)`` of one picture, by name ``(pictures, n, d)``."""
        return [(name, values[:, 0]) for name, values in self.tensors.items() if values.shape[1:2] == (1,)]


def _scores(values: npt.NDArray[Any]) -> bool:
    """Whether all values are within 0 to 1."""
    return bool(values.size and (values >= -_ROUNDING).all() and (values <= 1 + _ROUNDING).all())


def _mostly(values: npt.NDArray[np.bool_]) -> bool:
    return bool(values.size and values.mean() >= _MOST)


def _in_pixels(boxes: npt.NDArray[Any], size: tuple[int, int]) -> bool:
    """Whether centres and sizes ``(..., 4)`` are in pixels: inside the input for the most part, and spread over it."""
    with np.errstate(invalid="ignore"):
        shares = boxes / np.array([*size, *size], np.float32)
        inside = (shares[..., :2] > -0.5) & (shares[..., :2] < 1.5)
    if not _mostly(inside) or not _mostly(boxes[..., 2:] >= 0):
        return False
    low, high = np.percentile(shares[..., :2].reshape(-1, 2), (10, 90), axis=0)
    return bool((high - low > 0.4).all())


def _yolox(case: _Case) -> Form | None:
    for name, rows in case.tables():
        if rows.ndim != 3 or rows.shape[2] < 6 or not strides(rows.shape[1], case.size):
            continue
        near = _mostly(np.abs(rows[..., :4]) <= _NOT_DECODED) and not _scores(rows[..., :4])
        if case.named or (near and _scores(rows[..., 4:])):
            return Form("yolox", (name,), rows.shape[2] - 5)
    return None


def _yolov5(case: _Case) -> Form | None:
    for name, rows in case.tables():
        if rows.ndim != 3 or rows.shape[2] < 6:
            continue
        whole = (rows[..., 5:] == np.round(rows[..., 5:])).all()  # a class, not a score
        if case.named or (_scores(rows[..., 4:]) and not whole and _in_pixels(rows[..., :4], case.size)):
            return Form("yolov5", (name,), rows.shape[2] - 5)
    return None


def _yolov8(case: _Case) -> Form | None:
    for name, rows in case.tables():
        if rows.ndim != 3 or rows.shape[1] < 5:
            continue
        table = rows.transpose(0, 2, 1)
        if case.named or (_scores(table[..., 4:]) and _in_pixels(table[..., :4], case.size)):
            return Form("yolov8", (name,), rows.shape[1] - 4)
    return None


def _nanodet(case: _Case) -> Form | None:
    for name, rows in case.tables():
        if rows.ndim != 3 or rows.shape[2] <= 4 * 8 or not strides(rows.shape[1], case.size):
            continue
        # The classes are the first columns, those with scores alone.
        others = np.flatnonzero([not _scores(rows[..., column]) for column in range(rows.shape[2])])
        bins, rest = divmod(rows.shape[2] - int(others[0]), 4) if len(others) else (0, 0)
        if len(others) and others[0] > 0 and not rest and 2 <= bins <= 64:
            return Form("nanodet", (name,), int(others[0]), bins=bins)
        if case.named:
            return Form("nanodet", (name,), rows.shape[2] - 4 * 8)
    return None


def _fastestdet(case: _Case) -> Form | None:
    for name, grid in case.tables():
        if grid.ndim != 4 or grid.shape[1] < 6:
            continue
        sums = grid[:, 5:].sum(1)
        if case.named or (
            _scores(grid[:, 0]) and _scores(grid[:, 5:]) and bool((np.abs(sums - 1) < _SUM_ROUNDING).all())
        ):
            return Form("fastestdet", (name,), grid.shape[1] - 5)
    return None


def _heatmap(case: _Case) -> Form | None:
    for name, grid in case.tables():
        if grid.ndim != 4 or grid.shape[1] < 5:
            continue
        # In a plain picture all cells may be equal, so one picture with suppressed cells is enough.
        peaks = (grid[:, 4:] > 0).mean((1, 2, 3)).min()
        if case.named or (_scores(grid[:, 4:]) and peaks <= _PEAKS and not _scores(grid[:, :4])):
            return Form("heatmap", (name,), grid.shape[1] - 4)
    return None


def _detr(case: _Case) -> Form | None:
    tables = [(name, rows) for name, rows in case.tables() if rows.ndim == 3]
    for name, boxes in tables:
        if boxes.shape[2] != 4 or not (case.named or _scores(boxes)):
            continue
        for other, logits in tables:
            if other == name or logits.shape[1] != boxes.shape[1] or (_scores(logits) and not case.named):
                continue
            count = logits.shape[2]
            # Of a picture with little in it most queries answer "no object", the last class of a softmax.
            last = count > 1 and bool((logits.argmax(2) == count - 1).mean() > 0.5)
            no_object = case.classes == count - 1 if case.classes in (count, count - 1) else last
            return Form("detr", (other, name), count - no_object, no_object=no_object)
    return None


def _ssd(case: _Case) -> Form | None:
    return _finished_table(case) or _finished_boxes(case) or _boxes_and_scores(case)


def _finished_table(case: _Case) -> Form | None:
    """Finished boxes with class and score in one output of six or seven columns, or with scores alone."""
    for name, values in case.outputs.items():
        if values[0].ndim < 2 or any(value.size != value.shape[-1] * value.shape[-2] for value in values):
            continue
        rows = np.concatenate([value.reshape(-1, value.shape[-1]) for value in values]).astype(np.float32)
        for columns, boxes, (kind, score), first in _TABLES:
            if rows.shape[1] != columns or (kind is not None and len(case.outputs) > 1):
                continue
            outputs = (name, *(other for other in case.outputs if other != name and kind is None))
            if kind is None and (len(outputs) != 2 or not _as_many(case.outputs[outputs[1]], values)):
                continue
            whole = kind is None or bool((rows[:, kind] == np.round(rows[:, kind])).all())
            if (whole and _scores(rows[:, score]) and (rows[:, kind or 0] >= 0).all()) or not rows.size:
                table = rows[:, list(boxes)]
                pixels = bool((table > _SHARES).any()) or (not table.any() and columns != 7)
                return Form("ssd", outputs, None, first, columns=boxes, table=(kind, score), pixels=pixels)
    return None


#: Number of columns, and the columns of left, top, right, bottom; of class and score; number of the first class.
_TABLES: tuple[tuple[int, tuple[int, int, int, int], tuple[int | None, int], int], ...] = (
    (6, (0, 1, 2, 3), (5, 4), 0),  # Ultralytics, without non-maximum suppression: box, score, class
    (7, (1, 2, 3, 4), (5, 6), 0),  # YOLOv7 with it: picture, box, class, score
    (7, (3, 4, 5, 6), (1, 2), 1),  # Caffe and OpenVINO: picture, class, score, box
    (5, (0, 1, 2, 3), (None, 4), 0),  # MMDetection: box and score, classes apart
)


def _as_many(some: Sequence[npt.NDArray[Any]], tables: Sequence[npt.NDArray[Any]]) -> bool:
    """Whether there is one number for each row of each table."""
    return all(one.size == table.size // table.shape[-1] for one, table in zip(some, tables, strict=True))


def _finished_boxes(case: _Case) -> Form | None:
    """Finished boxes, classes and scores in outputs of their own; further outputs are ignored."""
    for name, boxes in case.outputs.items():
        if boxes[0].shape[-1:] != (4,) or any(value.size != value.shape[-2] * 4 for value in boxes):
            continue
        others = [
            one
            for one, values in case.outputs.items()
            if one != name and values[0].ndim == boxes[0].ndim - 1 and _as_many(values, boxes)
        ]
        numbers = [one for one in others if _are_classes(one, case.outputs[one])]
        if len(others) != 2 or len(numbers) != 1:
            continue
        [kind] = numbers
        score = others[0] if kind == others[1] else others[1]
        # Most count from 1, with a background of 0. Unused rows have the class 0 and no score.
        pairs = zip(case.outputs[kind], case.outputs[score], strict=True)
        from_0 = name == "det_boxes" or any(((one == 0) & (sure > 0)).any() for one, sure in pairs)
        tensorflow = "detection_boxes" in name
        flat = np.concatenate([value.reshape(-1, 4) for value in boxes])
        # torchvision has no axis of pictures, and TensorRT's operator gives pixels.
        pixels = bool((flat > _SHARES).any()) or (not flat.any() and (boxes[0].ndim == 2 or name == "det_boxes"))
        columns = (1, 0, 3, 2) if tensorflow else (0, 1, 2, 3)
        return Form("ssd", (name, kind, score), None, int(not from_0), columns=columns, pixels=pixels)
    return None


def _are_classes(name: str, values: Sequence[npt.NDArray[Any]]) -> bool:
    """Whether an output is of classes, not of scores: by its type, its name, or its values."""
    if np.issubdtype(values[0].dtype, np.integer):
        return True
    if any(word in name.lower() for word in ("score", "conf", "prob")):
        return False
    return any(word in name.lower() for word in ("class", "label")) or any((value > 1).any() for value in values)


def _boxes_and_scores(case: _Case) -> Form | None:
    """Boxes by corners, and a score for each class of each."""
    tables = [(name, rows) for name, rows in case.tables() if rows.ndim == 3]
    for name, boxes in tables:
        for other, scores in tables:
            if other == name or boxes.shape[2] != 4 or scores.shape[1] != boxes.shape[1]:
                continue
            if not case.named and not (_scores(scores) and _mostly(boxes[..., 2:] >= boxes[..., :2])):
                continue
            background = scores.shape[2] > 1 and bool((np.abs(scores.sum(2) - 1) < _SUM_ROUNDING).all())
            pixels = bool((np.abs(boxes) > _SHARES).mean() > 0.5)
            return Form("ssd", (name, other), scores.shape[2] - background, int(background), pixels=pixels)
    return None


_RULES: dict[DecoderKind, Callable[[_Case], Form | None]] = {
    "ssd": _ssd,
    "yolox": _yolox,
    "yolov5": _yolov5,
    "yolov8": _yolov8,
    "nanodet": _nanodet,
    "fastestdet": _fastestdet,
    "detr": _detr,
    "heatmap": _heatmap,
}
