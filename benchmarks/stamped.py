"""Pictures that tell when they were taken: a stream of scenes, 640x480, each with a strip of black and white blocks at
its lower edge that say its number and the time, and that survive H.264.

    python -m benchmarks.stamped SEED > bgr24

writes ten a second, for ever.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from cachenet.models.data import sample, streams
from cachenet.shared.inference.image import Picture

FPS = 10
#: The strip's height in pixels, and the region above it.
STRIP, REGION = 24, "0,0,1,0.95"
#: Bits for the number and for the clock, milliseconds of the machine's monotonic clock.
_NUMBER, _CLOCK = 16, 32
_BITS = _NUMBER + _CLOCK


def stamp(picture: Picture, number: int, seconds: float) -> None:
    """Write its number and the time over a picture's lower edge."""
    said = ((number % (1 << _NUMBER)) << _CLOCK) | (int(1000 * seconds) % (1 << _CLOCK))
    bits = np.array([said >> place & 1 for place in range(_BITS)], np.uint8)
    edges = np.arange(picture.shape[1]) * _BITS // picture.shape[1]
    picture[-STRIP:] = 255 * bits[edges][None, :, None]


def read(picture: Picture) -> tuple[int, float]:
    """The number and the time, seconds, that were written on a picture."""
    places = (np.arange(_BITS) + 0.5) * picture.shape[1] / _BITS
    bits = picture[-STRIP // 2, places.astype(int), 1] > 127
    said = sum(int(bit) << place for place, bit in enumerate(bits))
    return said >> _CLOCK, said % (1 << _CLOCK) / 1000


def main() -> None:
    split = sample.load()
    plan = streams.plan("camera", split.labels, int(sys.argv[1]), 3000)
    render = streams.renderer(plan, split.images)
    number, due = 0, time.monotonic()
    while True:
        picture = np.ascontiguousarray(render(number % len(plan)))
        due += 1 / FPS
        time.sleep(max(0.0, due - time.monotonic()))
        stamp(picture, number, time.monotonic())
        try:
            sys.stdout.buffer.write(picture.tobytes())
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            return
        number += 1


if __name__ == "__main__":
    main()
