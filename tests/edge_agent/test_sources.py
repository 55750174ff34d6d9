from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from cachenet.edge_agent.sources import Source, SourceError, open_source
from cachenet.shared.media import recording as stream
from cachenet.shared.media.pictures import SUFFIXES
from tests.videos import clip, damage

_BOUND_S = 30.0
KNOWN = "JPEG, PNG, WebP nor AVIF" if ".avif" in SUFFIXES else "JPEG, PNG nor WebP"


def picture(brightness: int, side: int = 48) -> np.ndarray:
    return np.full((side, side, 3), brightness, np.uint8)


def brightnesses(source: Source) -> list[int]:
    return [round(float(shot.picture.mean())) for shot in source]


def test_a_directory_plays_its_pictures_by_name_and_skips_and_counts_broken_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, brightness in (("b.png", 20), ("a.jpg", 10), ("c.JPEG", 30)):
        cv2.imwrite(str(tmp_path / name), picture(brightness))
    (tmp_path / "aa.png").write_bytes(b"no picture")
    (tmp_path / "bb.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-20])
    (tmp_path / "d.png").mkdir()
    (tmp_path / "notes.txt").write_text("not looked at")
    source = open_source(str(tmp_path))
    assert brightnesses(source) == [10, 20, 30]
    assert (source.broken, source.dropped) == (3, 0)
    output = {record.getMessage() for record in caplog.records}
    assert output == {
        f"{tmp_path}/aa.png is skipped: neither {KNOWN}; it begins with b'no picture'",
        f"{tmp_path}/bb.jpg is skipped: JPEG is truncated",
        f"{tmp_path}/d.png is skipped: a directory, no file",
    }


def test_numbered_pictures_are_played_in_natural_order(tmp_path: Path) -> None:
    for number in (0, 1, 2, 9, 10, 11, 100):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), picture(number))
    assert brightnesses(open_source(str(tmp_path))) == [0, 1, 2, 9, 10, 11, 100]


def test_webp_and_what_else_opencv_decodes_is_played_and_hidden_files_are_not(tmp_path: Path) -> None:
    for number, suffix in enumerate(sorted(SUFFIXES)):
        data = cv2.imencode(".jpg" if suffix == ".jfif" else suffix, picture(10 * number))[1]
        (tmp_path / f"{number}{suffix}").write_bytes(data.tobytes())
    (tmp_path / "._0.jpg").write_bytes(b"of a Macintosh")
    source = open_source(str(tmp_path))
    np.testing.assert_allclose(brightnesses(source), [10 * number for number in range(len(SUFFIXES))], atol=2)
    assert source.broken == 0


def test_a_picture_of_an_unsupported_format_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), picture(50))
    cv2.imwrite(str(tmp_path / "b.bmp"), picture(50))
    source = open_source(str(tmp_path))
    assert (len(list(source)), source.broken) == (1, 1)
    assert f"b.bmp is skipped: neither {KNOWN}" in caplog.text


def test_a_picture_alone_is_a_source(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), picture(50))
    assert brightnesses(open_source(str(tmp_path / "a.jpg"))) == [50]


def test_of_many_broken_files_some_are_named_and_all_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(25):
        (tmp_path / f"{number}.png").write_bytes(b"x")
    source = open_source(str(tmp_path))
    assert (list(source), source.broken) == ([], 25)
    output = [record.getMessage() for record in caplog.records]
    assert len(output) == 11
    assert output[-1] == "15 more files were skipped"


def test_a_damaged_video_is_read_to_its_end_and_logged_once_with_name_and_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9\n.mp4")
    damage(clip(tmp_path / "a.mp4"), (5, 6)).rename(path)
    source = open_source(str(path))
    assert [round(brightness / 10) for brightness in brightnesses(source)][-1] == 19
    assert source.broken == 2
    (record,) = caplog.records
    assert record.getMessage() == f"{tmp_path}/caf\\xe9\\n.mp4: 2 frames are damaged or missing"


def test_frames_have_the_times_of_their_file(tmp_path: Path) -> None:
    source = open_source(str(clip(tmp_path / "a.avi", 5, fps=4)))
    assert [shot.time for shot in source] == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    assert source.fps == 4.0
    recorded = open_source(str(recording(tmp_path / "made", None)))
    assert [shot.time for shot in recorded] == pytest.approx([0, 0.1, 0.2])
    assert recorded.fps == 10.0


def recording(directory: Path, truth: tuple[int, ...] | None) -> Path:
    described = stream.Recording(
        name="made", seed=1, frames=3, fps=10.0, labels=("cat", "dog"), truth=truth, files="%06d.png"
    )
    stream.write(directory, described, [picture(10 * i) for i in range(3)])
    return directory


