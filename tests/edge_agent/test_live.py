"""A camera that is lost comes back. OpenCV's device layer is a recording: what each opening gives, read by read."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from cachenet.edge_agent.sources import Live, SourceError, frozen, live, open_source
from cachenet.edge_agent.sources.devices import Device, network
from cachenet.shared.inference.image import Picture

_BOUND_S = 30.0
#: Reads that return no picture: the end, an error of the driver, and a read that blocks until it is released.
GONE, FAILS, HANGS = "gone", "fails", "hangs"
#: Reads of a camera that stays.
STAYS = [2] * 100_000


class Recorded:
    """Stands in for ``cv2.VideoCapture``. ``openings``: for each in turn its reads, where a number is a picture of that
    brightness; None for one that fails. At the end of its reads it waits for ``more`` or for its end."""

    def __init__(self, *openings: list[int | str] | None) -> None:
        self._openings = iter(openings)
        self.opened = self.released = 0
        self.freed = threading.Event()

    def __call__(self, *_: object) -> _Capture:
        self.opened += 1
        return _Capture(self, next(self._openings, None))


class _Capture:
    def __init__(self, recorded: Recorded, reads: list[int | str] | None) -> None:
        self._recorded, self._released = recorded, reads is None
        self._reads = None if reads is None else iter(reads)

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return self._reads is not None

    def read(self) -> tuple[bool, Picture | None]:
        assert self._reads is not None
        time.sleep(0.01)
        step = next(self._reads, HANGS)
        if step == FAILS:
            raise cv2.error("VIDIOC_DQBUF: No such device")
        if step == HANGS:
            self._recorded.freed.wait(_BOUND_S)
            return True, np.full((4, 4, 3), 255, np.uint8)
        return (False, None) if step == GONE else (True, np.full((4, 4, 3), step, np.uint8))

    def release(self) -> None:
        if not self._released:
            self._released = True
            self._recorded.released += 1


@pytest.fixture(autouse=True)
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SILENCE_S", 0.6)
    monkeypatch.setattr(live, "OPENING_S", 0.6)
    monkeypatch.setattr(live, "_RETRY_S", (0.01, 0.02))


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Live, Recorded]]]:
    """Opens ``camera:0`` on a recording."""
    begun: list[tuple[Live, Recorded]] = []

    def play(*openings: list[int | str] | None) -> tuple[Live, Recorded]:
        recorded = Recorded(*openings)
        monkeypatch.setattr(cv2, "VideoCapture", recorded)
        source = open_source("camera:0")
        assert isinstance(source, Live)
        begun.append((source, recorded))
        return begun[-1]

    yield play
    for source, recorded in begun:
        recorded.freed.set()
        source.close()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + _BOUND_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def next_with(source: Live, brightness: int) -> None:
    """Take pictures until this one; the latest may have replaced others."""
    deadline = time.monotonic() + _BOUND_S
    for shot in source:
        if shot.picture[0, 0, 0] == brightness:
            return
        assert time.monotonic() < deadline
    raise AssertionError("it has ended")


@pytest.mark.parametrize("how", [GONE, FAILS, HANGS])
def test_a_lost_camera_is_opened_again_and_the_loss_is_counted_once(
    play: Callable[..., tuple[Live, Recorded]], caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """However it is lost, and however often it cannot be opened meanwhile."""
    source, recorded = play([1, how], None, None, STAYS)
    next_with(source, 2)
    until(lambda: source.error == "")
    assert (source.losses, recorded.opened) == (1, 4)
    assert "camera 0 is lost" in caplog.text and "camera 0 is back" in caplog.text


def test_a_named_camera_is_named_in_the_log(
    play: Callable[..., tuple[Live, Recorded]], caplog: pytest.LogCaptureFixture
) -> None:
    source, _ = play([1] * 20 + [GONE], STAYS)
    source.rename("door")
    next_with(source, 2)
    until(lambda: source.error == "")
    assert "door (camera 0) is lost" in caplog.text and "door (camera 0) is back" in caplog.text


def test_a_lost_camera_has_an_error_until_it_returns(play: Callable[..., tuple[Live, Recorded]]) -> None:
    source, recorded = play([1, GONE])
    until(lambda: recorded.opened > 5)
    assert source.error == "camera 0 cannot be opened; is it plugged in and free?"
    assert source.losses == 1


def test_a_camera_that_is_lost_again_and_again_is_opened_less_often(
    play: Callable[..., tuple[Live, Recorded]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a plug with a loose contact would fill the log."""
    monkeypatch.setattr(live, "_RETRY_S", (0.01, 60.0))
    begun = time.monotonic()
    source, recorded = play(*[[1, GONE]] * 100)
    until(lambda: recorded.opened == 6)
    assert time.monotonic() - begun > 0.75 * (0.01 + 0.02 + 0.04 + 0.08 + 0.16)
    assert source.losses


