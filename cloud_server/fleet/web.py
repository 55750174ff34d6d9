"""The fleet page over HTTP: ``/`` and ``/fleet.json``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from http import HTTPStatus

import msgspec

from cachenet.cloud_server.fleet.fleet import Summary
from cachenet.cloud_server.fleet.page import page
from cachenet.shared.command.http_server import Handler, HttpServer, is_own, own_names

#: Most connections: some readers' browsers.
_CONNECTIONS = 32


def serve(summary: Callable[[], Summary], host: str, port: int) -> AbstractContextManager[int]:
    """Serve while the block runs; yields the port. ``port``: 0 for any free one. Raises ``OSError``."""
    names = own_names(host)

    class FleetHandler(Handler):
        def do_GET(self) -> None:  # noqa: N802 - name of the base class
            path = self.path.partition("?")[0]
            if not all(is_own(name, names) for name in self.headers.get_all("Host", [])):
                self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "not a name of this machine")
            elif path == "/":
                self._respond("text/html; charset=utf-8", page(summary(), live=True).encode())
            elif path == "/fleet.json":
                self._respond("application/json", msgspec.json.encode(summary()))
            else:
                self.send_error(HTTPStatus.NOT_FOUND, "the pages are / and /fleet.json")

        def _respond(self, content: str, body: bytes) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", content)
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return HttpServer((host, port), FleetHandler, _CONNECTIONS).serving("fleet page")
