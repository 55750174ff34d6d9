"""HTTP endpoint with ``/metrics`` for Prometheus and ``/health`` for supervisors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from cachenet.shared.command.http_server import Handler, HttpServer

#: Most connections: a few Prometheus servers and health checks.
_CONNECTIONS = 16


@contextmanager
def serve(metrics: Collector, unhealthy_reason: Callable[[], str], host: str, port: int) -> Iterator[int]:
    """Serve while the block runs; yields the port.

    Args:
        unhealthy_reason: Returns why ``/health`` has status 503; empty for status 200.
        port: Port to listen on; 0 for any free one.

    Raises:
        OSError: The address cannot be used.
    """
    registry = CollectorRegistry()
    registry.register(metrics)

    class EndpointHandler(Handler):
        def do_GET(self) -> None:  # noqa: N802 - name of the base class
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._respond(200, CONTENT_TYPE_LATEST, generate_latest(registry))
            elif path == "/health":
                why = unhealthy_reason()
                health = {"ok": not why} | ({"why": why} if why else {})
                self._respond(503 if why else 200, "application/json", json.dumps(health).encode() + b"\n")
            else:
                self._respond(404, "text/plain", b"/metrics or /health\n")

        def _respond(self, status: int, content: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - used by some load balancers

    with HttpServer((host, port), EndpointHandler, _CONNECTIONS).serving("endpoint") as served:
        yield served
