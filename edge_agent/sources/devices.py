"""The cameras that there are, and how each is opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import cv2

from cachenet.edge_agent.sources.base import SourceError
from cachenet.shared.inference.image import Picture
from cachenet.shared.transport.addresses import without_password

#: How long FFmpeg and V4L2 may wait for a frame, and FFmpeg may take to open an address: until it is found, and until
#: its next whole picture, which many cameras send only every two or four seconds. FFmpeg waits twice: after the first
#: time it gives out the frame that it has held back (see docs/cameras.md).
SILENCE_S, OPENING_S = 2, 6
#: What cameras of a Raspberry Pi are asked for; models see less.
_SIZE = (640, 480)


#: Schemes of addresses that FFmpeg plays live: RTSP, RTMP, and MJPEG or HLS over HTTP.
NETWORK = ("rtsp", "rtsps", "rtmp", "http", "https")


class Capture(Protocol):
    """An open camera, as OpenCV has it."""

    def read(self) -> tuple[bool, Picture | None]:
        """The next picture, BGR; False and None if there is none any more. May take its time, or never return."""

    def release(self) -> None: ...


@dataclass(frozen=True)
class Device:
    """A camera that can be opened again and again: what it is called, without passwords, and how to. ``open`` raises
    ``SourceError``, and may take its time or never return."""

    name: str
    open: Callable[[], Capture]


def v4l2(which: str) -> Device:
    """A camera of Video4Linux by number, or by path, which stays the same when cameras are plugged in another order."""
    if which.startswith("/dev/"):
        what: int | str = which
    elif which.isascii() and which.isdigit():
        what = int(which)
    else:
        raise SourceError(f"'camera:{which}': a camera is camera:0, camera:1, ... or camera:/dev/v4l/by-id/...")
    error = f"camera {which} cannot be opened; is it plugged in and free?"
    return Device(f"camera {which}", lambda: capture(what, error, cv2.CAP_V4L2))


def network(url: str) -> Device:
    """A camera in the network, at an address of one of the schemes in ``NETWORK``."""
    name = without_password(url)
    error = f"{name} cannot be opened; check the address, the network and the password"
    return Device(name, lambda: capture(url, error))


def capture(what: int | str, error: str, api: int = cv2.CAP_FFMPEG) -> Capture:
    """What OpenCV reads there. Raises ``SourceError`` with ``trouble``."""
    # Or OpenCV and FFmpeg say on stderr, in many lines, what we say in one.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(SILENCE_S))
    # As OpenCV has it, but without waiting for twenty frames to see how many there are a second. So a camera of 10 that
    # sends a whole picture every 2 s is open after 1.5 to 2.7 s, not 4.
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_flags;prefer_tcp|fpsprobesize;0")
    bounds = []
    if api == cv2.CAP_FFMPEG:
        bounds += [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 1000 * OPENING_S, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 1000 * SILENCE_S]
        # With more threads each holds a frame back, and an answer is as many frames late.
        bounds += [cv2.CAP_PROP_N_THREADS, 1]
    opened = cv2.VideoCapture(what, api, bounds)
    if not opened.isOpened():
        opened.release()
        raise SourceError(error)
    return opened  # type: ignore[return-value]


def picamera(which: str) -> Device:
    """A camera on a Raspberry Pi's own connector, through libcamera."""
    if which and not (which.isascii() and which.isdigit()):
        raise SourceError(f"'picamera:{which}': a camera is picamera, picamera:0, picamera:1, ...")
    try:
        from picamera2 import Picamera2
    except ImportError:
        raise SourceError(
            "picamera needs Picamera2: sudo apt install python3-picamera2, and a virtual environment made with "
            "--system-site-packages; or pipe rpicam-vid into pipe:640x480"
        ) from None
    name = f"picamera {which or 0}"
    return Device(name, lambda: Libcamera(Picamera2, int(which or 0), f"{name} cannot be opened; is it connected?"))


class Libcamera:
    """A camera that Picamera2 has opened."""

    def __init__(self, kind: Any, which: int, error: str) -> None:
        """``kind``: the class ``Picamera2``. Raises ``SourceError``."""
        self._camera = None
        try:
            self._camera = kind(which)
            # By libcamera's names RGB888 is B, G, R in memory (Picamera2 manual, appendix A).
            main = {"format": "RGB888", "size": _SIZE}
            self._camera.configure(self._camera.create_video_configuration(main=main))
            self._camera.start()
        except (RuntimeError, IndexError) as error:
            self.release()
            raise SourceError(f"{trouble} ({error})") from None

    def read(self) -> tuple[bool, Picture | None]:
        picture: Picture = self._camera.capture_array("main")  # type: ignore[union-attr]
        return True, picture

    def release(self) -> None:
        if self._camera is not None:
            self._camera.close()
