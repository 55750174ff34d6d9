"""Compressed pictures: complete or refused, upright, bounded; nothing in a file's place can stop a reader."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cachenet.shared.inference.image import BadPicture
from cachenet.shared.media import pictures
from cachenet.shared.media.pictures import SUFFIXES, decode, header, read
from tests.shared.test_image import photograph

KINDS = sorted(SUFFIXES - {".jpeg", ".jfif"})


def size(data: bytes) -> tuple[int, int]:
    found = header(data)
    return found.width, found.height


def compressed(extension: str, height: int = 60, width: int = 80) -> bytes:
    done, data = cv2.imencode(extension, photograph(height, width))
    assert done
    return data.tobytes()


def png(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG whose header says what we like."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """A real JPEG whose frame header is made to say what we like."""
    data = bytearray(compressed(".jpg"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([".png", ".jpg"]))
@settings(max_examples=30)
def test_the_header_matches_the_decoded_picture(height: int, width: int, extension: str) -> None:
    data = compressed(extension, height, width)
    assert size(data) == (width, height)
    assert decode(data).shape == (height, width, 3)


def test_grey_progressive_and_padded_jpegs_are_accepted() -> None:
    done, grey = cv2.imencode(".jpg", photograph(30, 40)[:, :, 0])
    assert done
    assert decode(grey.tobytes()).shape == (30, 40, 3)
    done, progressive = cv2.imencode(".jpg", photograph(30, 40), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert done
    assert decode(progressive.tobytes()).shape == (30, 40, 3)
    padded = compressed(".jpg")
    assert decode(padded[:2] + b"\xff\xff" + padded[2:]).shape == (60, 80, 3)


@pytest.mark.parametrize("extension", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_picture_is_refused(extension: str, share: float) -> None:
    data = compressed(extension)
    with pytest.raises(BadPicture):
        decode(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(png(10_000, 10_000, zlib.compress(bytes(10**6))), id="100-megapixel PNG"),
        pytest.param(png(2**31 - 1, 2**31 - 1), id="PNG of the largest size"),
        pytest.param(jpeg(10_000, 10_000), id="100-megapixel JPEG"),
        pytest.param(jpeg(65_535, 65_535), id="JPEG of the largest size"),
    ],
)
def test_a_decompression_bomb_is_refused_by_its_header(bomb: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the decoder was reached"))
    with pytest.raises(BadPicture, match="allowed"):
        decode(bomb)


# Bytes that the decoder skips and a careless reader takes for a segment, which hides the real frame header from it.
@pytest.mark.parametrize("cover", [b"\xff\xff", b"\xff\x01", b"\xff\xd0", b"\xff\x00", b"\xff\xe0\x00\x00"])
def test_a_decompression_bomb_cannot_hide_its_size(cover: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[bytes] = []
    monkeypatch.setattr(cv2, "imdecode", lambda *_: reached.append(b""))
    bomb = jpeg(10_000, 10_000)
    start = bomb.index(b"\xff\xc0")
    frame_header = bomb[start:]
    # What stands after the cover is read as a length by one who is fooled, and a small size waits behind it.
    length = int.from_bytes(frame_header[:2], "big")
    decoy = b"\xff\xc0\x00\x11\x08\x00\x08\x00\x08"
    hidden = b"\xff\xd8" + cover + frame_header
    hidden = hidden.ljust(2 + len(cover) + length, b"\x00") + decoy * 20 + b"\xff\xd9"
    with pytest.raises(BadPicture):
        decode(hidden)
    assert not reached


def with_scans(count: int) -> bytes:
    """A JPEG with copies of its last scan."""
    done, data = cv2.imencode(".jpg", photograph(60, 80), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert done
    start = data.tobytes().rindex(b"\xff\xda")
    return data.tobytes()[:start] + data.tobytes()[start:-2] * count + b"\xff\xd9"


#: Pictures of 4 MB or less with parts in such numbers that a reader of all would take seconds.
MANY_PARTS = {
    "chunks": png(8, 8)[:33] + b"\0\0\0\0tEXt\0\0\0\0" * 300_000 + png(8, 8)[-12:],
    "fill bytes": b"\xff\xd8" + b"\xff" * (4 << 20) + compressed(".jpg")[2:],
    "markers": compressed(".jpg")[:-2] + b"\xff\x01" * (2 << 20) + b"\xff\xd9",
    "segments": b"\xff\xd8" + b"\xff\xe1\x00\x02" * (1 << 20) + compressed(".jpg")[2:],
    "scans": with_scans(100),
}


@pytest.mark.parametrize("kind", MANY_PARTS)
def test_a_picture_of_very_many_parts_is_refused_before_it_is_decoded(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the decoder was reached"))
    with pytest.raises(BadPicture, match=r"(PNG|JPEG) has (too many|more than|no frame header)"):
        decode(MANY_PARTS[kind])


def test_a_photograph_of_a_4k_camera_is_decoded_in_the_size_that_a_model_can_use() -> None:
    data = compressed(".jpg", 2160, 3840)
    assert decode(data, pictures.USEFUL_PIXELS).shape == (1080, 1920, 3)
    assert decode(data, 3840 * 2160).shape == (2160, 3840, 3), "a model with so large an input sees every pixel"
    assert decode(data).shape == (2160, 3840, 3)


@pytest.mark.parametrize("kind", ["PNG", "progressive"])
def test_a_picture_that_cannot_be_decoded_in_part_is_refused_beyond_what_a_model_can_use(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, data = (
        cv2.imencode(".png", photograph(400, 600))
        if kind == "PNG"
        else cv2.imencode(".jpg", photograph(400, 600), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    )
    assert done
    assert decode(data.tobytes(), 600 * 400).shape == (400, 600, 3)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the decoder was reached"))
    with pytest.raises(BadPicture, match="600x400 pixels, 239999 allowed"):
        decode(data.tobytes(), 600 * 400 - 1)


@pytest.mark.parametrize("size", [(0, 0), (0, 8), (8, 0)])
def test_a_picture_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BadPicture):
        decode(png(*size))
    with pytest.raises(BadPicture):
        decode(jpeg(*size))


@given(st.binary(max_size=400), st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", png(8, 8)[:33]]))
@example(b"", b"")
def test_random_bytes_are_refused(data: bytes, start: bytes) -> None:
    with pytest.raises(BadPicture):
        decode(start + data)


@given(st.sampled_from([".png", ".jpg"]), st.data())
@settings(max_examples=150)
def test_a_damaged_picture_is_refused_or_has_its_size(extension: str, data: st.DataObject) -> None:
    damaged = bytearray(compressed(extension))
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        picture = decode(bytes(damaged))
    except BadPicture:
        return
    width, height = size(bytes(damaged))
    assert picture.shape == (height, width, 3)


def progressive() -> bytes:
    done, data = cv2.imencode(
        ".jpg", photograph(60, 80), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    )
    assert done
    return data.tobytes()


def lossy_webp() -> bytes:
    done, data = cv2.imencode(".webp", photograph(60, 80), [cv2.IMWRITE_WEBP_QUALITY, 60])
    assert done
    return data.tobytes()


#: A whole picture of each kind, 80 by 60.
WHOLE = {kind: compressed(kind) for kind in KINDS} | {".jpg progressive": progressive(), ".webp lossy": lossy_webp()}


@given(st.sampled_from(sorted(WHOLE)), st.data())
@settings(max_examples=200)
def test_a_picture_truncated_anywhere_is_refused(kind: str, data: st.DataObject) -> None:
    whole = WHOLE[kind]
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(BadPicture):
        _decoded(whole[:cut])


@pytest.mark.parametrize("kind", [".jpg", ".jpg progressive", ".png"])
def test_no_truncation_is_accepted(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the walk alone, for some versions of OpenCV decode half a JPEG to half a picture and grey."""
    whole = WHOLE[kind]
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the decoder was reached"))
    for cut in range(len(whole)):
        with pytest.raises(BadPicture):
            decode(whole[:cut])


