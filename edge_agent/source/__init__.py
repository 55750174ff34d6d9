"""Where frames come from: a camera, an RTSP stream, a pipe, a video file, a directory of images, a recorded stream.

Files play every frame, as fast as they are taken or at a given rate. Of whatever is live only the latest frame counts,
so that an answer is always about now; what is dropped for that is counted.
"""

from __future__ import annotations

from pathlib import Path

from edge_agent.source.base import Shot, Source, SourceError
from edge_agent.source.devices import capture, picamera, rtsp, v4l2
from edge_agent.source.files import Files, Stream, Video
from edge_agent.source.live import Live
from edge_agent.source.pipe import Pipe
from shared import stream
from shared.addresses import without_password

__all__ = ["Files", "Live", "Pipe", "Shot", "Source", "SourceError", "open_source"]

_PICTURES = {".jpg", ".jpeg", ".png"}


def open_source(spec: str, fps: float | None = None) -> Source:
    """Open ``camera:N``, ``camera:/dev/...``, ``rtsp://...``, ``picamera[:N]``, ``pipe:WIDTHxHEIGHT[:FORMAT]``, a video
    file, a directory of images or a recorded stream.

    ``fps`` paces files, and is the most that is taken of a live source. Raises ``SourceError``.
    """
    kind, _, rest = spec.partition(":")
    if kind == "camera":
        return Live(v4l2(rest), fps)
    if kind in ("rtsp", "rtsps"):
        return Live(rtsp(spec), fps)
    if kind == "picamera":
        return Live(picamera(rest), fps)
    if kind == "pipe":
        return Pipe(rest, fps)
    path = Path(spec)
    if path.is_dir():
        if (path / stream.MANIFEST).exists():
            return Stream(path, fps)
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _PICTURES)
        if not files:
            raise SourceError(f"{path} holds no .jpg or .png files")
        return Files([(file, None) for file in files], fps)
    if path.is_file():
        return Video(capture(str(path), f"{path} is no video that OpenCV can read"), fps)
    raise SourceError(
        f"{without_password(spec)!r} is no file, directory, camera:N, rtsp:// address, picamera or pipe:WIDTHxHEIGHT"
    )
