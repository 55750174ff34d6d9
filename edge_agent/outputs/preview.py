"""The preview: a page that shows what each camera sees and what was answered, for a browser.

Nothing is drawn while nobody looks. Who looks gets the latest frame, at most so many a second, drawn once for all; a
slow reader misses frames and holds up nobody: pictures are drawn and sent by the readers' threads, the hot loop only
leaves its last one. A reader that takes nothing for ten seconds is let go. The stream is what cameras with a web page
send: JPEG after JPEG as ``multipart/x-mixed-replace``.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

import cv2

from cachenet.edge_agent.camera import Answered
from cachenet.edge_agent.outputs.drawing import annotate
from cachenet.edge_agent.outputs.page import page
from cachenet.shared.command.http_server import Handler, HttpServer, is_own, own_names
from cachenet.shared.inference.image import Region

#: Seconds between two pictures of a camera.
_PERIOD_S = 0.1
_QUALITY = 80
#: After so long without a new frame the last is sent again: it shows who has left.
_PATIENCE_S = 5.0
#: Bytes on their way to a reader: two pictures or so, or a slow one would see what is long past.
_UNREAD = 128 << 10
#: Streams, and other connections, at a time.
_READERS, _OTHERS = 16, 16
_BOUNDARY = "frame"


class Screen:
    """What one camera shows. ``region``: see ``annotate``."""

    def __init__(self, region: Region | None = None) -> None:
        self._region = region
        self._news = threading.Condition()
        #: The latest frame, its number, from 1 on, and when it came.
        self._latest: tuple[int, Answered] | None = None
        self._came = 0.0
        self._closed = False
        self._drawing = threading.Lock()
        self._drawn = 0, b""
        self._due = 0.0

    def on_frame(self, answered: Answered) -> None:
        """From the hot loop."""
        with self._news:
            number = 1 if self._latest is None else self._latest[0] + 1
            self._latest, self._came = (number, answered), time.monotonic()
            self._news.notify_all()

    @property
    def age(self) -> float | None:
        """Seconds since the latest frame; None before the first."""
        return None if self._latest is None else round(time.monotonic() - self._came, 1)

    def close(self) -> None:
        """Let go of all who wait."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    def jpeg(self, after: int, patience: float = _PATIENCE_S) -> tuple[int, bytes] | None:
        """A frame later than number ``after`` with its answer drawn, and its own number; the last again if none comes
        within ``patience`` seconds. None if there is none at all, or no more."""
        with self._news:
            self._news.wait_for(lambda: self._closed or (self._latest or (0,))[0] > after, patience)
            if self._closed or self._latest is None:
                return None
        with self._drawing:
            if self._drawn[0] <= after or time.monotonic() >= self._due:
                time.sleep(max(0.0, self._due - time.monotonic()))
                number, answered = self._latest
                if number != self._drawn[0]:
                    drawn = annotate(answered.picture, answered.line, self._region)
                    _, data = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
                    self._drawn = number, data.tobytes()
                self._due = time.monotonic() + _PERIOD_S
            return self._drawn


class Preview:
    """The screens of all cameras. ``title``: the device's name; ``regions``: what each camera looks at, by its name,
    which is ``""`` for the only one."""

    def __init__(self, title: str, regions: Mapping[str, Region | None]) -> None:
        self.title = title
        self.screens = {camera: Screen(region) for camera, region in regions.items()}
        self.readers = threading.BoundedSemaphore(_READERS)

    def on_frame(self, answered: Answered) -> None:
        """From a hot loop."""
        self.screens[answered.line.camera].on_frame(answered)

    @contextmanager
    def serve(self, host: str, port: int) -> Iterator[int]:
        """Serve on ``host:port`` (0: any free one) while the block runs; the port. Raises ``OSError``."""
        with _Server((host, port), self).serving("preview") as served:
            try:
                yield served
            finally:
                for screen in self.screens.values():
                    screen.close()


class _Server(HttpServer):
    def __init__(self, address: tuple[str, int], preview: Preview) -> None:
        self.preview, self.names = preview, own_names(address[0])
        super().__init__(address, _Handler, _READERS + _OTHERS)


class _Handler(Handler):
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD)

    def do_GET(self) -> None:  # noqa: N802 - called by that name
        if not all(is_own(host, self.server.names) for host in self.headers.get_all("Host", [])):
            allowed = ", ".join(sorted(self.server.names))
            why = (
                f"The preview answers to IP addresses, localhost, {allowed}; give --preview NAME:PORT for another name"
            )
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "not a name of this machine", why)
            return
        preview = self.server.preview
        where = urlsplit(self.path)
        wanted = parse_qs(where.query).get("camera", [])
        if any(camera not in preview.screens for camera in wanted):
            self.send_error(HTTPStatus.NOT_FOUND, "no such camera here")
            return
        cameras = wanted or list(preview.screens)
        screen = preview.screens[cameras[0]]
        if where.path == "/state.json":
            ages = {camera: screen.age for camera, screen in preview.screens.items()}
            self._send("application/json", json.dumps(ages).encode())
        elif where.path == "/":
            self._send("text/html; charset=utf-8", page(preview.title, cameras).encode())
        elif where.path == "/snapshot.jpg":
            self._snapshot(screen)
        elif where.path == "/stream.mjpg":
            self._stream(screen)
        else:
            self.send_error(HTTPStatus.NOT_FOUND, "here are /, /stream.mjpg, /snapshot.jpg and /state.json")

    def _snapshot(self, screen: Screen) -> None:
        if (drawn := screen.jpeg(0)) is None:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "no frame has been answered yet")
        else:
            self._send("image/jpeg", drawn[1])

    def _stream(self, screen: Screen) -> None:
        if not self.server.preview.readers.acquire(blocking=False):
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, f"{_READERS} are looking already")
            return
        try:
            if (drawn := screen.jpeg(0)) is None:
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "no frame has been answered yet")
                return
            self.server.stay(self.connection)
            self._head("multipart/x-mixed-replace; boundary=" + _BOUNDARY)
            while drawn is not None:
                number, data = drawn
                # Firefox shows a part when the next boundary has come, so that comes with it.
                part = f"Content-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode()
                self.wfile.write(part + data + f"\r\n--{_BOUNDARY}\r\n".encode())
                drawn = screen.jpeg(number)
        finally:
            self.server.preview.readers.release()

    def _send(self, content: str, data: bytes) -> None:
        self._head(content, len(data))
        self.wfile.write(data)

    def _head(self, content: str, length: int | None = None) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content)
        self.send_header("Cache-Control", "no-store")
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if length is None:
            self.wfile.write(f"--{_BOUNDARY}\r\n".encode())
