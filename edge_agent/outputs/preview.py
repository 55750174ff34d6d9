"""The preview: a web page with the frames and answers of each camera.

Frames are drawn only for connected readers, at most ten per second, once for all of them. The readers' threads draw and
send; the hot loop only stores its last frame, so a slow reader skips frames and delays nobody. A reader that reads
nothing for ten seconds is disconnected. The stream is motion JPEG (``multipart/x-mixed-replace``).
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

from cachenet.edge_agent.camera import AnsweredFrame
from cachenet.edge_agent.explain import text
from cachenet.edge_agent.explain.explanation import explain
from cachenet.edge_agent.explain.record import FrameRecord
from cachenet.edge_agent.outputs.drawing import annotate
from cachenet.edge_agent.outputs.page import page
from cachenet.edge_agent.outputs.report import View
from cachenet.shared.command.http_server import Handler, HttpServer, is_own, own_names

#: Least time between two pictures of a camera, seconds.
_PERIOD_S = 0.1
#: JPEG quality, 0 to 100.
_QUALITY = 80
#: Time without a new frame after which the last one is sent again, to detect closed connections, seconds.
_RESEND_S = 5.0
#: Send buffer of a connection, bytes: about two pictures, so that a slow reader does not see old frames.
_SEND_BUFFER_BYTES = 128 << 10
#: Largest number of streams at a time.
_MAX_STREAMS = 16
#: Largest number of other connections at a time.
_MAX_OTHERS = 16
#: Boundary between the parts of a stream.
_BOUNDARY = "frame"


class Screen:
    """The latest frame of one camera. ``view``: see ``annotate``."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._condition = threading.Condition()
        #: Number, from 1, and frame of the latest answer.
        self._latest: tuple[int, AnsweredFrame] | None = None
        #: The newest decision of each zone; the zone of a whole picture has no name.
        self._records: dict[str, FrameRecord] = {}
        #: Time of the latest frame, seconds.
        self._received = 0.0
        self._closed = False
        self._drawing = threading.Lock()
        #: Number and JPEG of the last drawn frame, and the earliest time of the next one.
        self._drawn = 0, b""
        self._due = 0.0

    def on_frame(self, answered: AnsweredFrame) -> None:
        """Store a frame; called by the hot loop."""
        with self._condition:
            number = 1 if self._latest is None else self._latest[0] + 1
            self._latest, self._received = (number, answered), time.monotonic()
            self._condition.notify_all()

    def on_decision(self, zone: str, record: FrameRecord) -> None:
        """Store the decision of a zone; called by the hot loop."""
        self._records[zone] = record

    def why(self) -> str:
        """The explanation of the newest frame, of each zone; empty before the first."""
        texts = [(zone, text.of_frame(explain(record))) for zone, record in list(self._records.items())]
        return "\n\n".join(f"{zone}: {shown}" if zone else shown for zone, shown in texts)

    @property
    def age(self) -> float | None:
        """Seconds since the latest frame; None before the first."""
        return None if self._latest is None else round(time.monotonic() - self._received, 1)

    def close(self) -> None:
        """End all waits."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def jpeg(self, after: int, timeout_s: float = _RESEND_S) -> tuple[int, bytes] | None:
        """Wait for a frame later than number ``after``.

        Returns:
            Number and JPEG of a frame with its answer; of the last frame again after ``timeout_s``; None without any
            frame and after ``close``.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._closed or (self._latest or (0,))[0] > after, timeout_s)
            if self._closed or self._latest is None:
                return None
        with self._drawing:
            if self._drawn[0] <= after or time.monotonic() >= self._due:
                time.sleep(max(0.0, self._due - time.monotonic()))
                number, answered = self._latest
                if number != self._drawn[0]:
                    drawn = annotate(answered.picture, answered.lines, self._view)
                    _, data = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
                    self._drawn = number, data.tobytes()
                self._due = time.monotonic() + _PERIOD_S
            return self._drawn


class Preview:
    """The preview of all cameras.

    Args:
        title: Name of the device.
        views: Region and zones by camera name; the name of an only camera is empty.
    """

    def __init__(self, title: str, views: Mapping[str, View]) -> None:
        self.title = title
        self.screens = {camera: Screen(view) for camera, view in views.items()}
        self.readers = threading.BoundedSemaphore(_MAX_STREAMS)

    def on_frame(self, answered: AnsweredFrame) -> None:
        """Store a frame; called by the hot loops."""
        if answered.record is not None:
            self.screens[answered.line.camera].on_decision(answered.line.zone, answered.record)
        if answered.lines:
            self.screens[answered.line.camera].on_frame(answered)

    @contextmanager
    def serve(self, host: str, port: int) -> Iterator[int]:
        """Serve on ``host:port`` (0: any free port) while the block runs; yields the port. Raises ``OSError``."""
        with _Server((host, port), self).serving("preview") as served:
            try:
                yield served
            finally:
                for screen in self.screens.values():
                    screen.close()


class _Server(HttpServer):
    def __init__(self, address: tuple[str, int], preview: Preview) -> None:
        self.preview, self.names = preview, own_names(address[0])
        super().__init__(address, _Handler, _MAX_STREAMS + _MAX_OTHERS)


class _Handler(Handler):
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)

    def do_GET(self) -> None:  # noqa: N802 - name given by http.server
        if not all(is_own(host, self.server.names) for host in self.headers.get_all("Host", [])):
            allowed = ", ".join(sorted(self.server.names))
            reason = (
                f"The preview answers to IP addresses, localhost, {allowed}; give --preview NAME:PORT for another name"
            )
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "not a name of this machine", reason)
            return
        preview = self.server.preview
        url = urlsplit(self.path)
        requested = parse_qs(url.query).get("camera", [])
        if any(camera not in preview.screens for camera in requested):
            self.send_error(HTTPStatus.NOT_FOUND, "no such camera here")
            return
        cameras = requested or list(preview.screens)
        screen = preview.screens[cameras[0]]
        if url.path == "/state.json":
            ages = {camera: screen.age for camera, screen in preview.screens.items()}
            self._send("application/json", json.dumps(ages).encode())
        elif url.path == "/":
            self._send("text/html; charset=utf-8", page(preview.title, cameras).encode())
        elif url.path == "/why.txt":
            self._send("text/plain; charset=utf-8", screen.why().encode())
        elif url.path == "/snapshot.jpg":
            self._snapshot(screen)
        elif url.path == "/stream.mjpg":
            self._stream(screen)
        else:
            self.send_error(
                HTTPStatus.NOT_FOUND, "the pages are /, /stream.mjpg, /snapshot.jpg, /state.json and /why.txt"
            )

    def _snapshot(self, screen: Screen) -> None:
        if (drawn := screen.jpeg(0)) is None:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "no frame has been answered yet")
        else:
            self._send("image/jpeg", drawn[1])

    def _stream(self, screen: Screen) -> None:
        if not self.server.preview.readers.acquire(blocking=False):
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, f"{_MAX_STREAMS} streams are open already")
            return
        try:
            if (drawn := screen.jpeg(0)) is None:
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "no frame has been answered yet")
                return
            self.server.stay(self.connection)
            self._head("multipart/x-mixed-replace; boundary=" + _BOUNDARY)
            while drawn is not None:
                number, data = drawn
                # Firefox shows a part when it has received the next boundary, so both are sent together.
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