def test_a_recorded_stream_knows_the_truth(tmp_path: Path) -> None:
    source = open_source(str(recording(tmp_path, (1, 0, 1))))
    assert [shot.truth for shot in source] == ["dog", "cat", "dog"]


def test_a_recorded_stream_without_truth_plays_all_the_same(tmp_path: Path) -> None:
    assert [shot.truth for shot in open_source(str(recording(tmp_path, None)))] == [None] * 3


def test_a_broken_picture_of_a_stream_does_not_shift_the_truth_of_the_next(tmp_path: Path) -> None:
    (recording(tmp_path, (1, 0, 1)) / "000000.png").write_bytes(b"x")
    source = open_source(str(tmp_path))
    assert [shot.truth for shot in source] == ["cat", "dog"]
    assert source.broken == 1


def test_a_video_file_plays_every_frame(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
    for brightness in range(0, 200, 10):
        writer.write(np.full((48, 64, 3), brightness, np.uint8))
    writer.release()
    source = open_source(str(path))
    observed = brightnesses(source)
    source.close()
    np.testing.assert_allclose(observed, range(0, 200, 10), atol=3)


@pytest.mark.parametrize("kind", ["files", "video"])
def test_closing_from_another_thread_ends_a_paced_source(tmp_path: Path, kind: str) -> None:
    """Even between two frames that are a minute apart."""
    if kind == "files":
        where = recording(tmp_path, None)
    else:
        where = tmp_path / "clip.avi"
        writer = cv2.VideoWriter(str(where), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
        for _ in range(3):
            writer.write(np.zeros((48, 64, 3), np.uint8))
        writer.release()
    source = open_source(str(where), fps=1 / 60)
    begun = time.monotonic()
    threading.Timer(0.2, source.close).start()
    assert len(list(source)) == 1
    assert time.monotonic() - begun < _BOUND_S


def test_closing_ends_a_directory_of_nothing_but_broken_files(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(b"x")
    source = open_source(str(tmp_path))
    source.close()
    assert list(source) == []
    assert source.broken == 0


def test_a_file_is_paced_and_a_slow_reader_is_not_hurried_afterwards(tmp_path: Path) -> None:
    source = iter(open_source(str(recording(tmp_path, None)), fps=20))
    next(source)
    time.sleep(0.3)
    next(source)
    begun = time.monotonic()
    next(source)
    assert time.monotonic() - begun > 0.03


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("camera:", "camera:0"),
        ("camera:front", "camera:0"),
        ("camera:-1", "camera:0"),
        ("camera:²", "camera:0"),
        ("camera:99", "cannot be opened"),
        ("camera:/dev/nothing", "cannot be opened"),
        ("picamera", "python3-picamera2"),
        ("picamera:x", "picamera:0"),
        ("pipe:", "pipe:640x480"),
        ("pipe:640", "pipe:640x480"),
        ("pipe:0x480", "pipe:640x480"),
        ("pipe:99999x480", "pipe:640x480"),
        ("pipe:640x480:yuyv422", "choose one of yuv420p, nv12, bgr24, rgb24, gray"),
        ("pipe:641x480", "even"),
        ("rtsp://127.0.0.1:1/x", "cannot be opened"),
        ("nowhere.mp4", "no file"),
        ("ftp://example.org", "no file"),
        ("{tmp}/text.txt", "no video"),
        ("{tmp}/empty", "no pictures"),
        ("{tmp}/fifo", "no file"),
        ("{tmp}/damaged", "stream.json"),
    ],
)
def test_what_cannot_be_played_is_one_clear_line(tmp_path: Path, spec: str, reason: str) -> None:
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/stream.json").write_text("{")
    with pytest.raises(SourceError) as refused:
        open_source(spec.format(tmp=tmp_path))
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


class MotionJpeg(BaseHTTPRequestHandler):
    """A network camera of 200 frames a second."""

    def do_GET(self) -> None:
        jpeg = cv2.imencode(".jpg", picture(90))[1].tobytes()
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        try:
            while True:
                head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")
                time.sleep(0.005)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


def test_a_program_ends_cleanly_while_its_camera_delivers_frames() -> None:
    """A read that returned while the interpreter ended would abort it."""
    camera = ThreadingHTTPServer(("127.0.0.1", 0), MotionJpeg)
    camera.daemon_threads = True
    threading.Thread(target=camera.serve_forever, daemon=True).start()
    program = (
        "import sys\nfrom cachenet.edge_agent.sources import Live\n"
        "from cachenet.edge_agent.sources.devices import network\n"
        "source = Live(network(sys.argv[1]))\n"
        "for i, shot in enumerate(source):\n    if i == 5: break\nsource.close(); print(i)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, f"http://127.0.0.1:{camera.server_port}/camera.mjpg"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    camera.shutdown()
    assert (ended.returncode, ended.stdout) == (0, "5\n"), ended.stderr
