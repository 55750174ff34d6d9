"""The preview: what readers get, and that the loop does not feel them."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from cachenet.edge_agent.camera import AnsweredFrame
from cachenet.edge_agent.explain import text
from cachenet.edge_agent.explain.explanation import explain
from cachenet.edge_agent.explain.record import FrameRecord
from cachenet.edge_agent.outputs import preview as module
from cachenet.edge_agent.outputs.drawing import annotate
from cachenet.edge_agent.outputs.preview import Preview
from cachenet.edge_agent.outputs.report import AnswerLine, View
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.zones import Zone
from cachenet.shared.cascade.decision import Decision
from cachenet.shared.cascade.types import Answer
from cachenet.shared.inference.image import Picture
from cachenet.shared.media.pictures import decode
from tests.edge_agent.frames import answered_frame, detected_frame, noise, tracked

_TIMEOUT_S = 10.0


@pytest.fixture
def preview() -> Preview:
    return Preview("porch <pi>", {"": View()})


@pytest.fixture
def port(preview: Preview) -> Iterator[int]:
    with preview.serve("127.0.0.1", 0) as port:
        yield port


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The frames that were drawn."""
    drawn: list[int] = []

    def counted(picture: Picture, lines: Sequence[AnswerLine], view: View) -> Picture:
        drawn.append(lines[0].frame)
        return annotate(picture, lines, view)

    monkeypatch.setattr(module, "annotate", counted)
    return drawn


def get(port: int, path: str) -> tuple[str, bytes]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=_TIMEOUT_S) as answer:
        return answer.headers["Content-Type"], answer.read()


def refused(port: int, path: str) -> int:
    with pytest.raises(urllib.error.HTTPError) as error:
        get(port, path)
    error.value.close()
    return error.value.code


class Reader:
    """Reads the stream, frame by frame."""

    def __init__(self, port: int, path: str = "/stream.mjpg") -> None:
        self._answer = urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=_TIMEOUT_S)
        assert self._answer.readline() == b"--frame\r\n"

    def picture(self) -> np.ndarray:
        assert self._answer.readline() == b"Content-Type: image/jpeg\r\n"
        length = int(self._answer.readline().removeprefix(b"Content-Length: "))
        assert self._answer.readline() == b"\r\n"
        data = self._answer.read(length)
        assert self._answer.readline() == b"\r\n"
        assert self._answer.readline() == b"--frame\r\n"
        return decode(data)

    def rest(self) -> bytes:
        return bytes(self._answer.read())

    def close(self) -> None:
        self._answer.close()


@pytest.fixture
def reader(port: int) -> Iterator[Callable[..., Reader]]:
    opened: list[Reader] = []

    def open_(path: str = "/stream.mjpg") -> Reader:
        opened.append(Reader(port, path))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


def shows(picture: np.ndarray, answered: AnsweredFrame) -> bool:
    """Whether ``picture`` is that frame, annotated, as well as JPEG can."""
    expected = annotate(answered.picture, answered.lines)
    return picture.shape == expected.shape and float(np.abs(picture.astype(int) - expected).mean()) < 4


def flat(frame: int) -> AnsweredFrame:
    return answered_frame(frame, picture=np.full((48, 64, 3), 10 * frame % 256, np.uint8))


def test_nothing_is_drawn_without_a_reader(preview: Preview, port: int, drawings: list[int]) -> None:
    for frame in range(100):
        preview.on_frame(flat(frame))
    get(port, "/")
    assert drawings == []
    get(port, "/snapshot.jpg")
    assert drawings == [99], "the latest, when somebody does"


def test_a_snapshot_is_the_latest_frame_annotated(preview: Preview, port: int) -> None:
    for frame in (1, 5):
        time.sleep(0.15)  # one that is a tenth of a second old is new enough
        preview.on_frame(flat(frame))
        kind, data = get(port, "/snapshot.jpg")
        assert kind == "image/jpeg"
        assert shows(decode(data), flat(frame)), "and none that was drawn before"


