"""The HTTP server of metrics and preview, against clients that are idle, slow or many."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from cachenet.shared.command import http_server
from cachenet.shared.command.http_server import Handler, HttpServer, is_own, own_names
from tests.descriptors import descriptors

_BOUND_S = 20.0
_MOST = 4


class Greeter(Handler):
    def do_GET(self) -> None:  # noqa: N802
        if self.path == "/fails":
            raise KeyError("\x1b[31m")
        if self.path == "/stays":
            self.server.stay(self.connection)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")
        if self.path == "/stays":
            while True:
                time.sleep(0.01)
                self.wfile.write(b"." * 65536)


@pytest.fixture
def port() -> Iterator[int]:
    with HttpServer(("127.0.0.1", 0), Greeter, _MOST).serving("test") as port:
        yield port


def connect(port: int, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), _BOUND_S)
    client.sendall(sent)
    return client


def answer(port: int, path: str = "/") -> bytes:
    with connect(port, f"GET {path} HTTP/1.0\r\n\r\n".encode()) as client:
        received = b""
        while piece := client.recv(65536):
            received += piece
        return received


def closed(client: socket.socket) -> bool:
    """Wait until the server has closed it."""
    try:
        while client.recv(1 << 20):
            pass
    except ConnectionResetError:
        pass
    return True


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + _BOUND_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_hundreds_of_idle_connections_use_bounded_descriptors_and_do_not_block_others(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "TIMEOUT_S", 1000.0)
    monkeypatch.setattr(Greeter, "timeout", 1000.0)
    before, threads = descriptors(), threading.active_count()
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(port)) for _ in range(300)]
        assert answer(port).endswith(b"hello")
        until(lambda: descriptors() <= before + len(idle) + _MOST + 1)
        until(lambda: threading.active_count() <= threads + _MOST + 1)
        assert closed(idle[0])


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.0\r\nA: b\r\n"])
def test_a_client_with_an_unfinished_request_is_dropped(
    port: int, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "TIMEOUT_S", 0.2)
    with connect(port, sent) as client:
        assert closed(client)


def test_a_client_that_sends_single_bytes_is_dropped(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "TIMEOUT_S", 0.3)
    ended = False
    with connect(port, b"GET / HTTP/1.0\r\nA: ") as client:
        deadline = time.monotonic() + _BOUND_S
        while not ended and time.monotonic() < deadline:
            time.sleep(0.05)
            try:
                client.sendall(b"b")
            except OSError:
                ended = True
    assert ended


def test_a_connection_that_stays_has_no_time_limit_while_its_client_reads(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "TIMEOUT_S", 0.1)
    with connect(port, b"GET /stays HTTP/1.0\r\n\r\n") as client, ExitStack() as stack:
        client.recv(10)
        for _ in range(3 * _MOST):
            stack.enter_context(connect(port))
        until_s = time.monotonic() + 0.5
        while time.monotonic() < until_s:
            assert client.recv(1 << 20)


def test_a_client_that_stays_and_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Greeter, "timeout", 0.3)
    before = threading.active_count()
    with (
        HttpServer(("127.0.0.1", 0), Greeter, _MOST).serving("test") as port,
        connect(port, b"GET /stays HTTP/1.0\r\n\r\n") as client,
    ):
        assert client.recv(10)
        until(lambda: threading.active_count() <= before + 1)


def test_disconnects_are_not_logged_and_errors_of_the_program_are(
    port: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(5):
        connect(port, b"GET / HTTP/1.0\r\n\r\n").close()
        connect(port).close()
    assert answer(port, "/fails") == b""
    until(lambda: caplog.records)
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.ERROR, "a request was not answered")
    ]
    assert capfd.readouterr() == ("", "")


def test_idle_connections_end_with_the_server() -> None:
    with HttpServer(("127.0.0.1", 0), Greeter, _MOST).serving("test") as port:
        client = connect(port)
        assert answer(port).endswith(b"hello")
    with client:
        assert closed(client)


@pytest.mark.parametrize(
    ("host", "own"),
    [
        *((host, True) for host in ("127.0.0.1", "127.0.0.1:8080", "localhost:8080", "LOCALHOST", "app.localhost")),
        *((host, True) for host in ("[::1]:8080", "10.0.0.4", "[fe80::1]", "camera.example", "Camera.Example:80")),
        *((host, True) for host in (socket.gethostname(), socket.gethostname() + ".local:8080", "camera.example.")),
        *((host, False) for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[", "a b")),
        *((host, False) for host in ("camera.example.evil.example", "localhost.evil.example", "::1]")),
    ],
)
def test_only_addresses_and_names_of_this_machine_are_accepted_as_host(host: str, own: bool) -> None:
    assert is_own(host, own_names("camera.example")) == own
