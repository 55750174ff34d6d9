"""Entropy coding of quantised features with the range coder of ``constriction``."""

from __future__ import annotations

import constriction
import numpy as np
import numpy.typing as npt

#: Count that is added to each value of a channel, so that values without a count can be coded.
_PRIOR_COUNT = 0.02

Integers = npt.NDArray[np.int32]


class Codec:
    """Codes the integers of a picture. The distribution of each channel comes from other pictures.

    Example:
        >>> integers = np.array([[[[0, 1], [0, 0]]]], np.int32)  # (pictures, channels, height, width)
        >>> codec = Codec(integers)
        >>> bool((codec.decode(codec.encode(integers[0])) == integers[0]).all())
        True
    """

    def __init__(self, integers: Integers) -> None:
        """Create the codec of integers like ``integers`` ``(n, channels, h, w)``. A channel of one value costs nothing.

        Larger and smaller integers are coded as the nearest that occurred.
        """
        self._shape = integers.shape[1:]
        self._low = integers.min((0, 2, 3))
        self._sizes = integers.max((0, 2, 3)) - self._low + 1
        self._models = []
        for channel, (low, size) in enumerate(zip(self._low.tolist(), self._sizes.tolist(), strict=True)):
            counts = np.bincount(integers[:, channel].ravel() - low, minlength=size) + _PRIOR_COUNT
            shares = (counts / counts.sum()).astype(np.float32)
            self._models.append(constriction.stream.model.Categorical(shares, perfect=False) if size > 1 else None)

    def clip(self, integers: Integers) -> Integers:
        """Integers ``(n, channels, h, w)`` as the decoder gets them."""
        low = self._low[None, :, None, None]
        clipped: Integers = np.clip(integers, low, low + self._sizes[None, :, None, None] - 1)
        return clipped

    def encode(self, integers: Integers) -> bytes:
        """Bytes of one picture's integers ``(channels, h, w)``."""
        encoder = constriction.stream.queue.RangeEncoder()
        for channel, model, low in zip(self.clip(integers[None])[0], self._models, self._low, strict=True):
            if model is not None:
                encoder.encode((channel - low).ravel().astype(np.int32), model)
        # The coder's words have four bytes. Zero bytes at the end need not be sent: the decoder appends them.
        data: bytes = encoder.get_compressed().astype("<u4").tobytes()
        return data.rstrip(b"\0")

    def decode(self, data: bytes) -> Integers:
        """The integers ``(channels, h, w)`` of ``encode``'s bytes."""
        words = np.frombuffer(data + bytes(-len(data) % 4), "<u4").astype(np.uint32)
        decoder = constriction.stream.queue.RangeDecoder(words)
        count = int(np.prod(self._shape[1:]))
        channels = [
            np.full(count, low, np.int32) if model is None else decoder.decode(model, count) + low
            for model, low in zip(self._models, self._low, strict=True)
        ]
        return np.stack(channels).reshape(self._shape).astype(np.int32)
