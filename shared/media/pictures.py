"""Compressed pictures: headers, completeness, and bounded decoding through OpenCV.

All programs decode pictures through this module. EXIF orientation is applied, and bytes after the picture's end are
ignored. The structure is parsed to the end marker, because OpenCV may decode half a JPEG to half a picture and grey.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cachenet.shared.command.regular_files import open_regular
from cachenet.shared.inference.image import BadPicture, Picture

# OpenCV would log many lines on stderr about a damaged picture; the caller reports one.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_AVIF = bool(cv2.haveImageWriter("x.avif"))
#: Suffixes of pictures that are read from a directory; AVIF if this OpenCV can decode it.
SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp"} | ({".avif"} if _AVIF else set()))
#: These, and suffixes of picture formats that cannot be read; such files are reported and not ignored.
LISTED = SUFFIXES | {".avif", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".jp2", ".jxl", ".dng"}

#: Largest picture that a server decodes from the network, pixels: 48 MB of BGR.
MAX_PIXELS = 16_000_000
#: Pixels of a picture from the network that are of use to every model, a full HD frame. Larger models use more.
USEFUL_PIXELS = 2_100_000
#: Largest number of scans of a JPEG. Encoders write about ten; the decoder visits every pixel's coefficients in each.
_MAX_SCANS = 32
#: Largest JPEG in a file, pixels: the largest sensor of a phone (16320 x 12240).
_JPEG_FILE_PIXELS = 200_000_000
#: Largest picture in a file of another format, pixels: 192 MB of BGR, because these are decoded in full size.
_OTHER_FILE_PIXELS = 64_000_000
#: Most pixels that a JPEG in a file is decoded to: 75 MB of BGR. libjpeg decodes a larger one at 1/2, 1/4 or 1/8 of its
#: width and height, without the full picture in memory. A model's input has less than a megapixel.
_DECODED_PIXELS = 25_000_000
#: Largest file of a picture, bytes: more than a sensor of 200 megapixels writes at best quality.
_FILE_BYTES = 256 << 20

#: OpenCV's flag of each reduction.
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


@dataclass(frozen=True, slots=True)
class Header:
    """Header of a compressed picture.

    Attributes:
        end: Length of the picture, bytes.
        several_scans: Whether it is a JPEG of which the decoder must hold all coefficients.
        turns: Quarter turns to the left that decoding must apply; OpenCV applies those of all formats but AVIF.
    """

    format: str
    width: int
    height: int
    end: int
    turns: int = 0
    several_scans: bool = False


def decode(data: bytes, useful: int = MAX_PIXELS) -> Picture:
    """Decode a PNG or JPEG from the network: ``(height, width, 3)`` BGR.

    Args:
        useful: Pixels that the caller can use. A JPEG of one scan, as cameras write it, may have ``MAX_PIXELS`` and is
            decoded at 1/2, 1/4 or 1/8 of its size, to have no more than this. Other pictures with more are refused,
            because decoding costs the full size.

    Raises:
        BadPicture: The bytes are not such a picture.
    """
    found, most = header(data, network=True), min(useful, MAX_PIXELS)
    if found.format != "JPEG" or found.several_scans:
        return _decode(data, found, most, 1)
    return _decode(data, found, MAX_PIXELS, _reduction(found, most))


def read(path: Path) -> Picture:
    """Decode a picture file: ``(height, width, 3)`` BGR, upright.

    A JPEG of more than 25 megapixels is decoded at 1/2, 1/4 or 1/8 of its size.

    Raises:
        BadPicture: The file is not a picture that can be decoded.
        OSError: The file cannot be read, or is not a regular file.
    """
    data = _bytes(path)
    found = header(data)
    if found.format != "JPEG":
        return _decode(data, found, _OTHER_FILE_PIXELS, 1)
    return _decode(data, found, _JPEG_FILE_PIXELS, _reduction(found, _DECODED_PIXELS))


def header(data: bytes, network: bool = False) -> Header:
    """Read the header of a complete picture, without decoding.

    Args:
        network: Whether to accept PNG and JPEG only.

    Raises:
        BadPicture: The bytes are not a picture, or a truncated one.
    """
    for is_format, parse, from_network in _FORMATS:
        if is_format(data) and (from_network or not network):
            return parse(data)
    known = "neither PNG nor JPEG" if network else f"neither JPEG, PNG{', WebP nor AVIF' if _AVIF else ' nor WebP'}"
    raise BadPicture("the file is empty" if not data else f"{known}; it begins with {data[:16]!r}")


def _reduction(found: Header, most: int) -> int:
    """Smallest divisor of width and height that leaves ``most`` pixels at most; 8 if none does."""
    return next((scale for scale in _REDUCED if found.width * found.height <= most * scale * scale), 8)


def _decode(data: bytes, found: Header, most: int, scale: int) -> Picture:
    if not 0 < found.width * found.height <= most:
        raise BadPicture(f"picture of {found.width}x{found.height} pixels, {most} allowed")
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8, found.end), _REDUCED[scale])
    except cv2.error:
        picture = None
    if picture is None:
        raise BadPicture(f"{found.format} is damaged")
    return np.ascontiguousarray(np.rot90(picture, found.turns), np.uint8)


def _bytes(path: Path) -> bytes:
    with os.fdopen(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > _FILE_BYTES:
            raise BadPicture(f"file of {size} bytes, {_FILE_BYTES} allowed")
        return file.read(_FILE_BYTES)


def reason(error: OSError | BadPicture) -> str:
    """Why a picture could not be read, in words."""
    return str(error.strerror if isinstance(error, OSError) else error)


def _most_parts(data: bytes) -> int:
    """Largest number of parts of a picture that are read, chunks or segments. Encoders write some kilobytes in each."""
    return 64 + len(data) // 1024


# PNG: a signature, then chunks of length, type, data and checksum, up to IEND.


def _is_png(data: bytes) -> bool:
    return data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR"


def _png(data: bytes) -> Header:
    at = 8
    for _ in range(_most_parts(data)):
        if at + 12 > len(data):
            raise BadPicture("PNG is truncated")
        kind, at = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if kind == b"IEND" and at <= len(data):
            return Header("PNG", int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"), at)
    raise BadPicture("PNG has too many chunks")


# JPEG: segments of marker, length and data; after each scan header entropy-coded data, in which no byte FF is followed
# by anything but 00, a restart marker or another FF.

_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = 0xC1
_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")


def _is_jpeg(data: bytes) -> bool:
    return data[:2] == b"\xff\xd8"


def _jpeg(data: bytes) -> Header:
    width, height, progressive, at = _jpeg_frame(data)
    scans = 0
    for _ in range(_most_parts(data)):
        marker = _MARKER.search(data, at)
        if marker is None or marker[1][0] == _SOI:
            raise BadPicture("JPEG is truncated")
        kind, at = marker[1][0], marker.end()
        if kind == _EOI:
            return Header("JPEG", width, height, at, several_scans=progressive or scans > 1)
        scans += kind == _SOS
        if scans > _MAX_SCANS:
            raise BadPicture(f"JPEG has more than {_MAX_SCANS} scans")
        if kind != _TEM:
            at += int.from_bytes(data[at : at + 2], "big")
    raise BadPicture("JPEG has too many segments")


def _jpeg_frame(data: bytes) -> tuple[int, int, bool, int]:
    """Width, height, whether the frame is neither baseline nor sequential, and the position after the frame header."""
    at = 2
    for _ in range(_most_parts(data)):
        if at + 9 >= len(data):
            raise BadPicture("JPEG is truncated")
        if data[at] != 0xFF:
            break
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        # Refuse anything but a plain segment: a tolerant decoder might find another size.
        if marker < 0xC0 or 0xD0 <= marker <= _SOS or length < 2:
            break
        if marker in _SOF:
            size = int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
            return *size, marker > _SEQUENTIAL, at + 2 + length
        at += 2 + length
    raise BadPicture("JPEG has no frame header")


# WebP: a RIFF container with its length.


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _webp(data: bytes) -> Header:
    end, kind = 8 + int.from_bytes(data[4:8], "little"), data[12:16]
    if len(data) < max(end, 30):
        raise BadPicture("WebP is truncated")
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    else:
        raise BadPicture("WebP is damaged")
    return Header("WebP", width, height, end)


# AVIF: boxes. Its decoder detects truncation; a picture of tiles has several sizes.


def _is_avif(data: bytes) -> bool:
    return _AVIF and data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis", b"mif1")


def _avif(data: bytes) -> Header:
    sizes = [(data[at.end() + 4 : at.end() + 8], data[at.end() + 8 : at.end() + 12]) for at in _ISPE.finditer(data)]
    if not sizes:
        raise BadPicture("AVIF is truncated")
    width, height = max(((int.from_bytes(w, "big"), int.from_bytes(h, "big")) for w, h in sizes), key=np.prod)
    rotation = _IROT.search(data)
    return Header("AVIF", width, height, len(data), rotation[1][0] & 3 if rotation is not None else 0)


#: The box of the image's size: length and name. The box of its rotation: length, name and data.
_ISPE, _IROT = re.compile(rb"\x00\x00\x00\x14ispe"), re.compile(rb"\x00\x00\x00\x09irot(.)", re.DOTALL)

#: For each format: test of the first bytes, parser of the header, and whether the network may send it.
_FORMATS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes], Header], bool], ...] = (
    (_is_jpeg, _jpeg, True),
    (_is_png, _png, True),
    (_is_webp, _webp, False),
    (_is_avif, _avif, False),
)
