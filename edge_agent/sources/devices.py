"""Kinds of cameras, and how each is opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import cv2

from cachenet.edge_agent.sources.base import SourceError
from cachenet.shared.inference.image import Picture
from cachenet.shared.transport.addresses import without_password

#: Longest wait of FFmpeg and V4L2 for a frame, seconds. FFmpeg waits twice: after the first time it returns the frame
#: that it has buffered (see docs/cameras.md).
SILENCE_S = 2
#: Longest time in which FFmpeg opens an address, seconds. Many cameras send a key frame only every two or four seconds.
OPENING_S = 6
#: Frame size requested from Raspberry Pi cameras, width and height in pixels. Models use less.
_SIZE = (640, 480)
#: URL schemes that FFmpeg plays live: RTSP, RTMP, and MJPEG or HLS over HTTP.
NETWORK = ("rtsp", "rtsps", "rtmp", "http", "https")


class Capture(Protocol):
    """An open camera, with the interface of ``cv2.VideoCapture``."""

    def read(self) -> tuple[bool, Picture | None]:
        """The next picture, BGR; False and None after the last one. May block for ever."""

    def release(self) -> None: ...


@dataclass(frozen=True)
class Device:
    """A camera that can be opened repeatedly.

    Attributes:
        name: Name for messages, without passwords.
        open: Opens the camera. Raises ``SourceError``; may block for ever.
    """

    name: str
    open: Callable[[], Capture]


def v4l2(which: str) -> Device:
    """A Video4Linux camera by number, or by path. Paths do not depend on the order in which cameras are plugged in."""
    if which.startswith("/dev/"):
        index_or_path: int | str = which
    elif which.isascii() and which.isdigit():
        index_or_path = int(which)
    else:
        raise SourceError(f"'camera:{which}': a camera is camera:0, camera:1, ... or camera:/dev/v4l/by-id/...")
    message = f"camera {which} cannot be opened; is it plugged in and free?"
    return Device(f"camera {which}", lambda: capture(index_or_path, message, cv2.CAP_V4L2))


def network(url: str) -> Device:
    """A network camera, at a URL with one of the schemes in ``NETWORK``."""
    name = without_password(url)
    message = f"{name} cannot be opened; check the address, the network and the password"
    return Device(name, lambda: capture(url, message))


def capture(address: int | str, message: str, api: int = cv2.CAP_FFMPEG) -> Capture:
    """Open a camera with OpenCV. Raises ``SourceError`` with ``message``."""
    # Without these, OpenCV and FFmpeg write many lines to standard error about each failure.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(SILENCE_S))
    # OpenCV's default options, without the 20 frames from which FFmpeg estimates the frame rate. A camera of 10 frames
    # per second with a key frame every 2 s is then open after 1.5 to 2.7 s instead of 4 s.
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_flags;prefer_tcp|fpsprobesize;0")
    options = []
    if api == cv2.CAP_FFMPEG:
        options += [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 1000 * OPENING_S, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 1000 * SILENCE_S]
        # Each further decoder thread would delay answers by one frame.
        options += [cv2.CAP_PROP_N_THREADS, 1]
    opened = cv2.VideoCapture(address, api, options)
    if not opened.isOpened():
        opened.release()
        raise SourceError(message)
    return opened  # type: ignore[return-value]


def picamera(which: str) -> Device:
    """A camera on the camera port of a Raspberry Pi, by libcamera."""
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
    """A camera opened by Picamera2."""

    def __init__(self, kind: Any, which: int, message: str) -> None:
        """``kind``: the class ``Picamera2``. Raises ``SourceError`` with ``message``."""
        self._camera = None
        try:
            self._camera = kind(which)
            # libcamera's RGB888 is B, G, R in memory (Picamera2 manual, appendix A).
            main = {"format": "RGB888", "size": _SIZE}
            self._camera.configure(self._camera.create_video_configuration(main=main))
            self._camera.start()
        except (RuntimeError, IndexError) as error:
            self.release()
            raise SourceError(f"{message} ({error})") from None

    def read(self) -> tuple[bool, Picture | None]:
        picture: Picture = self._camera.capture_array("main")  # type: ignore[union-attr]
        return True, picture

    def release(self) -> None:
        if self._camera is not None:
            self._camera.close()
