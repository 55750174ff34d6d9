"""Cost of several cameras, and recovery after a camera is lost. Network cameras are real RTSP servers, fed by ffmpeg.

    python -m benchmarks.cameras

``losses``: one of two network cameras of a running agent is killed 20 times and frozen 5 times, each time until the
agent notices and up to 5 s more. Measures: time until the loss is noticed, and from the server's return to the next
answer; threads, files and memory of the agent; frame rate of the other camera.

``pipe``, ``rtsp`` and ``gstreamer``: two cameras of 640x480 at 10 frames a second, raw through pipes, as H.264 by RTSP,
or RTSP read by GStreamer and piped; broker and server run on the same machine. Measures: answered, dropped and missing
frames; time from picture to the answer of a hit; processor time of the agent. The time by RTSP includes encoder,
network and decoder, and one frame more: FFmpeg detects the end of an H.264 picture by the start of the next one.
GStreamer uses RTP's marker.
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

from benchmarks import rtsp
from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.camera import AnsweredFrame
from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.settings import CameraTable, Settings
from cachenet.edge_agent.sources import Pipe, Source, open_source
from cachenet.edge_agent.updates.store import Store
from cachenet.models.data import sample, streams
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.inference.image import Picture
from cachenet.shared.transport.mqtt import Address
from cachenet.simulator.live.compare import start_cloud
from cachenet.simulator.world.processes import Process, Processes

#: Names of the cameras.
_NAMES = ("front", "back")
#: Ways of the pictures to the agent.
_KINDS = ("pipe", "rtsp", "gstreamer")
#: Frame rate, frames per second.
_FPS = 10
#: Longest wait for an event, seconds.
_TIMEOUT_S = 60.0
#: Height of the stamp at a picture's lower edge, pixels.
_STRIP = 24
#: The region above the stamp.
_REGION = "0,0,1,0.95"
#: Bits of a stamp for the number, and for the machine's monotonic clock, milliseconds.
_NUMBER, _CLOCK = 16, 32
_BITS = _NUMBER + _CLOCK


def stamp(picture: Picture, number: int, seconds: float) -> None:
    """Write number and time over a picture's lower edge, as black and white blocks that survive H.264."""
    code = ((number % (1 << _NUMBER)) << _CLOCK) | (int(1000 * seconds) % (1 << _CLOCK))
    bits = np.array([code >> place & 1 for place in range(_BITS)], np.uint8)
    edges = np.arange(picture.shape[1]) * _BITS // picture.shape[1]
    picture[-_STRIP:] = 255 * bits[edges][None, :, None]