@given(st.sampled_from(sorted(WHOLE)), st.binary(max_size=300))
@example(".jpg", b"\0" * 100 + b"SEFT")
@example(".jpg", b"\xff\xd9")
@example(".png", b"of a card copier")
@settings(max_examples=100)
def test_bytes_after_the_end_change_nothing(kind: str, trailer: bytes) -> None:
    assert np.array_equal(_decoded(WHOLE[kind] + trailer), _decoded(WHOLE[kind]))


def test_the_first_of_two_joined_pictures_is_decoded() -> None:
    """A motion photo holds a video, a stereo photo a second picture, after the end."""
    first, second = compressed(".jpg"), compressed(".jpg", 30, 40)
    assert decode(first + second).shape == (60, 80, 3)
    assert decode(first + second[:100]).shape == (60, 80, 3)


@given(st.integers(min_value=0))
@settings(max_examples=50)
def test_a_truncated_scan_before_another_picture_is_refused(place: int) -> None:
    """A write that was interrupted, and begun anew in the same file."""
    first, scan = WHOLE[".jpg"], WHOLE[".jpg"].index(b"\xff\xda") + 20
    with pytest.raises(BadPicture, match="truncated"):
        decode(first[: scan + place % (len(first) - 2 - scan)] + compressed(".jpg", 30, 40))


