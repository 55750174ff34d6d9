"""Brokers and servers of a site as child processes, which are killed and started again; their time and memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import msgspec

from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import MANIFEST, Bundle
from cachenet.simulator.world.processes import Process, free_port, is_listening

_CONFIGURATION = Path(__file__).parents[2] / "docker/mosquitto.conf"
#: Options of that file that need certificates, users or a directory.
_NOT_HERE = ("listener", "certfile", "keyfile", "plugin", "allow_anonymous", "persistence", "autosave")
#: Longest wait for a start, seconds.
_START_S = 60.0


def small_bundle(directory: Path) -> Path:
    """Write a bundle whose full model is the base model of ``cifar10``: connections are measured, not the model."""
    shipped = Bundle(zoo.find("cifar10"))
    base = shipped.manifest.models["base"]
    models = {"full": msgspec.structs.replace(base, role="full", file="full/1/model.onnx"), "base": base}
    manifest = msgspec.structs.replace(
        shipped.manifest, name="fleet", models=models, certificates=(), layers={}, golden=None
    )
    for model in models.values():
        (directory / model.file).parent.mkdir(parents=True)
        shutil.copyfile(shipped.path("base"), directory / model.file)
    (directory / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return Bundle(directory).directory


class Broker:
    """A mosquitto with the limits of docker/mosquitto.conf, without users, always on the same port."""

    def __init__(self, directory: Path) -> None:
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if program is None:
            raise SystemExit("fleet: it needs mosquitto (apt-get install mosquitto)")
        directory.mkdir()
        directory.chmod(0o755)  # a broker that root starts drops its rights
        self.port = free_port()
        self.name = f"broker {self.port}"
        options = [line for line in _CONFIGURATION.read_text().splitlines() if not line.startswith(_NOT_HERE)]
        lines = [*options, f"listener {self.port} 127.0.0.1", "allow_anonymous true"]
        (directory / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        self._command = [program, "-c", str(directory / "mosquitto.conf")]
        self._popen = self._start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()

    def restart(self) -> None:
        self._popen = self._start()

    def is_ready(self) -> bool:
        return is_listening(self.port)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stderr=subprocess.DEVNULL)


class Server:
    """``cloud-server run`` on all brokers."""

    port = None

    def __init__(self, directory: Path, number: int, bundle: Path, brokers: list[Broker]) -> None:
        self.name = f"server {number}"
        self._brokers, self._directory, self._number, self._starts = brokers, directory, number, 0
        self._flags = ("--bundle", str(bundle), "--broker", urls(brokers), "--provider", "cpu", "--threads", "1")
        self._process = self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()

    def restart(self) -> None:
        self._process = self._start()

    def is_ready(self) -> bool:
        """Whether the server is connected to all brokers."""
        if not self._process.running:
            raise SystemExit(f"fleet: {self._process.failed('ended by itself', 'see its log')}")
        log = self._process.log.read_text()
        return all(f"connected to 127.0.0.1:{broker.port}" in log for broker in self._brokers)

    def _start(self) -> Process:
        self._starts += 1
        name = f"server{self._number}-{self._starts}"
        return Process(name, self._directory, "cachenet.cloud_server", "run", *self._flags)


def urls(brokers: list[Broker]) -> str:
    """The brokers as ``--broker`` takes them."""
    return ",".join(f"mqtt://127.0.0.1:{broker.port}" for broker in brokers)


def wait_for(one: Broker | Server) -> None:
    """Wait until a process serves."""
    end = time.monotonic() + _START_S
    while not one.is_ready():
        if time.monotonic() > end:
            raise SystemExit(f"fleet: {one.name} does not start within {_START_S:.0f} s")
        time.sleep(0.02)


def processor_s(pids: list[int]) -> float:
    """Processor time that processes have used, seconds."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime, stime (proc(5))
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_bytes(pids: list[int]) -> int:
    """Resident memory of processes, bytes."""
    pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")