def test_a_snapshot_of_a_detector_has_boxes_and_zones() -> None:
    view = View(zones=(Zone("gate", ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9))),))
    answered = detected_frame([tracked(1, (0.2, 0.2, 0.3, 0.3))], view=view, picture=np.zeros((480, 640, 3), np.uint8))
    preview = Preview("pi", {"": view})
    with preview.serve("127.0.0.1", 0) as port:
        preview.on_frame(answered)
        picture = decode(get(port, "/snapshot.jpg")[1])
    expected = annotate(answered.picture, answered.lines, view)
    assert float(np.abs(picture.astype(int) - expected).mean()) < 4
    assert picture[200, 128].max() > 150, "the left edge of the box"


def test_a_frame_is_shown_when_all_zones_are_answered(preview: Preview, port: int) -> None:
    preview.on_frame(flat(1))
    preview.on_frame(replace(flat(2), lines=()))  # the first zone of the next frame
    assert shows(decode(get(port, "/snapshot.jpg")[1]), flat(1))


def test_the_stream_continues_with_the_latest_frame_and_skips_others(
    preview: Preview, reader: Callable[..., Reader], drawings: list[int]
) -> None:
    preview.on_frame(flat(1))
    one = reader()
    assert shows(one.picture(), flat(1))
    begun = time.monotonic()
    for frame in range(2, 22):
        preview.on_frame(flat(frame))
        time.sleep(0.01)
    while not shows(one.picture(), flat(21)):
        assert time.monotonic() < begun + _TIMEOUT_S
    assert len(drawings) <= 2 + (time.monotonic() - begun) / 0.1


def test_many_readers_cost_no_more_drawing_than_one(
    preview: Preview, reader: Callable[..., Reader], drawings: list[int]
) -> None:
    preview.on_frame(flat(1))
    readers = [reader() for _ in range(8)]
    for one in readers:
        assert shows(one.picture(), flat(1))
    preview.on_frame(flat(2))
    for one in readers:
        assert shows(one.picture(), flat(2))
    assert drawings == [1, 2]


def test_who_does_not_read_holds_up_neither_the_loop_nor_another(
    preview: Preview, port: int, reader: Callable[..., Reader]
) -> None:
    """Its pictures are large and do not compress, so that they fill whatever lies between."""
    preview.on_frame(answered_frame(picture=noise(720, 1280)))
    with socket.create_connection(("127.0.0.1", port)) as hanging_model:
        hanging_model.sendall(b"GET /stream.mjpg HTTP/1.0\r\n\r\n")
        other = reader()
        stopped = threading.Event()
        longest = 0.0

        def loop() -> None:
            nonlocal longest
            frame = 1
            while not stopped.wait(0.01):
                begun = time.monotonic()
                preview.on_frame(answered_frame(frame, picture=noise(720, 1280, frame % 3)))
                longest = max(longest, time.monotonic() - begun)
                frame += 1

        thread = threading.Thread(target=loop)
        thread.start()
        for _ in range(10):
            other.picture()
        stopped.set()
        thread.join()
        assert longest < 5.0, "not as long as it takes until who does not read is let go"


def test_the_page_shows_every_camera_and_what_colours_mean() -> None:
    preview = Preview("porch <pi>", {"yard": View(), "gate&co": View()})
    with preview.serve("127.0.0.1", 0) as port:
        kind, data = get(port, "/")
        assert kind == "text/html; charset=utf-8"
        page = data.decode()
        assert "porch &lt;pi&gt;" in page
        assert 'src="/stream.mjpg?camera=yard"' in page
        assert 'src="/stream.mjpg?camera=gate%26co"' in page
        assert "gate&amp;co" in page
        assert "fallback" in page
        preview.on_frame(answered_frame(camera="yard", picture=flat(3).picture))
        preview.on_frame(answered_frame(camera="gate&co", picture=flat(9).picture))
        for camera, frame in (("yard", 3), ("gate%26co", 9)):
            picture = decode(get(port, f"/snapshot.jpg?camera={camera}")[1])
            assert shows(picture, answered_frame(picture=flat(frame).picture))
        assert refused(port, "/snapshot.jpg?camera=cellar") == 404


