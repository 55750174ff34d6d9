"""Video files: every frame that can be decoded, upright, in its shape, with its time; whatever the file's name is."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from cachenet.shared.media.video import BadVideo, Video
from tests.descriptors import descriptors
from tests.videos import SIZE, clip, damage, space, turn, unit

CASES = Path(__file__).parents[3] / "shared" / "cases" / "video"


def played(path: Path, every: int = 1) -> tuple[list[int], list[float], Video]:
    """The numbers of the frames, by their brightness, and their times."""
    video = Video(path)
    frames = list(video.frames(every))
    return [round(float(frame.picture.mean()) / 10) for frame in frames], [frame.time for frame in frames], video


def test_damaged_frames_are_counted_and_later_frames_are_read(tmp_path: Path) -> None:
    numbers, times, video = played(damage(clip(tmp_path / "a.mp4"), (5, 6, 12)))
    assert len(numbers) == 17
    assert numbers[:5] == [0, 1, 2, 3, 4]
    assert numbers[-1] == 19
    assert video.broken == 3
    assert video.remarks() == ["3 frames are damaged or missing"]
    assert times[-1] == pytest.approx(1.9)


def test_a_complete_video_has_no_remarks(tmp_path: Path) -> None:
    numbers, times, video = played(clip(tmp_path / "a.avi"))
    assert numbers == list(range(20))
    np.testing.assert_allclose(times, np.arange(20) / 10, atol=1e-3)
    assert (video.broken, video.remarks(), video.fps) == (0, [], 10.0)


def test_a_long_run_of_damaged_frames_does_not_end_the_video(tmp_path: Path) -> None:
    numbers, _, video = played(damage(clip(tmp_path / "a.mp4", 200), range(20, 180)))
    assert (len(numbers), video.broken) == (40, 160)


def test_frames_that_are_missing_at_the_end_are_counted(tmp_path: Path) -> None:
    """A copy that was interrupted: an AVI names its number of frames at its beginning."""
    path = clip(tmp_path / "a.avi", 40)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    numbers, _, video = played(path)
    assert numbers == list(range(len(numbers)))
    assert abs(len(numbers) + video.broken - 40) <= 1
    assert video.broken >= 15


def test_damaged_frames_do_not_shift_every_nth_frame(tmp_path: Path) -> None:
    numbers, _, video = played(damage(clip(tmp_path / "a.mp4"), (4, 5)), every=3)
    assert numbers == [0, 3, 6, 9, 12, 15, 18]
    assert video.broken == 2


NAMES = [b"2026-11-28T10:20:30", b"caf\xe9", b"two\nlines", b"\x1b[31mred", b"rtsp:", b"%03d", b"a b'\"?*", b"-v"]


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
@pytest.mark.parametrize("name", NAMES)
def test_a_video_of_any_file_name_is_read(tmp_path: Path, name: bytes, suffix: str) -> None:
    plain = clip(tmp_path / f"plain{suffix}")
    path = plain.rename(tmp_path / (os.fsdecode(name) + suffix))
    numbers, times, _ = played(path)
    assert numbers == list(range(20))
    assert times[-1] == pytest.approx(1.9)


def test_a_relative_name_with_a_colon_is_read_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip(tmp_path / "a.mp4").rename(tmp_path / "10:20.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(played(Path("10:20.mp4"))[0]) == 20


def test_a_rotated_video_is_upright(tmp_path: Path) -> None:
    (frame, *_) = Video(turn(clip(tmp_path / "a.mp4"))).frames()
    assert frame.picture.shape == (SIZE[0], SIZE[1], 3)


def test_frames_of_a_varying_rate_have_the_times_of_the_file(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", 8)
    space(path, [unit(path) * tenths // 10 for tenths in (1, 1, 1, 1, 5, 5, 20, 1)])
    _, times, video = played(path)
    np.testing.assert_allclose(times, [0, 0.1, 0.2, 0.3, 0.4, 0.9, 1.4, 3.4], atol=1e-3)
    assert video.fps == pytest.approx(10)
    assert video.broken == 0


def test_a_changing_picture_size_is_delivered_and_remarked(tmp_path: Path) -> None:
    """OpenCV scales every frame to the size of the first."""
    sizes = [(48, 64)] * 10 + [(96, 40)] * 10 + [(48, 64)] * 5
    jpegs = [cv2.imencode(".jpg", np.full((*size, 3), 90, np.uint8))[1].tobytes() for size in sizes]
    (tmp_path / "a.mjpeg").write_bytes(b"".join(jpegs))
    video = Video(tmp_path / "a.mjpeg")
    assert [frame.picture.shape[:2] for frame in video.frames()] == sizes
    (remark,) = video.remarks()
    assert "10 frames are of 40x96" in remark


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the case files beside the checkout")
def test_times_increase_and_sizes_are_correct_in_joined_recordings() -> None:
    frames = list(Video(CASES / "reschange.ts").frames())
    assert [frame.picture.shape[:2] for frame in frames] == [(240, 320)] * 20 + [(480, 640)] * 20 + [(320, 240)] * 20
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(60) / 10, atol=1e-3)


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the case files beside the checkout")
def test_a_damaged_h264_video_is_read_to_its_end() -> None:
    video = Video(CASES / "corrupt.mp4")
    frames = list(video.frames())
    assert (len(frames), video.broken) == (38, 2)
    assert frames[-1].time == pytest.approx(3.9)


def test_other_files_are_refused_with_a_reason_and_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadVideo, match="no video that OpenCV can read"):
        Video(tmp_path / "text.mp4")
    with pytest.raises(BadVideo, match="empty"):
        Video(tmp_path / "empty.mp4")
    with pytest.raises(OSError, match="FIFO"):
        Video(tmp_path / "fifo.mp4")
    with pytest.raises(OSError, match="link to a file that is not there"):
        Video(tmp_path / "link.mp4")


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4")
    list(Video(path).frames())
    before = descriptors()
    for _ in range(3):
        list(Video(path).frames())
        next(video := Video(path).frames())
        video.close()
    assert descriptors() == before