def read_stamp(picture: Picture) -> tuple[int, float]:
    """Number and time, seconds, of a stamped picture."""
    places = (np.arange(_BITS) + 0.5) * picture.shape[1] / _BITS
    bits = picture[-_STRIP // 2, places.astype(int), 1] > 127
    code = sum(int(bit) << place for place, bit in enumerate(bits))
    return code >> _CLOCK, code % (1 << _CLOCK) / 1000


def write_pictures(seed: int) -> None:
    """Write stamped pictures of a camera's stream to stdout, bgr24, until the reader ends."""
    split = sample.load()
    plan = streams.schedule("camera", split.labels, seed, 3000)
    render = streams.renderer(plan, split.images)
    number, due = 0, time.monotonic()
    while True:
        picture = np.ascontiguousarray(render(number % len(plan)))
        due += 1 / _FPS
        time.sleep(max(0.0, due - time.monotonic()))
        stamp(picture, number, time.monotonic())
        try:
            sys.stdout.buffer.write(picture.tobytes())
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            return
        number += 1


def losses(bundle: Path, kills: int, freezes: int, seed: int) -> dict[str, Any]:
    """Kill and freeze the first camera; return the measures."""
    rng = random.Random(seed)
    ways = ["killed"] * kills + ["frozen"] * freezes
    rng.shuffle(ways)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        cameras = [stack.enter_context(closing(rtsp.RtspCamera(gop=20))) for _ in _NAMES]
        work = Path(scratch)
        config, output = work / "agent.toml", work / "answers.jsonl"
        tables = [
            f'[[camera]]\nname = "{name}"\nsource = "{camera.url}"\n'
            for name, camera in zip(_NAMES, cameras, strict=True)
        ]
        config.write_text(f'levels = ["base"]\nsummary = "{work}/summary.json"\n' + "".join(tables))
        processes = stack.enter_context(Processes(work))
        arguments = ("run", "--config", str(config), "--bundle", str(bundle), "--output", str(output))
        agent = processes.start("agent", "edge_agent", *arguments)

        def answers(camera: str) -> int:
            found = output.read_bytes() if output.exists() else b""
            return found.count(b'"camera":"' + camera.encode() + b'"')

        def wait(true: Callable[[], bool]) -> None:
            processes.wait(agent, true, _TIMEOUT_S, "ready")

        wait(lambda: answers("front") > 50 and answers("back") > 50)
        resources = {"before": _resources(agent)}
        noticed: dict[str, list[float]] = {"killed": [], "frozen": []}
        back: dict[str, list[float]] = {"killed": [], "frozen": []}
        for number, way in enumerate(ways, 1):
            begun = time.monotonic()
            (cameras[0].kill if way == "killed" else cameras[0].freeze)()
            wait(lambda number=number: agent.log.read_text().count("is lost") == number)  # type: ignore[misc]
            noticed[way].append(time.monotonic() - begun)
            time.sleep(rng.uniform(0.0, 5.0))
            before = answers("front")
            (cameras[0].start if way == "killed" else cameras[0].thaw)()
            begun = time.monotonic()
            wait(lambda before=before: answers("front") > before)  # type: ignore[misc]
            back[way].append(time.monotonic() - begun)
            time.sleep(rng.uniform(0.5, 1.5))
            if number == len(ways) // 2:
                resources["halfway"] = _resources(agent)
        resources["after"] = _resources(agent)
        agent.stop()
        summary = json.loads((work / "summary.json").read_text())["cameras"]
        times = [line["time"] for line in map(json.loads, output.read_text().splitlines()) if line["camera"] == "back"]
    return {
        "losses": {name: summary[name]["losses"] for name in _NAMES},
        "noticed_s": {way: _statistics(values) for way, values in noticed.items() if values},
        "back_s": {way: _statistics(values) for way, values in back.items() if values},
        "held": resources,
        "other_camera": {
            "frames_a_second": round((len(times) - 1) / (times[-1] - times[0]), 2),
            "longest_gap_s": round(float(np.diff(times).max()), 3),
        },
    }


def _resources(agent: Process) -> dict[str, int]:
    """Threads, open files and resident bytes of a process."""
    process = Path(f"/proc/{agent.pid}")
    return {
        "threads": len(list((process / "task").iterdir())),
        "files": len(list((process / "fd").iterdir())),
        "resident_bytes": int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE"),
    }


def _statistics(values: list[float]) -> dict[str, float]:
    return {"count": len(values), "median": round(float(np.median(values)), 2), "most": round(max(values), 2)}


def load(bundle: Path, seconds: float, kind: str) -> dict[str, Any]:
    """Answer two cameras for ``seconds``; return the measures."""
    answers: list[tuple[str, int, str, float]] = []  # camera, number, level, seconds from picture to answer

    def on_frame(answered: AnsweredFrame) -> None:
        now = int(1000 * time.monotonic()) % (1 << _CLOCK) / 1000
        number, taken = read_stamp(answered.picture)
        answers.append((answered.line.camera, number, answered.line.level, now - taken))

    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        processes = stack.enter_context(Processes(Path(scratch) / "logs"))
        port, _ = start_cloud(processes, Bundle(bundle))
        sources: list[Source] = []
        for seed in range(len(_NAMES)):
            command = [sys.executable, "-m", "benchmarks.cameras", "--write-pictures", str(seed)]
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
        settings = Settings(device="benchmark", region=_REGION, camera=tables)
        agent = Agent(settings, sources, [Address("127.0.0.1", port)], Store(Path(scratch) / "store"), None)
        agent.observers.append(on_frame)
        running = threading.Thread(target=agent.run, args=(JsonLinesWriter(str(Path(scratch) / "answers")),))
        running.start()
        while any(camera.tally.frames < 5 * _FPS for camera in agent.cameras):  # until the models are loaded
            time.sleep(0.05)
        answers.clear()
        dropped = [source.dropped for source in sources]
        begun, spent = time.monotonic(), time.process_time()
        time.sleep(seconds)
        took, spent = time.monotonic() - begun, time.process_time() - spent
        found, dropped_after = list(answers), [source.dropped for source in sources]
        agent.stop()
        running.join()
    hits = [late for _, _, level, late in found if level in ("frames", "submodels", "base")]
    each = {}
    for place, name in enumerate(_NAMES):
        numbers = [number for camera, number, _, _ in found if camera == name]
        lost, dropped_now = numbers[-1] - numbers[0] + 1 - len(numbers), dropped_after[place] - dropped[place]
        each[name] = {"answered": len(numbers), "dropped": dropped_now, "missing": lost - dropped_now}
    levels = [level for _, _, level, _ in found]
    return {
        "seconds": round(took, 1),
        "cameras": each,
        "levels": {level: levels.count(level) for level in sorted(set(levels))},
        "hit_latency_ms": {f"p{q}": round(1000 * float(np.percentile(hits, q)), 1) for q in (50, 95, 99)},
        "core_a_camera": round(spent / took / len(_NAMES), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--freezes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of each load, seconds (default: 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("losses", *_KINDS))
    parser.add_argument("--write-pictures", type=int, metavar="SEED", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.write_pictures is not None:
        write_pictures(chosen.write_pictures)
        return
    if error := rtsp.missing(gstreamer=chosen.only in (None, "gstreamer")):
        parser.error(error)
    found = {}
    if chosen.only in (None, "losses"):
        found["losses"] = losses(chosen.bundle, chosen.kills, chosen.freezes, chosen.seed)
    for kind in _KINDS:
        if chosen.only in (None, kind):
            found[kind] = load(chosen.bundle, chosen.seconds, kind)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
