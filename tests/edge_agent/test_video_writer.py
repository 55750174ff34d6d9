"""The video: every frame of a file, the pace of a camera; and nothing that goes wrong with it stops the loop."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cachenet.edge_agent.camera import AnsweredFrame
from cachenet.edge_agent.outputs import video_writer as module
from cachenet.edge_agent.outputs.drawing import annotate
from cachenet.edge_agent.outputs.video_writer import VideoSaver
from cachenet.shared.inference.image import Picture
from tests.edge_agent.frames import answered_frame, noise


def flat(frame: int, height: int = 48, width: int = 64) -> AnsweredFrame:
    return answered_frame(frame, picture=np.full((height, width, 3), 10 * frame % 256, np.uint8))


def play(path: Path) -> list[Picture]:
    capture = cv2.VideoCapture(str(path))
    pictures: list[Picture] = []
    while (read := capture.read())[0]:
        pictures.append(read[1])  # type: ignore[arg-type]
    return pictures


def alike(played: Picture, answered: AnsweredFrame) -> bool:
    expected = annotate(answered.picture, answered.lines)
    return played.shape == expected.shape and float(np.abs(played.astype(int) - expected).mean()) < 5


@pytest.mark.parametrize("name", ["a.mp4", "a.AVI"])
def test_every_frame_of_a_file_is_in_the_video_with_its_answer(tmp_path: Path, name: str) -> None:
    saver = VideoSaver(tmp_path / name, live=False, fps=10)
    for frame in range(20):
        saver.on_frame(flat(frame))
    saver.close()
    played = play(tmp_path / name)
    assert len(played) == 20
    assert all(alike(picture, flat(frame)) for frame, picture in enumerate(played))
    assert cv2.VideoCapture(str(tmp_path / name)).get(cv2.CAP_PROP_FPS) == pytest.approx(10)


def brightest(picture: Picture) -> int:
    """The number of the frame that ``timed`` made."""
    return round(float(np.median(picture)) / 10)


def timed(frame: int, seconds: float) -> AnsweredFrame:
    return replace(flat(frame, 96, 128), time=seconds)


def saved(path: Path, times: list[float], fps: float) -> list[int]:
    saver = VideoSaver(path, live=False, fps=fps, file_times=True)
    for frame, seconds in enumerate(times):
        saver.on_frame(timed(frame, seconds))
    saver.close()
    return [brightest(picture) for picture in play(path)]


def test_a_video_lasts_as_long_as_its_source_did(tmp_path: Path) -> None:
    """Each frame is shown until the time of the next."""
    shown = saved(tmp_path / "a.avi", [5.0, 5.1, 5.2, 5.7, 6.0], fps=10)
    assert shown == [0, 1, 2, 2, 2, 2, 2, 3, 3, 3, 4]


def test_a_steady_rate_gives_each_frame_once_however_times_are_rounded(tmp_path: Path) -> None:
    assert saved(tmp_path / "a.avi", [round(number / 30, 3) for number in range(20)], fps=30) == list(range(20))


def test_the_length_is_right_if_frames_come_faster_than_the_video(tmp_path: Path) -> None:
    times = [number / 2 for number in range(5)] + [2 + number / 50 for number in range(1, 400)]
    assert len(saved(tmp_path / "a.avi", times, fps=2)) == pytest.approx(2 * times[-1], abs=4)


def test_of_a_long_gap_a_minute_is_shown(tmp_path: Path) -> None:
    assert len(saved(tmp_path / "a.avi", [0.0, 1.0, 90_000.0, 90_001.0], fps=1)) == pytest.approx(63, abs=1)


@pytest.mark.parametrize("name", [b"10:20:30", b"caf\xe9", b"two\nlines"])
@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_video_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes, suffix: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(os.fsdecode(name) + suffix)
    saver = VideoSaver(path, live=False, fps=10)
    saver.on_frame(flat(1))
    saver.close()
    assert len(play(path.rename(f"plain{suffix}"))) == 1
    assert [left.name for left in tmp_path.iterdir()] == [f"plain{suffix}"]


def test_pictures_of_other_sizes_are_shown_whole_within_the_first_ones(tmp_path: Path) -> None:
    saver = VideoSaver(tmp_path / "a.mp4", live=False)
    for answered in (flat(1), flat(20, 480, 640), flat(20, 640, 40)):
        saver.on_frame(answered)
    saver.close()
    first, wide, tall = play(tmp_path / "a.mp4")
    assert first.shape == wide.shape == tall.shape
    assert tall[10, first.shape[1] // 2].mean() > 150
    assert tall[10, 10].mean() < 40


def test_a_live_video_has_the_pace_that_the_camera_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast frames are dropped, slow ones repeated, and a gap of an hour becomes two seconds."""
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    saver = VideoSaver(tmp_path / "a.mp4", live=True)

    def pass_(seconds: float, per_second: float) -> None:
        nonlocal now
        for _ in range(round(seconds * per_second)):
            saver._write(flat(1))
            now += 1 / per_second

    pass_(2, 60)
    pass_(2, 3)
    now += 3600
    pass_(2, 30)
    saver.close()
    assert len(play(tmp_path / "a.mp4")) == pytest.approx((2 + 2 + 2 + 2) * 15, abs=6)


