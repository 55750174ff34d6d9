from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.inference.image import Picture
from cachenet.shared.media.recording import MANIFEST, Recording, StreamError, picture, read, write


def recording(**changes: object) -> Recording:
    fields = {"name": "held", "seed": 3, "frames": 3, "fps": 30.0, "labels": ("cat", "dog"), "truth": (0, 1, 1)}
    return Recording(**{**fields, "files": "%06d.png", **changes})  # type: ignore[arg-type]


def pictures(count: int = 3) -> list[Picture]:
    return [np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8) for i in range(count)]


def test_a_written_stream_is_read_back(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b", recording(), pictures())
    assert read(tmp_path / "a" / "b") == recording()
    for index, expected in enumerate(pictures()):
        assert np.array_equal(picture(tmp_path / "a" / "b", recording(), index), expected)
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == [*(f"00000{i}.png" for i in range(3)), MANIFEST]


def test_jpeg_stays_close(tmp_path: Path) -> None:
    smooth = np.tile(np.arange(64, 192, dtype=np.uint8)[:, None, None], (1, 128, 3))
    jpeg = recording(files="%06d.jpg", frames=1, truth=None)
    write(tmp_path, jpeg, [smooth])
    assert np.abs(picture(tmp_path, jpeg, 0).astype(int) - smooth).max() <= 3


@given(
    truth=st.none() | st.lists(st.integers(0, 1), min_size=1, max_size=50),
    name=st.text(max_size=20),
    seed=st.none() | st.integers(0, 2**63 - 1),
)
def test_manifest_survives_json(truth: list[int] | None, name: str, seed: int | None) -> None:
    one = recording(
        name=name, seed=seed, truth=None if truth is None else tuple(truth), frames=7 if truth is None else len(truth)
    )
    one.check()
    assert msgspec.json.decode(msgspec.json.encode(one), type=Recording) == one


def test_times_are_written_only_where_the_rate_varies(tmp_path: Path) -> None:
    """Versions that know no times refuse fields that they do not know."""
    assert b"times" not in msgspec.json.encode(recording())
    assert recording(fps=4.0).seconds() == (0.0, 0.25, 0.5)
    varying = recording(times=(0.0, 0.1, 2.0))
    write(tmp_path, varying, pictures())
    assert read(tmp_path).seconds() == (0.0, 0.1, 2.0)


@pytest.mark.parametrize("times", [(0.0, 0.1), (0.0, 0.2, 0.2), (0.0, float("nan"), 1.0), (0.0, 1.0, float("inf"))])
def test_invalid_times_are_refused(times: tuple[float, ...]) -> None:
    with pytest.raises(StreamError, match="times"):
        recording(times=times).check()


@pytest.mark.parametrize("count", [0, 2, 4])
def test_wrong_number_of_pictures_leaves_nothing(tmp_path: Path, count: int) -> None:
    with pytest.raises(StreamError, match="promised"):
        write(tmp_path, recording(), pictures(count))
    assert not list(tmp_path.iterdir())


def test_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Picture]:
        yield from pictures(2)
        assert len(list(tmp_path.iterdir())) == 2
        with pytest.raises(StreamError):  # half-written is no stream
            read(tmp_path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, recording(), interrupted())
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "000000.png").write_text("mine")
    with pytest.raises(StreamError, match="not empty"):
        write(tmp_path, recording(), pictures())
    assert (tmp_path / "000000.png").read_text() == "mine"
    with pytest.raises(StreamError):
        write(tmp_path / "000000.png", recording(), pictures())


@pytest.mark.parametrize(
    "changes",
    [{"format": 2}, {"frames": 4}, {"truth": (0, 1, 2)}, {"truth": (0, -1, 1)}, {"frames": 0}, {"fps": float("nan")}],
)
def test_inconsistent_fields_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(StreamError):
        write(tmp_path, recording(**changes), pictures())
    (tmp_path / MANIFEST).write_bytes(msgspec.json.encode(recording(**changes)))
    with pytest.raises(StreamError):
        read(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"\xff", b'{"files": "../%06d.png"}'])
def test_damaged_manifest(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(damage)
    with pytest.raises(StreamError, match=r"stream\.json"):
        read(tmp_path)


def test_a_file_pattern_cannot_leave_the_directory(tmp_path: Path) -> None:
    data = msgspec.json.encode(recording()).replace(b'"%06d.png"', b'"../%06d.png"')
    (tmp_path / MANIFEST).write_bytes(data)
    with pytest.raises(StreamError, match="files"):
        read(tmp_path)


def test_missing_or_damaged_picture(tmp_path: Path) -> None:
    write(tmp_path, recording(), pictures())
    (tmp_path / "000001.png").write_bytes(b"no picture")
    (tmp_path / "000002.png").unlink()
    for index in (1, 2):
        with pytest.raises(StreamError, match=f"00000{index}"):
            picture(tmp_path, recording(), index)