def test_the_age_of_a_picture_can_be_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    preview = Preview("pi", {"yard": View(), "gate": View()})
    with preview.serve("127.0.0.1", 0) as port:
        preview.on_frame(answered_frame(camera="yard"))
        came = time.monotonic()
        monkeypatch.setattr(module.time, "monotonic", lambda: came + 12)
        kind, data = get(port, "/state.json")
        monkeypatch.undo()
    assert kind == "application/json"
    assert json.loads(data) == {"yard": pytest.approx(12, abs=1), "gate": None}


def test_more_cameras_than_a_browser_has_connections_for_are_still_pictures() -> None:
    """And a page of its own for each, which moves."""
    preview = Preview("farm", {f"c{number}": View() for number in range(8)})
    with preview.serve("127.0.0.1", 0) as port:
        page = get(port, "/")[1].decode()
        assert page.count("snapshot.jpg?camera=") == 8
        assert "stream.mjpg" not in page
        assert 'href="/?camera=c5"' in page
        assert get(port, "/?camera=c5")[1].decode().count("stream.mjpg?camera=c5") == 1


def test_an_unknown_page_or_camera_is_not_found(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(port, "/favicon.ico") == 404
    monkeypatch.setattr(module.Screen.jpeg, "__defaults__", (0.01,))
    assert refused(port, "/snapshot.jpg") == refused(port, "/stream.mjpg") == 503


def test_readers_are_bounded_and_who_leaves_makes_room(
    preview: Preview, port: int, reader: Callable[..., Reader]
) -> None:
    preview.on_frame(flat(0))
    readers = [reader() for _ in range(16)]
    for one in readers:
        one.picture()
    assert refused(port, "/stream.mjpg") == 503
    readers[0].close()
    deadline = time.monotonic() + _TIMEOUT_S
    frame = 1
    while True:
        preview.on_frame(flat(frame))
        frame += 1
        try:
            reader().picture()
            break
        except urllib.error.HTTPError as error:
            error.close()
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_when_the_run_ends_so_do_the_streams(preview: Preview) -> None:
    with preview.serve("127.0.0.1", 0) as port:
        preview.on_frame(flat(0))
        one = Reader(port)
        one.picture()
    assert one.rest() == b""
    one.close()
    with preview.serve("127.0.0.1", port):
        pass


@pytest.mark.parametrize("path", ["/", "/snapshot.jpg", "/stream.mjpg", "/state.json"])
def test_a_page_of_another_site_cannot_read_the_preview_by_its_own_name(preview: Preview, port: int, path: str) -> None:
    preview.on_frame(flat(0))
    for host, status in (("evil.example", b"421"), (f"127.0.0.1:{port}", b"200"), (f"localhost:{port}", b"200")):
        with socket.create_connection(("127.0.0.1", port), _TIMEOUT_S) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            output = client.recv(65536)
            assert output.split()[1] == status, output
            while status == b"421" and (more := client.recv(65536)):
                output += more
            assert status == b"200" or b"localhost" in output, "the message names the accepted hosts"


def test_idle_connections_block_no_reader(preview: Preview, port: int) -> None:
    preview.on_frame(flat(3))
    idle = [socket.create_connection(("127.0.0.1", port), _TIMEOUT_S) for _ in range(100)]
    try:
        assert shows(decode(get(port, "/snapshot.jpg")[1]), flat(3))
    finally:
        for client in idle:
            client.close()


def test_the_decision_of_the_newest_frame_of_each_zone_is_explained(preview: Preview, port: int) -> None:
    assert get(port, "/why.txt") == ("text/plain; charset=utf-8", b"")
    answered = answered_frame(3)
    answer = Answer(3, 0, 0.98, 0.02, "base", "base")
    record = FrameRecord(answer, Decision(0.04, ()), ("cat",), Settings(device="pi"), True)
    preview.on_frame(replace(answered, record=record))
    _, shown = get(port, "/why.txt")
    assert shown.decode() == text.of_frame(explain(record)) and "by base: cat" in shown.decode()
    inside = replace(answered, line=msgspec.structs.replace(answered.line, zone="gate"), lines=(), record=record)
    preview.on_frame(inside)
    assert "gate: Frame 3." in get(port, "/why.txt")[1].decode()
    assert b'<details data-why="/why.txt"><summary>' in get(port, "/")[1]
    assert refused(port, "/why.txt?camera=other") == 404
