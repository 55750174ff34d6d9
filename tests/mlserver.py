"""MLServer, a server of the Open Inference Protocol, in an environment of its own that ``make mlserver`` makes.

``python -m tests.mlserver cifar10 8000`` serves the full model of a bundle on a port until Ctrl-C.
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from tests.broker import free_port

#: The program of ``make mlserver``.
PROGRAM = Path(__file__).parents[1] / "build/mlserver/bin/mlserver"
#: Why tests are skipped without it.
MISSING = "MLServer is not installed; run: make mlserver"

_BOUND_S = 90.0


class MlServer:
    """MLServer with the full model of a bundle, on ports of its own."""

    def __init__(self, directory: Path, bundle: Bundle, port: int | None = None) -> None:
        """Write the settings into the empty or new ``directory``. ``port``: None for a free one."""
        self.port, self._directory = port or free_port(), directory
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        name = bundle.manifest.only("full")
        directory.mkdir(exist_ok=True)
        shutil.copy(Path(__file__).parent / "mlserver_runtime.py", directory)
        settings = {
            "host": "127.0.0.1", "http_port": self.port, "grpc_port": free_port(), "metrics_port": free_port(),
            "parallel_workers": 0, "debug": False,
        }  # fmt: skip
        model = {
            "name": name,
            "implementation": "mlserver_runtime.OnnxModel",
            "parameters": {"uri": str(bundle.path(name).resolve())},
        }
        (directory / "settings.json").write_text(json.dumps(settings))
        (directory / "model-settings.json").write_text(json.dumps(model))

    def start(self) -> None:
        """Start the server and wait until its model is ready."""
        with (self._directory / "mlserver.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(PROGRAM), "start", str(self._directory)], cwd=self._directory, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _BOUND_S
        while not self._ready():
            assert time.monotonic() < deadline and self.process.poll() is None, self.log()
            time.sleep(0.1)

    def log(self) -> str:
        return (self._directory / "mlserver.log").read_text()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def main(bundle: str, port: str) -> None:
    with tempfile.TemporaryDirectory() as directory, suppress(KeyboardInterrupt):
        server = MlServer(Path(directory), Bundle(zoo.find(bundle)), int(port))
        try:
            server.start()
            print(f"MLServer runs the full model of {bundle} at {server.url}", flush=True)
            assert server.process is not None
            server.process.wait()
        finally:
            server.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
