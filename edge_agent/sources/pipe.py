"""Raw pictures on standard input, from whatever can write them there: rpicam-vid, ffmpeg, GStreamer.

Only the latest counts, as of any camera. The other way, to let the writer wait, would keep every picture but make its
answer late by whatever the writer holds back; and a camera cannot wait. For every picture of a file, give the file.
"""

from __future__ import annotations

import logging
import os
import re
import select
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from cachenet.edge_agent.sources.base import Shot, SourceError
from cachenet.edge_agent.sources.files import FramePacer
from cachenet.edge_agent.sources.frozen import FrozenAlarm
from cachenet.edge_agent.sources.latest import LatestValue
from cachenet.shared.inference.image import Picture

log = logging.getLogger(__name__)

#: By their names in FFmpeg, and how OpenCV makes BGR of them. The first is what rpicam-vid writes.
FORMATS: dict[str, int | None] = {
    "yuv420p": cv2.COLOR_YUV2BGR_I420,
    "nv12": cv2.COLOR_YUV2BGR_NV12,
    "bgr24": None,
    "rgb24": cv2.COLOR_RGB2BGR,
    "gray": cv2.COLOR_GRAY2BGR,
}
#: Those with a plane of brightness and, under it, half as many rows of colour.
_PLANAR = ("yuv420p", "nv12")
_LARGEST = 1 << 14
#: How soon the reader notices that it is not wanted any more.
_POLL_S = 0.1


class Pipe:
    """Pictures of one size and pixel format, one after the other without anything between. It ends when the writer
    does; a last picture that is cut short is left out, and counted as broken."""

    losses = 0
    fps = None

    def __init__(self, layout: str, fps: float | None = None, fd: int = 0) -> None:
        """``layout``: ``WIDTHxHEIGHT[:FORMAT]``. ``fps``: take no more pictures than that. ``fd`` is read from. Raises
        ``SourceError``."""
        self.broken = 0
        self._shape, self._code = _layout(layout)
        if os.isatty(fd):
            raise SourceError(
                f"pipe:{layout} reads pictures from standard input, which is a terminal; pipe them in, as in: "
                f"rpicam-vid -t 0 --codec yuv420 --width 640 --height 480 -o - | edge-agent run pipe:640x480"
            )
        self._fd, self._pace = fd, FramePacer(fps)
        self._latest: LatestValue[bytearray] = LatestValue()
        self._alarm = FrozenAlarm()
        self._thread = threading.Thread(target=self._read, name="pipe reader", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._latest.dropped

    @property
    def error(self) -> str:
        return self._alarm.error

    def __iter__(self) -> Iterator[Shot]:
        # Here and not where they are read, so that nothing is spent on those that nobody takes.
        while self._pace.wait() and (data := self._latest.take()) is not None:
            raw = self._raw(data)
            picture: Picture = raw if self._code is None else cv2.cvtColor(raw, self._code)  # type: ignore[assignment]
            yield Shot(picture)

    def close(self) -> None:
        self._pace.stopped.set()
        self._latest.end()
        self._thread.join(2 * _POLL_S)

    def _read(self) -> None:
        size = int(np.prod(self._shape))
        try:
            while len(data := self._fill(bytearray(size))) == size:
                self._alarm.see(self._raw(data), time.monotonic(), "standard input")
                self._latest.put(data)
            if data and not self._pace.stopped.is_set():
                self.broken += 1
                log.warning(
                    "the last picture is cut short: %d of %d bytes; is it of the size and format that pipe: says?",
                    len(data),
                    size,
                )
        except OSError as error:
            log.error("standard input cannot be read: %s", error.strerror)
        self._latest.end()

    def _raw(self, data: bytearray) -> npt.NDArray[np.uint8]:
        return np.frombuffer(data, np.uint8).reshape(self._shape)

    def _fill(self, data: bytearray) -> bytearray:
        """Read it full; what there was, if the writer ended before that or nobody wants it any more."""
        filled = 0
        with memoryview(data) as view:
            while filled < len(data) and not self._pace.stopped.is_set():
                if select.select([self._fd], [], [], _POLL_S)[0]:
                    if not (read := os.readv(self._fd, [view[filled:]])):
                        break
                    filled += read
        del data[filled:]
        return data


def _layout(layout: str) -> tuple[tuple[int, ...], int | None]:
    """The shape of a picture as it is written, and OpenCV's code of how it becomes BGR. Raises ``SourceError``."""
    said = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})(?::(\w+))?", layout)
    if said is None or not (0 < int(said[1]) <= _LARGEST and 0 < int(said[2]) <= _LARGEST):
        raise SourceError(
            f"'pipe:{layout}': say pipe:WIDTHxHEIGHT or pipe:WIDTHxHEIGHT:FORMAT, as in pipe:640x480:bgr24"
        )
    width, height, form = int(said[1]), int(said[2]), said[3] or next(iter(FORMATS))
    if form not in FORMATS:
        raise SourceError(f"'pipe:{layout}': no pixel format {form}; choose of {', '.join(FORMATS)}")
    if form in _PLANAR:
        if width % 2 or height % 2:
            raise SourceError(f"'pipe:{layout}': in {form} width and height are even")
        return (height * 3 // 2, width), FORMATS[form]
    return ((height, width) if form == "gray" else (height, width, 3)), FORMATS[form]
