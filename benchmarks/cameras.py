"""What several cameras cost, and what happens when they are lost. Network cameras are real RTSP servers, fed by ffmpeg.

    python -m benchmarks.cameras

``losses``: of two network cameras of a running agent one is killed 20 times and frozen 5 times, each time until that is
noticed and up to 5 s more. How soon each loss is noticed, and the camera back after its return; what it has cost in
threads, files and memory; and whether the other camera has noticed.

``pipe``, ``rtsp`` and ``gstreamer``: two cameras of 640x480 at 10 frames a second, raw through pipes, as H.264 by RTSP,
or the same read by GStreamer and piped in, with broker and server on the same machine. What becomes of every frame; how
long after it was taken a hit is answered; how much of a core a camera takes of the agent. By RTSP that is with encoder,
network and decoder, and one frame more: FFmpeg knows where a picture of H.264 ends when the next one begins. GStreamer
knows by the marker that RTP has for it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rtsp, stamped
from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.camera import Answered
from cachenet.edge_agent.outputs.report import Sink
from cachenet.edge_agent.settings import CameraTable, Settings
from cachenet.edge_agent.sources import Pipe, Source, open_source
from cachenet.edge_agent.updates.store import Store
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.transport.mqtt import Address
from cachenet.simulator.report.live import start_cloud
from cachenet.simulator.world.processes import Process, Processes

_NAMES = ("front", "back")
#: How pictures come to the agent.
_KINDS = ("pipe", "rtsp", "gstreamer")
_BOUND_S = 60.0


def losses(bundle: Path, kills: int, freezes: int, seed: int) -> dict[str, Any]:
    """Kill and freeze the first camera; the figures."""
    chance = random.Random(seed)
    ways = ["killed"] * kills + ["frozen"] * freezes
    chance.shuffle(ways)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        cameras = [stack.enter_context(closing(rtsp.RtspCamera(gop=20))) for _ in _NAMES]
        work = Path(scratch)
        config, output = work / "agent.toml", work / "answers.jsonl"
        config.write_text(
            "".join(
                f'[[camera]]\nname = "{name}"\nsource = "{camera.url}"\n'
                for name, camera in zip(_NAMES, cameras, strict=True)
            )
        )
        processes = stack.enter_context(Processes(work))
        agent = processes.start(
            "agent",
            *("edge_agent", "run", "--config", str(config), "--bundle", str(bundle), "--set", "levels=base"),
            *("--output", str(output), "--set", f"summary={work / 'summary.json'}"),
        )
        watch = _Watch(processes, agent, output)
        watch.until(lambda: watch.answers("front") > 50 and watch.answers("back") > 50)
        held = {"before": _held(agent)}
        noticed: dict[str, list[float]] = {"killed": [], "frozen": []}
        back: dict[str, list[float]] = {"killed": [], "frozen": []}
        for number, way in enumerate(ways, 1):
            begun = time.monotonic()
            (cameras[0].kill if way == "killed" else cameras[0].freeze)()
            watch.until(lambda number=number: agent.log.read_text().count("is lost") == number)  # type: ignore[misc]
            noticed[way].append(time.monotonic() - begun)
            time.sleep(chance.uniform(0.0, 5.0))
            seen = watch.answers("front")
            (cameras[0].start if way == "killed" else cameras[0].thaw)()
            begun = time.monotonic()
            watch.until(lambda seen=seen: watch.answers("front") > seen)  # type: ignore[misc]
            back[way].append(time.monotonic() - begun)
            time.sleep(chance.uniform(0.5, 1.5))
            if number == len(ways) // 2:
                held["halfway"] = _held(agent)
        held["after"] = _held(agent)
        agent.stop()
        told = json.loads((work / "summary.json").read_text())["cameras"]
        times = [line["time"] for line in map(json.loads, output.read_text().splitlines()) if line["camera"] == "back"]
    return {
        "losses": {name: told[name]["losses"] for name in _NAMES},
        "noticed_s": {way: _spread(values) for way, values in noticed.items() if values},
        "back_s": {way: _spread(values) for way, values in back.items() if values},
        "held": held,
        "other_camera": {
            "frames_a_second": round((len(times) - 1) / (times[-1] - times[0]), 2),
            "longest_gap_s": round(float(np.diff(times).max()), 3),
        },
    }


class _Watch:
    """Looks at what an agent writes."""

    def __init__(self, processes: Processes, agent: Process, output: Path) -> None:
        self._processes, self._agent, self._output = processes, agent, output

    def answers(self, camera: str) -> int:
        if not self._output.exists():
            return 0
        return self._output.read_bytes().count(b'"camera":"' + camera.encode() + b'"')

    def until(self, true: Callable[[], bool]) -> None:
        self._processes.wait(self._agent, true, _BOUND_S, "where it should be")


def _held(agent: Process) -> dict[str, int]:
    """What a process holds: its threads, open files and resident bytes."""
    process = Path(f"/proc/{agent.pid}")
    return {
        "threads": len(list((process / "task").iterdir())),
        "files": len(list((process / "fd").iterdir())),
        "resident_bytes": int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE"),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"count": len(values), "median": round(float(np.median(values)), 2), "most": round(max(values), 2)}


def load(bundle: Path, seconds: float, kind: str) -> dict[str, Any]:
    """Answer two cameras for so long; the figures."""
    heard: list[tuple[str, int, str, float]] = []  # camera, number, level, seconds from picture to answer

    def hear(answered: Answered) -> None:
        now = int(1000 * time.monotonic()) % (1 << 32) / 1000
        number, taken = stamped.read(answered.picture)
        heard.append((answered.line.camera, number, answered.line.level, now - taken))

    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        processes = stack.enter_context(Processes(Path(scratch) / "logs"))
        port, _ = start_cloud(processes, Bundle(bundle))
        commands = [[sys.executable, "-m", "benchmarks.stamped", str(seed)] for seed in range(len(_NAMES))]
        sources: list[Source] = []
        for command in commands:
            if kind != "pipe":
                camera = stack.enter_context(closing(rtsp.RtspCamera(pictures=command)))
                time.sleep(2.0)
            if kind == "rtsp":
                sources.append(open_source(camera.url))
            else:
                writing = command if kind == "pipe" else rtsp.gstreamer(camera.url)
                writer = stack.enter_context(subprocess.Popen(writing, stdout=subprocess.PIPE))
                stack.callback(writer.kill)
                assert writer.stdout is not None
                sources.append(Pipe("640x480:bgr24", fd=writer.stdout.fileno()))
        tables = tuple(CameraTable(name, kind) for name in _NAMES)
        settings = Settings(device="benchmark", region=stamped.REGION, camera=tables)
        agent = Agent(settings, sources, Address("127.0.0.1", port), Store(Path(scratch) / "store"), None)
        agent.observers.append(hear)
        running = threading.Thread(target=agent.run, args=(Sink(str(Path(scratch) / "answers")),))
        running.start()
        while any(camera.tally.frames < 5 * stamped.FPS for camera in agent.cameras):  # models come and settle
            time.sleep(0.05)
        heard.clear()
        dropped = [source.dropped for source in sources]
        begun, spent = time.monotonic(), time.process_time()
        time.sleep(seconds)
        took, spent = time.monotonic() - begun, time.process_time() - spent
        figures, known = list(heard), [source.dropped for source in sources]
        agent.stop()
        running.join()
    hits = [late for _, _, level, late in figures if level in ("frames", "submodels", "base")]
    each = {}
    for place, name in enumerate(_NAMES):
        numbers = [number for camera, number, _, _ in figures if camera == name]
        gone = numbers[-1] - numbers[0] + 1 - len(numbers)
        each[name] = {
            "answered": len(numbers),
            "dropped": known[place] - dropped[place],
            "missing": gone - (known[place] - dropped[place]),
        }
    return {
        "seconds": round(took, 1),
        "cameras": each,
        "levels": {level: sum(own == level for _, _, own, _ in figures) for level in sorted({f[2] for f in figures})},
        "hit_latency_ms": {f"p{q}": round(1000 * float(np.percentile(hits, q)), 1) for q in (50, 95, 99)},
        "core_a_camera": round(spent / took / len(_NAMES), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--freezes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each load")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("losses", *_KINDS))
    asked = parser.parse_args()
    if said := rtsp.missing(gstreamer=asked.only in (None, "gstreamer")):
        parser.error(said)
    figures = {}
    if asked.only in (None, "losses"):
        figures["losses"] = losses(asked.bundle, asked.kills, asked.freezes, asked.seed)
    for kind in _KINDS:
        if asked.only in (None, kind):
            figures[kind] = load(asked.bundle, asked.seconds, kind)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
