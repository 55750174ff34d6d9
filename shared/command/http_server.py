"""A small HTTP server with bounded connections, and bounded time for each, against misbehaving clients."""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

#: Longest time of a connection, and of one read or write, seconds.
TIMEOUT_S = 10.0
#: Interval between checks for expired connections, seconds.
_CHECK_S = 0.1


class HttpServer(ThreadingHTTPServer):
    """Serves at most ``connections`` connections, each on its own thread.

    A connection is closed after ``TIMEOUT_S``, unless a handler lets it ``stay``. When all connections are in use, a
    new one replaces the oldest that does not stay. Handlers must let fewer than ``connections`` stay.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[Handler], connections: int) -> None:
        """Listen on ``address``, host and port. Raises ``OSError``."""
        self._max_connections = connections
        self._lock = threading.Lock()
        # End of each connection's time, oldest connection first; None for one that may stay.
        self._open: dict[socket.socket, float | None] = {}
        super().__init__(address, handler)

    @contextmanager
    def serving(self, name: str) -> Iterator[int]:
        """Serve on a thread called ``name`` while the block runs; yields the port."""
        thread = threading.Thread(target=self.serve_forever, args=(_CHECK_S,), name=name, daemon=True)
        thread.start()
        try:
            yield self.server_port
        finally:
            self.shutdown()
            self.server_close()
            thread.join()
            with self._lock:
                for connection in list(self._open):
                    self._end(connection)

    def stay(self, connection: socket.socket) -> None:
        """Exempt a connection from ``TIMEOUT_S``."""
        with self._lock:
            if connection in self._open:
                self._open[connection] = None

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            temporary = [other for other, until in self._open.items() if until is not None]
            if len(self._open) >= self._max_connections and temporary:
                self._end(temporary[0])
            self._open[request] = time.monotonic() + TIMEOUT_S
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Close expired connections; ``serve_forever`` calls this ten times a second."""
        now = time.monotonic()
        with self._lock:
            for connection in [one for one, until in self._open.items() if until is not None and until < now]:
                self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        """Shut a connection down, which ends the reads and writes of its thread."""
        self._open.pop(connection, None)
        with suppress(OSError):  # the client has disconnected
            connection.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        """Log exceptions, except disconnected clients."""
        if not isinstance(sys.exc_info()[1], OSError):
            log.exception("a request was not answered")


class Handler(BaseHTTPRequestHandler):
    """Base class of request handlers. Responses do not name the versions of the software."""

    server: HttpServer
    server_version, sys_version = "cachenet", ""
    timeout = TIMEOUT_S

    def log_message(self, *_: Any) -> None:
        """Do not log requests."""


def own_names(listens: str) -> frozenset[str]:
    """Names of this machine: ``listens``, the host that a server listens on, and the host name."""
    host = socket.gethostname().lower()
    first = host.partition(".")[0]
    return frozenset({listens.lower(), host, first, f"{first}.local"})


def is_own(host: str, names: frozenset[str]) -> bool:
    """Whether a request's ``Host`` is an IP address, ``localhost`` or one of ``names``.

    Prevents DNS rebinding: a foreign web page can let its name resolve to this machine, but the browser sends that name
    as ``Host``.
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost") or name in names:
        return True
    with suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return False
