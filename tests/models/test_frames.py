"""A user's frames: what is read and skipped, and that certification frames are never trained on."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.models.data.frames import HELD_OUT_SHARES, USES, FramesError, find, uses
from tests.videos import clip, damage


def picture(path: Path, grey: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((20, 30, 3), grey, np.uint8))
    return path


def video(path: Path, frames: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 24))
    for index in range(frames):
        writer.write(np.full((24, 32, 3), index % 250, np.uint8))
    writer.release()
    return path


def test_a_mix_of_pictures_and_videos_is_read_in_one_order(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "b.png", 10)
    picture(tmp_path / "cat" / "deep" / "a.JPG", 20)
    picture(tmp_path / "z.png", 30)
    video(tmp_path / "dog" / "walk.avi", 5)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    frames = find(tmp_path)
    shown = list(frames)
    assert [frames.files[one.file].name for one in shown] == ["b.png", "a.JPG", *["walk.avi"] * 5, "z.png"]
    assert [one.folder for one in shown] == ["cat", "cat", *["dog"] * 5, ""]
    assert shown[0].picture.shape == (20, 30, 3)
    assert not frames.broken


def test_frame_step_selects_every_nth_frame_of_a_video(tmp_path: Path) -> None:
    path = video(tmp_path / "v.avi", 10)
    frames = find(path, frame_step=3)
    assert [frames.name(one.file, one.number) for one in frames] == [f"v.avi, frame {n}" for n in (0, 3, 6, 9)]


def test_the_region_of_pictures_and_videos_is_read(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8))
    video(tmp_path / "v.avi", 2)
    whole, part = (list(find(tmp_path, 1, region)) for region in (None, (0.5, 0.25, 0.5, 0.5)))
    assert [one.picture.shape[:2] for one in part] == [(10, 15), (12, 16), (12, 16)]
    assert np.array_equal(part[0].picture, whole[0].picture[5:15, 15:])


def test_broken_files_are_listed_and_skipped(tmp_path: Path) -> None:
    good = picture(tmp_path / "good.png")
    (tmp_path / "half.png").write_bytes(good.read_bytes()[:40])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "none.mp4").write_bytes(b"no video")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    frames = find(tmp_path)
    assert [frames.files[one.file].name for one in frames] == ["good.png"]
    assert {path.name for path in frames.broken} == {"half.png", "text.jpg", "none.mp4", "gone.png"}
    assert all(frames.broken.values())


def test_a_directory_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "good.png")
    picture(tmp_path / "closed" / "a.png")
    listed = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    frames = find(tmp_path)
    assert len(list(frames)) == 1
    assert frames.broken == {tmp_path / "closed": "the directory cannot be listed: Permission denied"}


def test_a_fifo_in_place_of_a_file_is_skipped(tmp_path: Path) -> None:
    picture(tmp_path / "good.png")
    for name in ("a.jpg", "b.mp4"):
        os.mkfifo(tmp_path / name)
    frames = find(tmp_path)
    assert len(list(frames)) == 1
    assert {path.name: why for path, why in frames.broken.items()} == dict.fromkeys(
        ("a.jpg", "b.mp4"), "a FIFO, no file"
    )


def test_a_damaged_video_is_read_to_its_end_and_reported(tmp_path: Path) -> None:
    path = damage(clip(tmp_path / "a.mp4"), (5, 6))
    frames = find(tmp_path)
    assert len(list(frames)) == 18
    assert frames.damaged == 2
    assert frames.remarks == {path: "2 frames are damaged or missing"}
    assert not frames.broken


def test_any_file_name_is_read_and_numbers_sort_naturally(tmp_path: Path) -> None:
    names = ["s1/2.png", "s1/10.png", "s2/1.png", os.fsdecode(b"s10/caf\xe9.png")]
    for number, name in enumerate(names):
        picture(tmp_path / f"{number}.png", 10 * number).rename(_made(tmp_path / name))
    clip(tmp_path / "v.avi").rename(tmp_path / os.fsdecode(b"z\xe9 10:20.avi"))
    frames = find(tmp_path)
    shown = list(frames)
    assert [int(one.picture[0, 0, 0]) for one in shown[:4]] == [0, 10, 20, 30]
    assert len(shown) == 4 + 20
    assert not frames.broken


def _made(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    return path


def test_a_path_without_frames_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    for path, message in ((tmp_path, "holds no pictures"), (tmp_path / "x", "is not there")):
        with pytest.raises(FramesError, match=message):
            find(path)
    with pytest.raises(FramesError, match="neither a directory nor a video"):
        find(tmp_path / "notes.txt")


lengths = st.lists(st.sampled_from([1, 1, 1, 40, 250, 1000]), min_size=1, max_size=30)


@given(lengths, st.sampled_from([(0.7, 0.1, 0.2), HELD_OUT_SHARES]))
def test_each_use_is_one_run_of_a_sequence_in_order_with_a_gap_before_the_next(
    lengths: list[int], shares: tuple[float, ...]
) -> None:
    sequences = np.repeat(np.arange(len(lengths)), lengths)
    use = uses(sequences.tolist(), shares)
    assert use.shape == sequences.shape
    for number, length in enumerate(lengths):
        own = use[sequences == number]
        used = own[own >= 0]
        assert np.array_equal(used, np.sort(used)), "in the order of the uses"
        used_at = np.flatnonzero(own >= 0)
        for first, second in itertools.pairwise(used_at):
            if own[first] != own[second]:
                assert second - first - 1 == min(16, length // 40), "the gap"
            else:
                assert second - first == 1


@given(lengths)
def test_every_use_has_frames_of_three_sequences_or_of_a_divisible_one(lengths: list[int]) -> None:
    sequences = np.repeat(np.arange(len(lengths)), lengths).tolist()
    if len(lengths) >= 3 or max(lengths) >= 20:
        assert set(uses(sequences).tolist()) >= set(range(len(USES)))


def test_many_short_sequences_are_assigned_in_proportion() -> None:
    use = uses(list(range(10_000)))
    np.testing.assert_allclose(np.bincount(use) / len(use), [0.7, 0.1, 0.2], atol=1e-3)
    assert uses([]).shape == (0,)


def test_a_video_is_a_sequence_and_so_are_the_images_of_a_folder(tmp_path: Path) -> None:
    for name in ("1.png", "2.png", "10.png"):
        picture(tmp_path / "cat" / name)
    picture(tmp_path / "dog" / "1.png")
    video(tmp_path / "dog" / "walk.avi", 5)
    frames = find(tmp_path)
    files = np.array([one.file for one in frames])
    assert [frames.files[file].name for file in files[:3]] == ["1.png", "2.png", "10.png"], "in natural order"
    assert frames.sequences(files).tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2]
