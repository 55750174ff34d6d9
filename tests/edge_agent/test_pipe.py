"""Raw pictures on standard input."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from cachenet.edge_agent.sources import Pipe, SourceError, frozen
from cachenet.edge_agent.sources.pipe import FORMATS

_BOUND_S = 30.0
WIDTH, HEIGHT = 64, 48


def scene() -> np.ndarray:
    """A picture with a colour of its own in every quarter, so that no mistake of order or planes stays unseen."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[: HEIGHT // 2, : WIDTH // 2] = (200, 40, 30)
    picture[: HEIGHT // 2, WIDTH // 2 :] = (30, 180, 60)
    picture[HEIGHT // 2 :, : WIDTH // 2] = (40, 50, 220)
    picture[HEIGHT // 2 :, WIDTH // 2 :] = (120, 120, 120)
    return picture


def raw(picture: np.ndarray, form: str) -> bytes:
    """As FFmpeg lays it out in that pixel format."""
    if form == "bgr24":
        return picture.tobytes()
    if form == "rgb24":
        return picture[:, :, ::-1].tobytes()
    if form == "gray":
        return cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).tobytes()
    planes = cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420)
    if form == "yuv420p":
        return planes.tobytes()
    chroma = planes[HEIGHT:].reshape(2, -1)
    return planes[:HEIGHT].tobytes() + np.stack(list(chroma), axis=1).tobytes()


@pytest.mark.parametrize("form", FORMATS)
def test_a_picture_comes_out_as_it_went_in(form: str) -> None:
    reading, writing = os.pipe()
    pipe = Pipe(f"{WIDTH}x{HEIGHT}:{form}", fd=reading)
    with os.fdopen(writing, "wb") as writer:
        writer.write(raw(scene(), form))
    (shot,) = list(pipe)
    expected = (
        scene() if form != "gray" else cv2.cvtColor(cv2.cvtColor(scene(), cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    )
    assert shot.picture.shape == (HEIGHT, WIDTH, 3)
    inside = np.abs(shot.picture.astype(int) - expected)[2:-2, 2:-2]
    assert np.median(inside) <= 2 and np.percentile(inside, 90) <= 4
    assert pipe.broken == 0
    os.close(reading)


def test_only_the_latest_picture_counts_and_a_truncated_last_one_is_broken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reading, writing = os.pipe()
    pipe = Pipe("4x4:gray", fd=reading)
    os.write(writing, b"".join(bytes([value]) * 16 for value in range(100)))
    deadline = time.monotonic() + _BOUND_S
    while pipe.dropped < 99:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    shots = iter(pipe)
    assert next(shots).picture.mean() == 99
    os.write(writing, bytes([100]) * 16 + bytes([101]) * 7)
    assert next(shots).picture.mean() == 100
    os.close(writing)
    assert list(shots) == []
    assert (pipe.dropped, pipe.broken) == (99, 1)
    assert "7 of 16 bytes" in caplog.text
    os.close(reading)


def test_closing_from_another_thread_ends_the_pipe_while_the_writer_is_silent() -> None:
    reading, writing = os.pipe()
    pipe = Pipe("640x480", fd=reading)
    begun = time.monotonic()
    threading.Timer(0.1, pipe.close).start()
    assert list(pipe) == []
    assert time.monotonic() - begun < _BOUND_S / 2
    pipe._thread.join(_BOUND_S)
    assert not pipe._thread.is_alive()
    assert pipe.broken == 0
    os.close(writing)
    os.close(reading)


def test_a_terminal_is_no_pipe() -> None:
    terminal, own_end = os.openpty()
    with pytest.raises(SourceError, match=r"which is a terminal; pipe them in, as in: rpicam-vid .* pipe:640x480$"):
        Pipe("640x480", fd=own_end)
    os.close(own_end)
    os.close(terminal)


def test_what_cannot_be_read_ends_it_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    assert list(Pipe("4x4", fd=directory)) == []
    assert "standard input cannot be read" in caplog.text
    os.close(directory)


def test_a_writer_that_repeats_one_picture_is_frozen(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(frozen, "FROZEN_S", 0.2)
    out, into = os.pipe()
    source = Pipe(f"{WIDTH}x{HEIGHT}:bgr24", fd=out)
    deadline = time.monotonic() + _BOUND_S
    while not source.error and time.monotonic() < deadline:
        os.write(into, scene().tobytes())
        time.sleep(0.02)
    assert "the same picture" in source.error
    os.write(into, np.zeros((HEIGHT, WIDTH, 3), np.uint8).tobytes())
    while source.error and time.monotonic() < deadline:
        time.sleep(0.01)
    assert source.error == ""
    assert "standard input: its picture changes again" in caplog.text
    os.close(into)
    source.close()
    os.close(out)
