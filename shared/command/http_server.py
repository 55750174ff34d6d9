"""A small HTTP server whose clients cannot harm the program: connections, and the time of each, are bounded."""

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

#: How long a client may take to send its request and to take the answer, seconds.
PATIENCE_S = 10.0
#: Seconds between two looks for connections that have had their time.
_LOOK_S = 0.1


class HttpServer(ThreadingHTTPServer):
    """Answers each connection on a thread of its own, ``connections`` at a time. A connection that is neither answered
    nor let stay within ``PATIENCE_S`` is closed; so is the oldest of those that do not stay, when another one comes and
    there is no room. An operator who looks is therefore answered while others hold every connection. A handler lets
    fewer than ``connections`` stay."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[Handler], connections: int) -> None:
        """Raises ``OSError``."""
        self._most = connections
        self._lock = threading.Lock()
        #: Until when each connection may take, in the order in which they came; None where it may stay.
        self._open: dict[socket.socket, float | None] = {}
        super().__init__(address, handler)

    @contextmanager
    def serving(self, name: str) -> Iterator[int]:
        """Serve while the block runs; the port."""
        thread = threading.Thread(target=self.serve_forever, args=(_LOOK_S,), name=name, daemon=True)
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
        """Let a connection live for as long as its client takes what it is sent."""
        with self._lock:
            if connection in self._open:
                self._open[connection] = None

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            passing = [other for other, until in self._open.items() if until is not None]
            if len(self._open) >= self._most and passing:
                self._end(passing[0])
            self._open[request] = time.monotonic() + PATIENCE_S
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Called by ``serve_forever`` ten times a second."""
        now = time.monotonic()
        with self._lock:
            for connection in [one for one, until in self._open.items() if until is not None and until < now]:
                self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        """Have a connection's thread end: whatever it waits for returns at once."""
        self._open.pop(connection, None)
        with suppress(OSError):  # its client has gone
            connection.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        """Clients come and go, which is not worth a line; anything else is."""
        if not isinstance(sys.exc_info()[1], OSError):
            log.exception("a request was not answered")


class Handler(BaseHTTPRequestHandler):
    """Answers requests, and names neither itself nor its Python."""

    server: HttpServer
    server_version, sys_version = "cachenet", ""
    #: A read or a whole write that takes longer ends the connection.
    timeout = PATIENCE_S

    def log_message(self, *_: Any) -> None:
        """Log nothing: a line for every request would bury the others."""


def own_names(listens: str) -> frozenset[str]:
    """Names that this machine is reached by: ``listens``, the host that a server listens on, and the machine's own."""
    host = socket.gethostname().lower()
    first = host.partition(".")[0]
    return frozenset({listens.lower(), host, first, f"{first}.local"})


def is_own(host: str, names: frozenset[str]) -> bool:
    """Whether a request's ``Host`` is an address, ``localhost`` or one of ``names``.

    A page of another site can make its own name stand for an address of the viewer's network (DNS rebinding), and would
    then read what is served there. The browser still sends that page's name as ``Host``.
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
