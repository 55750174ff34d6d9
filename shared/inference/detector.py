"""A detector: from a picture to detections in shares of the whole picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.detect.detections import MAX_DETECTIONS, Boxes, Detections, checked
from cachenet.shared.inference.decoders import DecodeError, Decoder, decode
from cachenet.shared.inference.engine import EngineError
from cachenet.shared.inference.image import Input, Picture, crop, place, preprocessor, window
from cachenet.shared.inference.suppression import survivors

#: Runs a network on a batch of one picture; returns all its outputs.
RunAll = Callable[[npt.NDArray[np.float32]], Sequence[npt.NDArray[Any]]]


class Detector:
    """Runs a detector on whole pictures.

    Example:
        detector = Detector(session.run_all, model.input, model.decoder)
        found = detector(picture)
    """

    def __init__(self, run: RunAll, spec: Input, decoder: Decoder) -> None:
        """``run``: runs the network; ``spec``: its input."""
        self._run, self._input, self._decoder = run, spec, decoder
        self._prepare = preprocessor(spec)

    def __call__(self, picture: Picture) -> Detections:
        """The detections in ``picture`` ``(height, width, 3)`` BGR.

        Of a wire picture the boxes are shares of the wire picture; see ``in_whole_picture``.

        Raises:
            EngineError: The model does not run, no number of an output is finite, or the outputs do not fit the
                decoder.
        """
        outputs = self._run(self._prepare(crop(picture, self._input)))
        if any(output.size and not np.isfinite(output).any() for output in outputs):
            raise EngineError("the model's outputs are not finite")
        try:
            found = decode(outputs, self._decoder, self._input.size)
        except DecodeError as error:
            raise EngineError(f"the model's {error}") from None
        rows = survivors(found.boxes, found.labels, self._decoder.overlap, MAX_DETECTIONS)
        boxes = _from_input(found.boxes[rows], picture.shape[1::-1], self._input)
        return checked(boxes, found.labels[rows], found.scores[rows], len(self._decoder.classes))


def in_whole_picture(found: Detections, size: tuple[int, int], spec: Input) -> Detections:
    """Detections in the wire picture of a picture, as shares of that picture.

    They differ only where the model does not see the whole picture.

    Args:
        size: Width and height of the whole picture, pixels.
    """
    left, top, width, height = window(size, spec)
    if (width, height) == size:
        return found
    return Detections(_moved(found.boxes, (left, top, width, height), size), found.labels, found.scores)


def in_input(found: Detections, size: tuple[int, int], spec: Input) -> Detections:
    """Detections as shares of a model's input.

    Args:
        found: Detections as shares of the whole picture.
        size: Width and height of the whole picture, pixels.
    """
    if spec.fit == "stretch" and spec.crop == 1.0:
        return found
    left, top, columns, rows = window(size, spec)
    across, down, width, height = place((columns, rows), spec)
    scale = np.array([width / columns, height / rows] * 2, np.float32)
    pixels = (found.boxes * np.array([*size, *size], np.float32) - np.array([left, top] * 2, np.float32)) * scale
    boxes = (pixels + np.array([across, down] * 2, np.float32)) / np.array([*spec.size, *spec.size], np.float32)
    return checked(boxes, found.labels, found.scores, int(found.labels.max(initial=0)) + 1)


def _from_input(boxes: Boxes, size: tuple[int, int], spec: Input) -> Boxes:
    """Boxes from shares of the model's input to shares of the picture."""
    part = window(size, spec)
    left, top, width, height = place(part[2:], spec)
    corner = np.array([left, top, left, top], np.float32)
    scale = np.array([*spec.size, *spec.size], np.float32)
    within = np.asarray((boxes * scale - corner) / np.array([width, height, width, height], np.float32), np.float32)
    return _moved(within, part, size)


def _moved(boxes: Boxes, part: tuple[int, int, int, int], size: tuple[int, int]) -> Boxes:
    """Boxes from shares of a part of a picture (left, top, width and height) to shares of the picture."""
    left, top, width, height = part
    scale, corner = np.array([width, height, width, height], np.float32), np.array([left, top, left, top], np.float32)
    return np.asarray((boxes * scale + corner) / np.array([*size, *size], np.float32), np.float32)
