"""Where an operator looks: ``/metrics`` for Prometheus and ``/health`` for whatever restarts or alarms."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from cachenet.shared.command.http_server import Handler, HttpServer

#: Connections at a time: a few Prometheus servers and health checks.
_CONNECTIONS = 16


@contextmanager
def serve(figures: Collector, ill: Callable[[], str], host: str, port: int) -> Iterator[int]:
    """Answer on ``host:port`` (0: any free one) while the block runs; the port. ``ill``: why ``/health`` is to say 503,
    empty if all is well. Raises ``OSError``."""
    registry = CollectorRegistry()
    registry.register(figures)

    class Answers(Handler):
        def do_GET(self) -> None:  # noqa: N802 - called by that name
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._say(200, CONTENT_TYPE_LATEST, generate_latest(registry))
            elif path == "/health":
                why = ill()
                said = {"ok": not why} | ({"why": why} if why else {})
                self._say(503 if why else 200, "application/json", json.dumps(said).encode() + b"\n")
            else:
                self._say(404, "text/plain", b"/metrics or /health\n")

        def _say(self, status: int, content: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - what some balancers ask with

    with HttpServer((host, port), Answers, _CONNECTIONS).serving("endpoint") as served:
        yield served