def test_a_slow_encoder_never_slows_a_live_loop_and_what_it_missed_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    goes_on = threading.Event()

    def slow(*arguments: Any) -> Picture:
        goes_on.wait(10)
        return annotate(*arguments)

    monkeypatch.setattr(module, "annotate", slow)
    saver = VideoSaver(tmp_path / "a.mp4", live=True)
    for frame in range(100):
        saver.on_frame(flat(frame))
    assert 90 <= saver._worker.dropped <= 96
    goes_on.set()
    saver.close()
    (record,) = caplog.records
    assert record.getMessage() == f"saver was too slow and dropped {saver._worker.dropped} frames"
    assert play(tmp_path / "a.mp4")


def test_a_disk_that_fills_up_ends_the_video_which_can_be_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage, asked = shutil.disk_usage(tmp_path), 0

    def filling(_path: Path) -> Any:
        nonlocal asked
        asked += 1
        return usage._replace(free=(64 << 20) if asked <= 5 else 1 << 20)

    monkeypatch.setattr(module.shutil, "disk_usage", filling)
    saver = VideoSaver(tmp_path / "a.mp4", live=False)
    for frame in range(20):
        saver.on_frame(flat(frame))
    saver.close()
    assert len(play(tmp_path / "a.mp4")) == 5
    (record,) = caplog.records
    assert record.getMessage().endswith("a.mp4 ends after 5 frames: the disk has less than 32 MB left")


def test_without_an_encoder_there_is_one_clear_line_and_the_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(module._CODECS, ".mp4", "ZZZZ")
    saver = VideoSaver(tmp_path / "a.mp4", live=False)
    for frame in range(20):
        saver.on_frame(flat(frame))
    saver.close()
    (record,) = caplog.records
    assert "no encoder" in record.getMessage()


def test_an_error_of_one_frame_does_not_block_the_next(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saver = VideoSaver(tmp_path / "a.mp4", live=False)
    for frame in range(20):
        saver.on_frame(answered_frame(frame, picture=noise(48, 64)[:0] if frame == 3 else noise(48, 64)))
    saver.close()
    assert len(play(tmp_path / "a.mp4")) == 19
    assert len(caplog.records) == 1


def test_what_cannot_be_a_video_is_found_out_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.mp4 or \.avi"):
        VideoSaver(tmp_path / "a.gif", live=False)
    with pytest.raises(OSError, match="No such file"):
        VideoSaver(tmp_path / "nowhere" / "a.mp4", live=False)
