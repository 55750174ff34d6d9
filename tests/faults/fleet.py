"""The agents and the server of a fault run, and how each fault is done to them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cachenet.simulator.world.processes import free_port
from tests.faults import processes
from tests.faults.camera import Camera
from tests.faults.processes import Killable
from tests.faults.proxy import Proxy
from tests.faults.schedule import LINK, Fault
from tests.faults.watch import Answer, Watch

#: Frame rate of the agents, frames per second, and their deadline, milliseconds.
FPS, DEADLINE_MS = 10.0, 250
#: Size of the disk of an agent's store: a download leaves a margin free.
_DISK = "40m"
#: Directory for PYTHONPATH that makes the clock of a process follow a file.
_CLOCK = Path(__file__).parent / "clock"
#: Steps of the clock, seconds: an hour, a day, and years, as of a device without a battery.
_STEPS = (3600, -3600, 86_400, -600_000_000, 150_000_000)

#: Exit code of an agent that starts without its camera.
_BAD_INPUT = 2


class Disk:
    """A small disk in memory, where the tests run as root."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self._filler = directory / ".filler"
        mounted = os.geteuid() == 0 and _quiet("mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(directory))
        #: Whether the disk can be filled and made read-only.
        self.works = mounted

    def fill(self) -> None:
        with contextlib.suppress(OSError), self._filler.open("wb") as file:
            while file.write(bytes(1 << 16)):
                file.flush()

    def empty(self) -> None:
        self._filler.unlink(missing_ok=True)

    def remount(self, how: str) -> None:
        """``how``: ``ro`` or ``rw``. Raises ``RuntimeError`` if the system refuses."""
        if not _quiet("mount", "-o", f"remount,{how}", str(self.directory)):
            raise RuntimeError(f"{self.directory} cannot be mounted {how}")

    def close(self) -> None:
        if self.works:
            _quiet("umount", "-l", str(self.directory))


class Agent:
    """An agent process, what stands between it and the world, and its ``Watch``."""

    def __init__(
        self, name: str, work: Path, broker_port: int, source: str, clock: bool, camera: Camera | None
    ) -> None:
        """
        Args:
            broker_port: Port that the agent connects to.
            clock: Whether its clock can be stepped.
            camera: Its camera, if it can vanish.
        """
        self.name, self.watch, self.camera = name, Watch(name, DEADLINE_MS), camera
        self.disk, self.metrics_port = Disk(work / f"{name}-store"), free_port()
        #: Number of starts.
        self.starts = 0
        #: Whether the next line may be the part that a killed process has written; its successor ends that line.
        self._torn = False
        self._last_line = ""  # of the log
        self._output = work / f"{name}.jsonl"
        self._tails = {path: Tail(path) for path in (self._output, work / f"{name}.log")}
        self._clock = work / f"{name}.clock"
        environment = {"OMP_NUM_THREADS": "1"}
        self._steps_clock = clock
        if clock:
            self._clock.write_text("0")
            environment |= {"PYTHONPATH": str(_CLOCK), "CLOCK_STEP": str(self._clock)}
        command = [
            *(sys.executable, "-m", "cachenet.edge_agent", "run", source, "--device", name, "--fps", str(FPS)),
            *("--broker", f"mqtt://127.0.0.1:{broker_port}", "--store", str(self.disk.directory), "--provider", "cpu"),
            *("--deadline-ms", str(DEADLINE_MS), "--output", str(self._output), "--no-view", "--json", "-v"),
            *("--set", "levels=frames,submodels,base,cloud", "--set", "audit_share=0.2", "--set", "threads=1"),
            *("--set", f"metrics=127.0.0.1:{self.metrics_port}"),
        ]
        self.process = Killable(name, command, work, environment)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of faults that this agent can have here."""
        disk = ("disk_full", "read_only") if self.disk.works else ()
        clock = ("clock_step",) if self._steps_clock else ()
        return (
            "kill",
            "freeze",
            *LINK,
            "corrupt",
            *disk,
            *clock,
            *(("camera_gone",) if self.camera is not None else ()),
        )

    def start(self, now: float) -> None:
        self.starts += 1
        self.process.start()
        self.watch.started(now)

    def kill(self, now: float) -> None:
        """End the process with SIGKILL, and read what it has written."""
        self.watch.killed()
        self.process.kill()
        self.observe(now)
        self._torn = True

    def begin(self, fault: Fault, now: float) -> None:
        """Do a fault to the agent, except for those of its connection."""
        self.watch.fault(fault.kind, now)
        if fault.kind in ("kill", "corrupt", "read_only"):
            self.kill(now)
        if fault.kind == "corrupt":
            damage(self.disk.directory, fault.choice)
        elif fault.kind == "read_only":
            self.disk.remount("ro")
            self.start(now)
        elif fault.kind == "freeze":
            self.process.freeze()
        elif fault.kind == "disk_full":
            self.disk.fill()
        elif fault.kind == "clock_step":
            self._clock.write_text(str(_STEPS[int(fault.choice * len(_STEPS))]))
        elif fault.kind == "camera_gone" and self.camera is not None:
            self.camera.vanish()

    def end(self, fault: Fault, now: float) -> None:
        """End the fault."""
        if fault.kind == "read_only":
            self.kill(now)
            self.disk.remount("rw")
        self.watch.fault_ended(fault.kind, now)
        if fault.kind in ("kill", "corrupt", "read_only"):
            self.start(now)
        elif fault.kind == "freeze":
            self.process.thaw()
        elif fault.kind == "disk_full":
            self.disk.empty()
        elif fault.kind == "clock_step":
            self._clock.write_text("0")
        elif fault.kind == "camera_gone" and self.camera is not None:
            self.camera.come_back()

    def observe(self, now: float) -> None:
        """Pass everything new to the watch."""
        output, log = self._tails.values()
        for line in output.lines():
            self._read(line, now)
            self._torn = False
        for line in log.lines():
            self._last_line = line.decode(errors="replace")
            self.watch.logged(now, self._last_line)
        if (code := self.process.exit_code()) is not None:
            if self.camera is not None and code == _BAD_INPUT and "cannot be opened" in self._last_line:
                self.watch.killed()
                self.start(now)  # as systemd does (Restart=always): it started while the camera was gone
            else:
                self.watch.exited(now, code)
        self.watch.tick(now)

    def _read(self, line: bytes, now: float) -> None:
        try:
            answer = json.loads(line)
        except ValueError:
            if not self._torn:
                self.watch.violations.append(f"{self.name} at {now:.1f} s: a line of the output is no JSON")
            return
        if not answer.get("correction", False):
            self.watch.answered(Answer(now, answer["frame"], answer["level"], answer["latency_ms"]))

    def finish(self, clock: Callable[[], float], timeout_s: float) -> dict[str, Any]:
        """End the process properly, check its summary and return it; empty if there is none."""
        code = self.process.stop(timeout_s)
        self.watch.killed()
        self.observe(clock())
        if code != 0:
            self.watch.violations.append(f"{self.name}: exit code {code} after SIGTERM")
            return {}
        summary: dict[str, Any] = json.loads(self.process.output.read_text())
        self.watch.summarised(clock(), summary)
        return summary

    def close(self) -> None:
        self.process.kill()
        self.disk.close()


class Shared:
    """The server or the broker: what all agents depend on."""

    def __init__(self, process: Killable, bundles: list[Path] | None = None) -> None:
        """``bundles``: versions, one of which a server offers after each start."""
        self.name, self.process, self._bundles = process.name, process, bundles
        self.violations: list[str] = []
        self._tail, self._killed = Tail(process.log), False

    def begin(self, fault: Fault, _now: float) -> None:
        """Do a fault to the process."""
        if fault.kind == "kill":
            self._killed = True
            self.process.kill()
        elif fault.kind == "freeze":
            self.process.freeze()

    def end(self, fault: Fault, _now: float) -> None:
        """End the fault."""
        if fault.kind == "kill":
            if self._bundles is not None:
                self.process.command[-1] = str(self._bundles[int(fault.choice * len(self._bundles))])
            self.process.start()
            self._killed = False
        elif fault.kind == "freeze":
            self.process.thaw()

    def observe(self, now: float) -> None:
        """Look at exit code and log."""
        if any(b"Traceback" in line for line in self._tail.lines()):
            self.violations.append(f"{self.name} at {now:.1f} s: a traceback in the log")
        if not self._killed and (code := self.process.exit_code()) is not None:
            self.violations.append(f"{self.name} at {now:.1f} s: it ended by itself with exit code {code}")
            self._killed = True


class Tail:
    """Whole lines of a growing file, each once."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._part = path, 0, b""

    def lines(self) -> list[bytes]:
        """Lines since the last call."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
            self._offset += len(data)
            *whole, self._part = (self._part + data).split(b"\n")
            return [line for line in whole if line]
        return []


def damage(store: Path, choice: float) -> None:
    """Damage one file of the store: other bytes, half of the file, or nothing in it."""
    rng = random.Random(choice)
    files = sorted(path for path in store.rglob("*") if path.is_file() and path.name != ".lock")
    if not files:
        return
    path, how = rng.choice(files), rng.randrange(3)
    data = bytearray(path.read_bytes())
    if how == 0 and data:
        data[rng.randrange(len(data))] ^= 0xFF
    path.write_bytes(data if how == 0 else data[: len(data) // 2 * (how == 1)])


def _quiet(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def start_shared(work: Path, port: int, via: Proxy | None, bundles: list[Path], program: str) -> tuple[Shared, Shared]:
    """Start a broker on ``port``, and a server that connects directly or through ``via``."""
    work.mkdir()
    mosquitto = Shared(processes.broker(work, port, program))
    mosquitto.process.start()
    processes.wait_for_port(mosquitto.process, port)
    server = Shared(processes.server(work, bundles[0], via.port if via is not None else port), bundles)
    server.process.start()
    return mosquitto, server
