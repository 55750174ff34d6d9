"""Raw pictures on standard input, written by rpicam-vid, ffmpeg or GStreamer.

Only the latest picture counts, as for any camera. Blocking the writer would delay answers by the writer's buffer. To
answer every picture of a file, use the file as the source.
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

from cachenet.edge_agent.sources.base import SourceError, SourceFrame
from cachenet.edge_agent.sources.files import FramePacer
from cachenet.edge_agent.sources.frozen import FrozenAlarm
from cachenet.edge_agent.sources.latest import LatestValue
from cachenet.shared.inference.image import Picture

log = logging.getLogger(__name__)

#: Pixel formats by FFmpeg's names, and OpenCV's conversion to BGR. The first is the default and rpicam-vid's output.
FORMATS: dict[str, int | None] = {
    "yuv420p": cv2.COLOR_YUV2BGR_I420,
    "nv12": cv2.COLOR_YUV2BGR_NV12,
    "bgr24": None,
    "rgb24": cv2.COLOR_RGB2BGR,
    "gray": cv2.COLOR_GRAY2BGR,
}
#: Formats with a luma plane followed by half as many rows of chroma.
_PLANAR = ("yuv420p", "nv12")
#: Largest width and height, pixels.
_MAX_SIZE = 1 << 14
#: Time within which the reader thread notices the end, seconds.
_POLL_S = 0.1


class Pipe:
    """Pictures of one size and pixel format, concatenated. The source ends with the writer; a truncated last picture
    counts as broken."""

    losses = 0
    fps = None

    def __init__(self, layout: str, fps: float | None = None, fd: int = 0) -> None:
        """
        Args:
            layout: ``WIDTHxHEIGHT[:FORMAT]``.
            fps: Highest frame rate, frames per second.
            fd: File descriptor to read from.

        Raises:
            SourceError: ``layout`` is invalid, or ``fd`` is a terminal.
        """
        self.broken = 0
        self._shape, self._code = _layout(layout)
        if os.isatty(fd):
            raise SourceError(
                f"pipe:{layout} reads pictures from standard input, which is a terminal; pipe them in, as in: "
                f"rpicam-vid -t 0 --codec yuv420 --width 640 --height 480 -o - | edge-agent run pipe:640x480"
            )
        self._fd, self._pacer = fd, FramePacer(fps)
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

    def __iter__(self) -> Iterator[SourceFrame]:
        # Pictures are decoded here and not in the reader thread, so that dropped ones cost nothing.
        while self._pacer.wait() and (data := self._latest.take()) is not None:
            raw = self._raw(data)
            picture: Picture = raw if self._code is None else cv2.cvtColor(raw, self._code)  # type: ignore[assignment]
            yield SourceFrame(picture)

    def close(self) -> None:
        self._pacer.stopped.set()
        self._latest.end()
        self._thread.join(2 * _POLL_S)

    def _read(self) -> None:
        size = int(np.prod(self._shape))
        try:
            while len(data := self._fill(bytearray(size))) == size:
                self._alarm.add(self._raw(data), time.monotonic(), "standard input")
                self._latest.put(data)
            if data and not self._pacer.stopped.is_set():
                self.broken += 1
                log.warning(
                    "the last picture is cut short: %d of %d bytes; do size and format match pipe:?",
                    len(data),
                    size,
                )
        except OSError as error:
            log.error("standard input cannot be read: %s", error.strerror)
        self._latest.end()

    def _raw(self, data: bytearray) -> npt.NDArray[np.uint8]:
        return np.frombuffer(data, np.uint8).reshape(self._shape)

    def _fill(self, data: bytearray) -> bytearray:
        """Fill ``data``; shorter if the writer or the source has ended."""
        filled = 0
        with memoryview(data) as view:
            while filled < len(data) and not self._pacer.stopped.is_set():
                if select.select([self._fd], [], [], _POLL_S)[0]:
                    if not (read := os.readv(self._fd, [view[filled:]])):
                        break
                    filled += read
        del data[filled:]
        return data


def _layout(layout: str) -> tuple[tuple[int, ...], int | None]:
    """Shape of a raw picture, and OpenCV's conversion code to BGR. Raises ``SourceError``."""
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})(?::(\w+))?", layout)
    if match is None or not (0 < int(match[1]) <= _MAX_SIZE and 0 < int(match[2]) <= _MAX_SIZE):
        raise SourceError(
            f"'pipe:{layout}': write pipe:WIDTHxHEIGHT or pipe:WIDTHxHEIGHT:FORMAT, as in pipe:640x480:bgr24"
        )
    width, height, form = int(match[1]), int(match[2]), match[3] or next(iter(FORMATS))
    if form not in FORMATS:
        raise SourceError(f"'pipe:{layout}': no pixel format {form}; choose one of {', '.join(FORMATS)}")
    if form in _PLANAR:
        if width % 2 or height % 2:
            raise SourceError(f"'pipe:{layout}': width and height of {form} must be even")
        return (height * 3 // 2, width), FORMATS[form]
    return ((height, width) if form == "gray" else (height, width, 3)), FORMATS[form]