def test_an_abandoned_reader_delivers_nothing_and_ends(
    play: Callable[..., tuple[Live, Recorded]],
) -> None:
    source, recorded = play([1, HANGS], STAYS)
    next_with(source, 2)
    recorded.freed.set()
    until(lambda: recorded.released == 1)
    until(lambda: not source._abandoned or not any(reader.alive for reader in source._abandoned))
    observed = {int(shot.picture[0, 0, 0]) for shot, _ in zip(source, range(20), strict=False)}
    assert observed == {2}


def test_reads_that_never_return_do_not_use_up_the_devices_threads_and_sockets(
    play: Callable[..., tuple[Live, Recorded]],
) -> None:
    """Some may hang at a time; then none is begun until one has returned."""
    before = threading.active_count()
    source, recorded = play(*[[1, HANGS]] * 3, STAYS)
    until(lambda: len(source._abandoned) == 3)
    time.sleep(0.2)
    assert recorded.opened == 3
    assert threading.active_count() <= before + 4
    recorded.freed.set()
    until(lambda: recorded.opened > 3)
    next_with(source, 2)


def test_a_camera_that_is_not_there_or_does_not_answer_at_the_start_is_one_clear_line(
    play: Callable[..., tuple[Live, Recorded]],
) -> None:
    with pytest.raises(SourceError, match="camera 0 cannot be opened"):
        play(None)
    never = threading.Event()

    def hangs() -> Any:
        never.wait(_BOUND_S)
        raise SourceError("at last")

    with pytest.raises(SourceError, match="the door does not answer"):
        Live(Device("the door", hangs))
    never.set()


def test_only_the_latest_picture_counts_and_those_before_it_are_counted(
    play: Callable[..., tuple[Live, Recorded]],
) -> None:
    source, _ = play([1, 2, 3, 4, 5])
    until(lambda: source.dropped == 4)
    next_with(source, 5)
    assert source.dropped == 4


