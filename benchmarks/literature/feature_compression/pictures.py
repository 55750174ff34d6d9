"""The rivals of compressed features: compressed and downscaled pictures."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from cachenet.shared.inference.image import Picture, encode

#: Marker that starts the scan of a JPEG file; all before it are tables, the same for all pictures of a setting.
_JPEG_SCAN = b"\xff\xda"
#: Bytes around the data in a file: PNG's signature, IHDR, IDAT's frame and IEND; WebP's RIFF header and chunk header.
_CONTAINER = {"png": 8 + 25 + 12 + 12, "webp": 20}


@dataclass(frozen=True)
class Setting:
    """How a picture is compressed.

    Attributes:
        kind: ``png``, ``jpeg`` or ``webp``.
        side: Side to which the picture is scaled before, pixels; the receiver scales it back.
        quality: Quality of JPEG and WebP, 1 to 100; 101: lossless WebP; 0 for PNG.
    """

    kind: str
    side: int
    quality: int = 0

    @property
    def name(self) -> str:
        """The setting as a table shows it."""
        quality = {0: "", 101: " lossless"}.get(self.quality, f" q{self.quality}")
        return f"{self.kind} {self.side} px{quality}"


def compress(picture: Picture, setting: Setting) -> tuple[int, Picture]:
    """Bytes of the compressed picture, and the picture at its first size as the receiver sees it.

    Bytes that are the same in every file of a setting do not count: tables of JPEG, headers of PNG and WebP. Features
    have no such bytes either.
    """
    side = picture.shape[0]
    small = _scaled(picture, setting.side)
    if setting.kind == "png":
        data = _encoded(".png", small, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    elif setting.kind == "webp":
        data = _encoded(".webp", small, [cv2.IMWRITE_WEBP_QUALITY, setting.quality])
    else:
        sampling = (
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if setting.quality >= 90 else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
        )
        options = [cv2.IMWRITE_JPEG_QUALITY, setting.quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
        data = _encoded(".jpg", small, options)
    constant = data.index(_JPEG_SCAN) if setting.kind == "jpeg" else _CONTAINER[setting.kind]
    return len(data) - constant, _scaled(_decoded(data), side)


def compress_all(
    pictures: npt.NDArray[np.uint8], setting: Setting
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """``compress`` of pictures ``(n, h, w, 3)``, RGB."""
    found = [compress(np.ascontiguousarray(picture[:, :, ::-1]), setting) for picture in pictures]
    return np.array([size for size, _ in found], np.float64), np.stack([picture[:, :, ::-1] for _, picture in found])


def sent_today(pictures: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """Bytes of pictures ``(n, h, w, 3)``, RGB, as an agent sends them, and the pictures as the server sees them."""
    data = [encode(np.ascontiguousarray(picture[:, :, ::-1]))[1] for picture in pictures]
    return np.array([len(one) for one in data], np.float64), np.stack([_decoded(one)[:, :, ::-1] for one in data])


def _scaled(picture: Picture, side: int) -> Picture:
    if picture.shape[0] == side:
        return picture
    method = cv2.INTER_AREA if side < picture.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(picture, (side, side), interpolation=method)  # type: ignore[return-value]


def _decoded(data: bytes) -> Picture:
    received = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert received is not None
    return received  # type: ignore[return-value]


def _encoded(suffix: str, picture: Picture, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, picture, options)
    assert done
    return data.tobytes()


def settings(side: int, smoke: bool = False) -> list[Setting]:
    """The settings of the rivals for pictures of ``side`` pixels."""
    if smoke:
        return [Setting("png", side), Setting("webp", side // 2, 50)]
    smaller = [side * eighths // 8 for eighths in (6, 4)]
    return [
        *(Setting("png", one) for one in (side, *smaller, side // 4)),
        Setting("webp", side, 101),
        *(Setting("webp", side, quality) for quality in (5, 20, 40, 60, 80, 95)),
        *(Setting("webp", one, quality) for one in smaller for quality in (10, 40, 80)),
        *(Setting("jpeg", side, quality) for quality in (10, 30, 60, 85, 95)),
        *(Setting("jpeg", one, quality) for one in smaller for quality in (30, 80)),
    ]
