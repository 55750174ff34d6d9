"""The video: every frame of a file, the pace of a camera; and nothing that goes wrong with it stops the loop."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_agent import saver as module
from edge_agent.camera import Answered
from edge_agent.drawing import annotate
from edge_agent.saver import Saver
from shared.image import Picture
from tests.edge_agent.sights import noise, seen


def flat(frame: int, height: int = 48, width: int = 64) -> Answered:
    return seen(frame, picture=np.full((height, width, 3), 10 * frame % 256, np.uint8))


def play(path: Path) -> list[Picture]:
    capture = cv2.VideoCapture(str(path))
    pictures: list[Picture] = []
    while (read := capture.read())[0]:
        pictures.append(read[1])  # type: ignore[arg-type]
    return pictures


def alike(played: Picture, answered: Answered) -> bool:
    wanted = annotate(answered.picture, answered.line)
    return played.shape == wanted.shape and float(np.abs(played.astype(int) - wanted).mean()) < 5


@pytest.mark.parametrize("name", ["a.mp4", "a.AVI"])
def test_every_frame_of_a_file_is_in_the_video_with_its_answer(tmp_path: Path, name: str) -> None:
    saver = Saver(tmp_path / name, live=False, fps=10)
    for frame in range(20):
        saver.show(flat(frame))
    saver.close()
    played = play(tmp_path / name)
    assert len(played) == 20
    assert all(alike(picture, flat(frame)) for frame, picture in enumerate(played))
    assert cv2.VideoCapture(str(tmp_path / name)).get(cv2.CAP_PROP_FPS) == pytest.approx(10)


def test_pictures_of_other_sizes_are_shown_whole_within_the_first_ones(tmp_path: Path) -> None:
    saver = Saver(tmp_path / "a.mp4", live=False)
    for answered in (flat(1), flat(20, 480, 640), flat(20, 640, 40)):
        saver.show(answered)
    saver.close()
    first, wide, tall = play(tmp_path / "a.mp4")
    assert first.shape == wide.shape == tall.shape
    assert tall[10, first.shape[1] // 2].mean() > 150
    assert tall[10, 10].mean() < 40


def test_a_live_video_has_the_pace_that_the_camera_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faster than the video, frames are left out; slower, they stand; of an hour without any two seconds are kept."""
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    saver = Saver(tmp_path / "a.mp4", live=True)

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
    saver = Saver(tmp_path / "a.mp4", live=True)
    for frame in range(100):
        saver.show(flat(frame))
    assert 90 <= saver._aside.left_out <= 96
    goes_on.set()
    saver.close()
    (record,) = caplog.records
    assert record.getMessage() == f"saver was too slow for {saver._aside.left_out} frames, and left them out"
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
    saver = Saver(tmp_path / "a.mp4", live=False)
    for frame in range(20):
        saver.show(flat(frame))
    saver.close()
    assert len(play(tmp_path / "a.mp4")) == 5
    (record,) = caplog.records
    assert record.getMessage().endswith("a.mp4 ends after 5 frames: the disk has less than 32 MB left")


def test_without_an_encoder_there_is_one_clear_line_and_the_loop_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(module._CODECS, ".mp4", "ZZZZ")
    saver = Saver(tmp_path / "a.mp4", live=False)
    for frame in range(20):
        saver.show(flat(frame))
    saver.close()
    (record,) = caplog.records
    assert "no encoder" in record.getMessage()


def test_what_goes_wrong_with_one_frame_does_not_block_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saver = Saver(tmp_path / "a.mp4", live=False)
    for frame in range(20):
        saver.show(seen(frame, picture=noise(48, 64)[:0] if frame == 3 else noise(48, 64)))
    saver.close()
    assert len(play(tmp_path / "a.mp4")) == 19
    assert len(caplog.records) == 1


def test_what_cannot_be_a_video_is_found_out_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.mp4 or \.avi"):
        Saver(tmp_path / "a.gif", live=False)
    with pytest.raises(OSError, match="No such file"):
        Saver(tmp_path / "nowhere" / "a.mp4", live=False)
