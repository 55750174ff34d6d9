"""Golden frames: pictures with known scores or objects, with which a device verifies that a model computes the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from cachenet.shared.cascade.detect.detections import MAX_DETECTIONS, Detections, match
from cachenet.shared.cascade.probability import softmax

#: Largest total variation distance between a model's probabilities and the known ones, mean over the pictures. The
#: shipped models differ by 0.0003 at most without ONNX Runtime's optimisations; a model that is wrong on one picture in
#: ten differs by twice this bound.
TOLERANCE = 0.05
#: Least agreement of a detector's objects with the known ones, weighted by their scores. Rounding moves objects of low
#: score over the detector's threshold or under it.
MIN_AGREEMENT = 0.9
#: Most pictures of a file.
_MAX_PICTURES = 16
#: Largest picture, bytes.
_MAX_BYTES = 4 << 20
#: Most models with scores in a file.
_MAX_MODELS = 256


class GoldenError(ValueError):
    """A file without golden frames, or a model whose scores or objects differ from the known ones."""


_Picture = Annotated[bytes, msgspec.Meta(min_length=1, max_length=_MAX_BYTES)]
_Scores = tuple[tuple[float, ...], ...]
#: Label, score, left, top, right and bottom of an object; see ``Detections``.
_Object = tuple[int, float, float, float, float, float]
_Objects = Annotated[tuple[_Object, ...], msgspec.Meta(max_length=MAX_DETECTIONS)]


class GoldenFrames(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Pictures, and the models' scores or objects of them.

    Attributes:
        pictures: PNG files; each model prepares them by its own preprocessing.
        scores: Scores by classifier: a row for each picture, a number for each label.
        objects: Objects of each picture by detector.

    Example:
        >>> golden = GoldenFrames((b"png",), {"base": ((0.0, 9.0),)})
        >>> golden.check("base", [(0.1, 9.0)], temperature=1.0)
        >>> golden.check("base", [(9.0, 0.0)], temperature=1.0)  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        GoldenError: base answers 1 of 1 golden frames with another label; they differ by 1.000 on average
    """

    pictures: Annotated[tuple[_Picture, ...], msgspec.Meta(min_length=1, max_length=_MAX_PICTURES)]
    scores: Annotated[dict[str, _Scores], msgspec.Meta(max_length=_MAX_MODELS)]
    objects: Annotated[dict[str, tuple[_Objects, ...]], msgspec.Meta(max_length=_MAX_MODELS)] = {}

    def check(self, model: str, scores: _Scores | list[tuple[float, ...]], temperature: float) -> None:
        """Compare the scores of a model with the known ones. A model without known scores passes.

        Args:
            model: Name of the model.
            scores: Its scores, a row for each picture.
            temperature: Its calibration temperature.

        Raises:
            GoldenError: The probabilities differ by more than ``TOLERANCE``.
        """
        if (known := self.scores.get(model)) is None:
            return
        measured, expected = np.asarray(scores, np.float32), np.asarray(known, np.float32)
        if measured.shape != expected.shape:
            raise GoldenError(f"{model}: the golden frames are of another bundle")
        distances = np.abs(softmax(measured, temperature) - softmax(expected, temperature)).sum(1) / 2
        if not distances.mean() <= TOLERANCE:  # NaN included
            wrong = int((measured.argmax(1) != expected.argmax(1)).sum())
            raise GoldenError(
                f"{model} answers {wrong} of {len(expected)} golden frames with another label; "
                f"they differ by {distances.mean():.3f} on average"
            )

    def check_objects(self, model: str, found: Sequence[Detections]) -> None:
        """Compare the objects of a detector with the known ones. A detector without known objects passes.

        Args:
            model: Name of the model.
            found: Its detections in each picture.

        Raises:
            GoldenError: Less than ``MIN_AGREEMENT`` of the objects, weighted by their scores, are in both.
        """
        if (rows := self.objects.get(model)) is None:
            return
        if len(rows) != len(found):
            raise GoldenError(f"{model}: the golden frames are of another bundle")
        shared = total = 0.0
        for own, known in zip(found, map(_detections, rows), strict=True):
            total += float(own.scores.sum() + known.scores.sum())
            for one, other in match(own.boxes, own.labels, known.boxes, known.labels):
                shared += float(own.scores[one] + known.scores[other])
        if shared < MIN_AGREEMENT * total:
            raise GoldenError(f"{model} finds other objects in the golden frames; {shared / total:.0%} agree")


def objects(found: Detections) -> tuple[_Object, ...]:
    """The detections in one picture as ``GoldenFrames.objects`` has them."""
    numbers = np.column_stack((found.scores, found.boxes)).astype(float).round(5).tolist()
    return tuple((label, *row) for label, row in zip(found.labels.tolist(), numbers, strict=True))


def _detections(rows: _Objects) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, 2:], table[:, 0].astype(np.int64), table[:, 1])


def read(data: bytes) -> GoldenFrames:
    """Decode a file of golden frames. Raises ``GoldenError``."""
    try:
        return msgspec.msgpack.decode(data, type=GoldenFrames)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GoldenError(f"golden frames: {error}") from None


def encode(golden: GoldenFrames) -> bytes:
    """Encode golden frames as a file."""
    return msgspec.msgpack.encode(golden)
