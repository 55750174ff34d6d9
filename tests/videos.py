"""Small videos of the kinds that users have, made with what OpenCV encodes by itself, and patched."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

#: Width and height of a frame.
SIZE = (64, 48)


def clip(path: Path, count: int = 20, fps: float = 10, size: tuple[int, int] = SIZE) -> Path:
    """A video of which frame ``n`` has brightness ``10 * n``, ``.avi`` (each frame a JPEG) or ``.mp4`` (MPEG-4)."""
    kind = {".avi": "MJPG", ".mp4": "mp4v"}[path.suffix]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*kind), fps, size)
    assert writer.isOpened()
    for number in range(count):
        writer.write(np.full((size[1], size[0], 3), 10 * number % 250, np.uint8))
    writer.release()
    return path


def damage(path: Path, frames: Iterable[int]) -> Path:
    """Overwrite compressed frames of an MP4 that ``clip`` made."""
    data = bytearray(path.read_bytes())
    table, at = data.index(b"stsz") + 16, data.index(b"mdat") + 4
    for number in range(int.from_bytes(data[table - 4 : table], "big")):
        length = int.from_bytes(data[table + 4 * number : table + 4 * number + 4], "big")
        if number in frames:
            data[at : at + length] = bytes(length)
        at += length
    path.write_bytes(data)
    return path


def turn(path: Path) -> Path:
    """Have an MP4 that ``clip`` made shown turned by a quarter, as a phone's."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def space(path: Path, durations: Sequence[int]) -> Path:
    """Give each frame of an MP4 that ``clip`` made a duration of its own, in units of the file's time."""
    data = path.read_bytes().replace(b"edts", b"free")  # it would end the video where it did before
    at = data.index(b"stts") - 4
    length = int.from_bytes(data[at : at + 4], "big")
    entries = b"".join(struct.pack(">2I", 1, duration) for duration in durations)
    table = struct.pack(">I4s2I", 16 + len(entries), b"stts", 0, len(durations)) + entries
    patched = bytearray(data[:at] + table + data[at + length :])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):  # these stand after the pictures, and hold the table
        begins = patched.index(box, data.index(b"moov")) - 4
        size = int.from_bytes(patched[begins : begins + 4], "big") + len(table) - length
        patched[begins : begins + 4] = size.to_bytes(4, "big")
    path.write_bytes(patched)
    return path


def unit(path: Path) -> int:
    """Units of an MP4's time in a second."""
    data = path.read_bytes()
    at = data.index(b"mdhd") + 16
    return int.from_bytes(data[at : at + 4], "big")