def test_the_frame_rate_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred a second ten are, and the others dropped."""
    monkeypatch.setattr(cv2, "VideoCapture", Recorded(STAYS))
    source = open_source("camera:0", fps=10)
    begun = time.monotonic()
    assert len(list(islice(source, 4))) == 4
    assert time.monotonic() - begun >= 0.29
    until(lambda: source.dropped > 3)
    source.close()


@pytest.mark.parametrize("state", ["hangs", "away"])
def test_closing_from_another_thread_ends_it_wherever_it_waits(
    play: Callable[..., tuple[Live, Recorded]], state: str
) -> None:
    source, recorded = play([HANGS] if state == "hangs" else [GONE])
    begun = time.monotonic()
    threading.Timer(0.5 if state == "away" else 0.1, source.close).start()
    assert list(source) == []
    assert time.monotonic() - begun < _BOUND_S / 2
    source._monitor.stop(_BOUND_S)
    time.sleep(0.1)
    opened = recorded.opened
    time.sleep(0.1)
    assert recorded.opened == opened, "nobody tries any more"
    recorded.freed.set()
    until(lambda: recorded.released == (1 if state == "away" else opened))


@pytest.fixture
def soon_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "FROZEN_S", 0.3)


@pytest.mark.usefixtures("soon_frozen")
def test_a_frozen_camera_is_logged_and_still_answered(
    play: Callable[..., tuple[Live, Recorded]], caplog: pytest.LogCaptureFixture
) -> None:
    source, recorded = play([2] * 100 + [3] + [4] * 100_000)
    until(lambda: "the same picture" in source.error)
    next_with(source, 2)
    next_with(source, 4)
    until(lambda: "changes again" in caplog.text)
    assert (source.losses, recorded.opened) == (0, 1)


@pytest.mark.usefixtures("soon_frozen")
def test_a_frozen_camera_counts_as_lost_where_the_settings_say_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, however often it shows the same picture when it is opened again; and it is back with a new picture."""
    recorded = Recorded(STAYS, [2] * 100, [2] * 100, [number % 200 for number in range(100_000)])
    monkeypatch.setattr(cv2, "VideoCapture", recorded)
    source = open_source("camera:0", frozen="lost")
    until(lambda: "is back" in caplog.text)
    assert (source.losses, recorded.opened) == (1, 4)
    assert recorded.released == 3
    until(lambda: source.error == "")
    next_with(source, 150)
    source.close()


@pytest.mark.usefixtures("soon_frozen")
def test_an_equal_picture_before_and_after_a_loss_is_not_frozen(
    play: Callable[..., tuple[Live, Recorded]], caplog: pytest.LogCaptureFixture
) -> None:
    play([2, GONE], *[None] * 30, [2, 3, HANGS])
    until(lambda: "is back" in caplog.text)
    assert "the same picture" not in caplog.text


def test_a_password_is_not_shown() -> None:
    with pytest.raises(SourceError) as refused:
        open_source("rtsp://admin:s3c@ret@127.0.0.1:1/x")
    assert "s3c" not in str(refused.value) and "ret" not in str(refused.value)
    assert network("rtsp://admin:s3cret@door/x").name == "rtsp://door/..."


class Picamera2:
    """What of Picamera2 is used, for two cameras."""

    configured: Any = None

    def __init__(self, number: int) -> None:
        if number > 1:
            raise IndexError("list index out of range")
        self.number, self.closed = number, False

    def create_video_configuration(self, main: dict[str, Any]) -> dict[str, Any]:
        return {"main": main}

    def configure(self, configuration: dict[str, Any]) -> None:
        Picamera2.configured = configuration["main"]

    def start(self) -> None:
        pass

    def capture_array(self, stream: str) -> Picture:
        assert stream == "main"
        time.sleep(0.01)
        return np.full((480, 640, 3), (1, 2, self.number), np.uint8)

    def close(self) -> None:
        self.closed = True


def test_a_camera_of_libcamera_is_read_through_picamera2(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("picamera2")
    module.Picamera2 = Picamera2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "picamera2", module)
    for spec, number in (("picamera", 0), ("picamera:1", 1)):
        source = open_source(spec)
        assert next(iter(source)).picture[0, 0].tolist() == [1, 2, number]
        source.close()
    assert Picamera2.configured == {"format": "RGB888", "size": (640, 480)}, "which is B, G, R in memory"
    with pytest.raises(SourceError, match="picamera 2 cannot be opened; is it connected"):
        open_source("picamera:2")


class _Mjpeg(BaseHTTPRequestHandler):
    """Sends the same picture again and again, as cheap cameras do over HTTP."""

    def do_GET(self) -> None:
        jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 200, np.uint8))[1].tobytes()
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")
                time.sleep(0.02)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("scheme", ["http", "HTTP"])
def test_a_camera_that_sends_mjpeg_over_http_is_one_like_any(scheme: str) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Mjpeg) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        source = open_source(f"{scheme}://127.0.0.1:{server.server_port}/stream.mjpg")
        shots = list(islice(source, 3))
        source.close()
        server.shutdown()
    assert isinstance(source, Live)
    assert [shot.picture.shape for shot in shots] == [(48, 64, 3)] * 3
