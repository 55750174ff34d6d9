"""Frame sources: cameras, RTSP streams, pipes, video files, pictures, directories of pictures and recorded streams.

A file gives every frame, as fast as frames are read or at a given rate. A live source gives only its latest frame, so
that every answer is about the present, and counts the frames that it drops.
"""

from __future__ import annotations

from pathlib import Path

from cachenet.edge_agent.sources.base import Source, SourceError, SourceFrame
from cachenet.edge_agent.sources.devices import NETWORK, network, picamera, v4l2
from cachenet.edge_agent.sources.files import Files, Stream, VideoFile
from cachenet.edge_agent.sources.frozen import OnFrozen
from cachenet.edge_agent.sources.live import Live
from cachenet.edge_agent.sources.pipe import Pipe
from cachenet.shared.command.file_names import natural, shown
from cachenet.shared.media import recording
from cachenet.shared.media.pictures import LISTED, SUFFIXES
from cachenet.shared.transport.addresses import without_password

__all__ = ["Files", "Live", "Pipe", "Source", "SourceError", "SourceFrame", "open_source"]


def open_source(spec: str, fps: float | None = None, frozen: OnFrozen = "say") -> Source:
    """Open ``camera:N``, ``camera:/dev/...``, ``rtsp://...`` or another address of ``NETWORK``, ``picamera[:N]``,
    ``pipe:WIDTHxHEIGHT[:FORMAT]``, a video file, a picture, a directory of pictures (in natural order of their names)
    or a recorded stream.

    Args:
        fps: Frame rate of a file, and highest rate of a live source, frames per second.
        frozen: Reaction to a camera that repeats one picture.

    Raises:
        SourceError: The source cannot be opened.
        OSError: A directory cannot be listed.
    """
    kind, _, rest = spec.partition(":")
    if kind == "camera":
        return Live(v4l2(rest), fps, frozen)
    if kind.lower() in NETWORK and rest.startswith("//"):
        return Live(network(f"{kind.lower()}:{rest}"), fps, frozen)
    if kind == "picamera":
        return Live(picamera(rest), fps, frozen)
    if kind == "pipe":
        return Pipe(rest, fps)
    path = Path(spec)
    if path.is_dir():
        if (path / recording.MANIFEST).exists():
            return Stream(path, fps)
        names = (file for file in path.iterdir() if file.suffix.lower() in LISTED and not file.name.startswith("."))
        files = sorted(names, key=lambda file: natural(file.name))
        if not files:
            raise SourceError(f"{shown(path)} holds no pictures ({' '.join(sorted(SUFFIXES))})")
        return Files(files, fps)
    if path.is_file():
        return Files([path], fps) if path.suffix.lower() in SUFFIXES else VideoFile(path, fps)
    kinds = "file, directory, camera:N, rtsp:// or http:// address, picamera or pipe:WIDTHxHEIGHT"
    raise SourceError(f"'{shown(without_password(spec))}' is no {kinds}")
