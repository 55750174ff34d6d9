"""Golden frames: pictures whose scores are known, by which a device finds out whether a model answers there as it did
where the bundle was built."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from cachenet.shared.cascade.probability import softmax

#: Largest mean distance between a model's probabilities and the known ones: half the sum of absolute differences, mean
#: over the pictures. The shipped models differ by 0.0003 at most where ONNX Runtime optimises nothing; one that is
#: wrong about one picture in ten differs by twice this bound.
TOLERANCE = 0.05
#: Bounds on what a file may hold: pictures, bytes of one, and models.
_PICTURES, _BYTES, _MODELS = 16, 4 << 20, 256


class GoldenError(ValueError):
    """A file that holds no golden frames, or a model that does not answer them as it should."""


_Picture = Annotated[bytes, msgspec.Meta(min_length=1, max_length=_BYTES)]
_Scores = tuple[tuple[float, ...], ...]


class GoldenFrames(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pictures and what models say of them.

    Args:
        pictures: PNG files of the pictures that every model of the bundle is shown, each prepared in its own way.
        scores: Scores by model: one row for each picture, one number for each label.

    Example:
        >>> golden = GoldenFrames((b"png",), {"base": ((0.0, 9.0),)})
        >>> golden.check("base", [(0.1, 9.0)], temperature=1.0)
        >>> golden.check("base", [(9.0, 0.0)], temperature=1.0)  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        GoldenError: base answers 1 of 1 golden frames with another label; they differ by 1.000 on average
    """

    pictures: Annotated[tuple[_Picture, ...], msgspec.Meta(min_length=1, max_length=_PICTURES)]
    scores: Annotated[dict[str, _Scores], msgspec.Meta(max_length=_MODELS)]

    def check(self, model: str, scores: _Scores | list[tuple[float, ...]], temperature: float) -> None:
        """Compare the ``scores`` of ``model``, a row for each picture, with the known ones. A model of which nothing is
        known passes. Raises ``GoldenError``."""
        if (known := self.scores.get(model)) is None:
            return
        ours, theirs = np.asarray(scores, np.float32), np.asarray(known, np.float32)
        if ours.shape != theirs.shape:
            raise GoldenError(f"{model}: the golden frames are of another bundle")
        distances = np.abs(softmax(ours, temperature) - softmax(theirs, temperature)).sum(1) / 2
        if not distances.mean() <= TOLERANCE:  # NaN included
            wrong = int((ours.argmax(1) != theirs.argmax(1)).sum())
            raise GoldenError(
                f"{model} answers {wrong} of {len(theirs)} golden frames with another label; "
                f"they differ by {distances.mean():.3f} on average"
            )


def read(data: bytes) -> GoldenFrames:
    """Decode a file of golden frames. Raises ``GoldenError``."""
    try:
        return msgspec.msgpack.decode(data, type=GoldenFrames)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GoldenError(f"golden frames: {error}") from None


def encode(golden: GoldenFrames) -> bytes:
    return msgspec.msgpack.encode(golden)
