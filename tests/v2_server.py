"""A small server of the Open Inference Protocol with binary tensors, whose faults tests choose.

Servers from elsewhere are in ``tests.mlserver``. ``python -m tests.v2_server BUNDLE PORT`` serves the full model of a
bundle.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.inference.engine import Session

_NAMES = {"float32": "FP32", "int64": "INT64"}


class V2Server:
    """Serves one ONNX file as the model ``full`` while it is started.

    Attributes:
        says: Answer to each inference, as status, length of the JSON and body; None for the model's own.
        holds: Cleared, each inference waits.
        most: Largest number of inferences at a time.
    """

    def __init__(self, path: Path, binary: bool = True) -> None:
        """``binary``: whether the server takes binary tensors."""
        self.session, self.binary = Session(path, "cpu"), binary
        self.says: tuple[int, str | None, bytes] | None = None
        self.holds = threading.Event()
        self.holds.set()
        self.most = self._now = 0
        self._lock = threading.Lock()
        self._http: ThreadingHTTPServer | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> V2Server:
        server = self

        class Handler(_Handler):
            owner = server

        self._http = _Listener(("127.0.0.1", self.port), Handler)
        self._http.connections = []  # type: ignore[attr-defined]
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """End the server and its open connections, as a killed process does."""
        assert self._http is not None
        self._http.shutdown()
        self._http.server_close()
        for connection in self._http.connections:  # type: ignore[attr-defined]
            with contextlib.suppress(OSError):  # the client has ended it
                connection.shutdown(socket.SHUT_RDWR)

    def infer(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """JSON and binary tensors of the answer."""
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        self.holds.wait(30)
        (tensor,) = request["inputs"]
        batch = np.frombuffer(data, "<f4") if data else np.array(tensor["data"], "<f4")
        outputs = self.session.run_all(batch.reshape(tensor["shape"]))
        with self._lock:
            self._now -= 1
        named = list(zip(self.session.outputs(), outputs, strict=True))[::-1]  # the protocol promises no order
        described: list[dict[str, Any]] = [
            {"name": info.name, "datatype": _NAMES[str(value.dtype)], "shape": value.shape} for info, value in named
        ]
        if not data:
            return {
                "outputs": [one | {"data": v.ravel().tolist()} for one, (_, v) in zip(described, named, strict=True)]
            }, b""
        parts = [value.tobytes() for _, value in named]
        sizes = [{"parameters": {"binary_data_size": len(part)}} for part in parts]
        return {"outputs": [one | size for one, size in zip(described, sizes, strict=True)]}, b"".join(parts)


class _Listener(ThreadingHTTPServer):
    request_queue_size = 64  # of connections that come at the same time; beyond it the system resets them


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one segment: otherwise the client's system waits for 40 ms
    owner: V2Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.append(self.connection)  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        session = self.owner.session
        described = {
            kind: [{"name": one.name, "datatype": "FP32", "shape": one.shape} for one in tensors]
            for kind, tensors in (("inputs", session.inputs()), ("outputs", session.outputs()))
        }
        known = self.path in ("/v2/models/full", "/v2/models/full/ready")
        self._answer(200 if known else 404, None, json.dumps(described).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        length = self.headers.get("Inference-Header-Content-Length")
        if self.owner.says is not None:
            self._answer(*self.owner.says)
        elif self.path != "/v2/models/full/infer" or (length is not None and not self.owner.binary):
            self._answer(400, None, b'{"error": "no such model, or no JSON"}')
        else:
            end = len(body) if length is None else int(length)
            answer, data = self.owner.infer(json.loads(body[:end]), body[end:])
            text = json.dumps(answer).encode()
            self._answer(200, str(len(text)) if data else None, text + data)

    def _answer(self, status: int, length: str | None, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if length is not None:
            self.send_header("Inference-Header-Content-Length", length)
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    _bundle = Bundle(zoo.find(sys.argv[1]))
    _server = V2Server(_bundle.path(_bundle.manifest.only("full")))
    _server.port = int(sys.argv[2])
    _server.start()
    threading.Event().wait()