def _decoded(data: bytes) -> pictures.Picture:
    """As from a file."""
    return pictures._decode(data, header(data), 10**6, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_read_from_a_file_of_any_suffix(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(compressed(kind))
    assert size(path.read_bytes()) == (80, 60)
    assert np.abs(read(path).astype(int) - photograph(60, 80)).mean() < 6


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with an EXIF segment."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_a_picture_is_upright(tmp_path: Path, orientation: int, turns: int) -> None:
    jpeg = compressed(".jpg")
    upright = np.rot90(decode(jpeg), turns)
    turned = with_orientation(jpeg, orientation)
    (tmp_path / "a.jpg").write_bytes(turned)
    assert np.array_equal(read(tmp_path / "a.jpg"), upright)
    assert np.array_equal(decode(turned), upright), "a picture from the network, too"


@pytest.mark.skipif(".avif" not in SUFFIXES, reason="this OpenCV has no AVIF")
@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_an_avif_is_upright(tmp_path: Path, orientation: int, turns: int) -> None:
    """Its rotation is a box of the format, not EXIF."""
    pil = pytest.importorskip("PIL.Image")
    if not pytest.importorskip("PIL.features").check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    exif = pil.Exif()
    exif[0x0112] = orientation
    pil.fromarray(photograph(60, 80)[:, :, ::-1]).save(tmp_path / "a.avif", exif=exif.tobytes(), quality=90)
    upright = np.rot90(photograph(60, 80), turns)
    found = read(tmp_path / "a.avif")
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 6


def test_a_large_jpeg_is_reduced_from_a_file_and_refused_from_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_DECODED_PIXELS", 1000)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1000)
    path = tmp_path / "a.jpg"
    path.write_bytes(compressed(".jpg"))
    assert read(path).shape == (15, 20, 3)
    with pytest.raises(BadPicture, match="1000 allowed"):
        decode(path.read_bytes())


@pytest.mark.parametrize(("width", "height", "scale"), [(4624, 3468, 1), (8192, 6144, 2), (16320, 12240, 4)])
def test_a_phones_picture_is_within_the_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, height: int, scale: int
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(cv2, "imdecode", lambda _, flags: asked.append(flags))
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(width, height))
    with pytest.raises(BadPicture):
        read(path)
    assert asked == [pictures._REDUCED[scale]]
    assert width * height / scale**2 <= 25e6, "75 MB of BGR"


def test_a_decompression_bomb_in_a_file_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the decoder was reached"))
    path = tmp_path / "a.png"
    for data in (png(10_000, 10_000), jpeg(20_000, 20_000)):
        path.write_bytes(data)
        with pytest.raises(BadPicture, match="allowed"):
            read(path)
    monkeypatch.setattr(pictures, "_FILE_BYTES", 10)
    with pytest.raises(BadPicture, match="10 allowed"):
        read(path)


def test_only_png_and_jpeg_are_accepted_from_the_network() -> None:
    with pytest.raises(BadPicture, match="neither PNG nor JPEG"):
        decode(compressed(".webp"))


def test_special_files_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "html").write_text("<html>401 Unauthorized</html>")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
    reasons = {}
    for path in tmp_path.iterdir():
        with pytest.raises((OSError, BadPicture)) as refused:
            read(path)
        reasons[path.name] = pictures.reason(refused.value)
    assert reasons.pop("html").endswith("it begins with b'<html>401 Unauth'")
    assert reasons == {
        "fifo": "a FIFO, no file",
        "directory": "a directory, no file",
        "link": "a link to a file that is not there",
        "device": "a device, no file",
        "socket": "a socket, no file",
    }
