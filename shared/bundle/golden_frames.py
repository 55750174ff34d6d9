"""Golden frames: pictures with known scores, with which a device verifies that a model computes the same scores."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from cachenet.shared.cascade.probability import softmax

#: Largest total variation distance between a model's probabilities and the known ones, mean over the pictures. The
#: shipped models differ by 0.0003 at most without ONNX Runtime's optimisations; a model that is wrong on one picture in
#: ten differs by twice this bound.
TOLERANCE = 0.05
#: Most pictures of a file.
_MAX_PICTURES = 16
#: Largest picture, bytes.
_MAX_BYTES = 4 << 20
#: Most models with scores in a file.
_MAX_MODELS = 256


class GoldenError(ValueError):
    """A file without golden frames, or a model whose scores differ from the known ones."""


_Picture = Annotated[bytes, msgspec.Meta(min_length=1, max_length=_MAX_BYTES)]
_Scores = tuple[tuple[float, ...], ...]


class GoldenFrames(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pictures and the models' scores of them.

    Attributes:
        pictures: PNG files; each model prepares them by its own preprocessing.
        scores: Scores by model: a row for each picture, a number for each label.

    Example:
        >>> golden = GoldenFrames((b"png",), {"base": ((0.0, 9.0),)})
        >>> golden.check("base", [(0.1, 9.0)], temperature=1.0)
        >>> golden.check("base", [(9.0, 0.0)], temperature=1.0)  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        GoldenError: base answers 1 of 1 golden frames with another label; they differ by 1.000 on average
    """

    pictures: Annotated[tuple[_Picture, ...], msgspec.Meta(min_length=1, max_length=_MAX_PICTURES)]
    scores: Annotated[dict[str, _Scores], msgspec.Meta(max_length=_MAX_MODELS)]

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


def read(data: bytes) -> GoldenFrames:
    """Decode a file of golden frames. Raises ``GoldenError``."""
    try:
        return msgspec.msgpack.decode(data, type=GoldenFrames)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GoldenError(f"golden frames: {error}") from None


def encode(golden: GoldenFrames) -> bytes:
    """Encode golden frames as a file."""
    return msgspec.msgpack.encode(golden)
