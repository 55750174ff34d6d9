"""Whether a device answers whatever moment of an update it is killed at.

    python -m benchmarks.update_kills [--kills 100] [--json]

A server offers a newer version of the shipped bundle, with other bytes in every model, to an agent whose store holds
the shipped one. Each round gives the agent a fresh copy of that store, ends it with ``kill -9`` at a random moment
between its start and the end of the update, and starts it twice on what is left: without a network, and with one. Both
must answer a frame within five seconds of the start of the process.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import msgspec
import numpy as np
import onnx

from cachenet.edge_agent.updates.store import Store
from cachenet.models.data import sample
from cachenet.shared.bundle.manifest import MANIFEST, Bundle, digest, file_digest
from cachenet.shared.media import recording as stream
from cachenet.simulator.world.processes import free_port

ZOO = Path(__file__).parents[1] / "models/zoo/cifar10"
#: Frames a second of the stream, and their number: enough for an update and its trial.
_FPS, _FRAMES = 250, 6000
_WAIT_S = 60.0


def measure(kills: int, seed: int, limit: float, workers: int, progress: bool) -> dict[str, object]:
    """The figures as the command prints them."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        _stream(place / "frames")
        newer = _newer(place / "newer")
        _store(place / "store")
        port = free_port()
        with (place / "server.log").open("wb") as log:
            server = subprocess.Popen(
                [*(sys.executable, "-m", "cachenet.cloud_server", "run", "--bundle", str(newer.directory)),
                 *("--broker", "embedded", "--port", str(port), "--provider", "cpu")],
                stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
        try:
            return _rounds(
                place, f"mqtt://127.0.0.1:{port}", newer.version, kills, limit, workers, random.Random(seed), progress
            )
        finally:
            server.terminate()
            server.wait()


def _rounds(
    place: Path, broker: str, version: str, kills: int, limit: float, workers: int, rng: random.Random, progress: bool
) -> dict[str, object]:
    length = _update_s(place, broker, version)
    moments = [rng.uniform(0.0, 1.1 * length) for _ in range(kills)]
    stages: Counter[str] = Counter()
    answered: dict[str, list[float]] = {"offline": [], "online": []}
    with ThreadPoolExecutor(workers) as pool:
        rounds = (
            pool.submit(_round, place, number, broker, version, moment, limit) for number, moment in enumerate(moments)
        )
        for done, ended in enumerate(as_completed(list(rounds)), 1):
            stage, offline, online = ended.result()
            stages[stage] += 1
            answered["offline"].append(offline)
            answered["online"].append(online)
            if progress:
                print(f"\r{done} of {kills} kills", end="\n" * (done == kills), file=sys.stderr, flush=True)
    figures: dict[str, object] = {"kills": kills}
    for way, times in answered.items():
        figures[f"{way}_answered"] = sum(seconds <= limit for seconds in times)
        figures[f"{way}_median_s"] = round(statistics.median(times), 2)
        figures[f"{way}_longest_s"] = round(max(times), 2)
    return figures | {"update_s": round(length, 2), "killed_while": dict(stages.most_common())}


def _round(
    place: Path, number: int, broker: str, version: str, moment: float, limit: float
) -> tuple[str, float, float]:
    """Kill one agent ``moment`` seconds after its start: how far the update had come, and seconds to the first answer
    afterwards, without a network and with one."""
    store = _copy(place, number)
    agent = _Agent(place, store, broker)
    time.sleep(moment)
    agent.kill()
    stage, seconds = _stage(store, version), []
    for address in ("mqtt://127.0.0.1:1", broker):
        again = _Agent(place, store, address)
        seconds.append(again.first_answer_s(2 * limit))
        again.kill()
    shutil.rmtree(store)
    return stage, seconds[0], seconds[1]


class _Agent:
    """The agent as a process, and when its first answer was there."""

    def __init__(self, place: Path, store: Path, broker: str) -> None:
        self._output = store.with_suffix(".jsonl")
        self._output.unlink(missing_ok=True)
        self._begun = time.monotonic()
        with (place / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*(sys.executable, "-m", "cachenet.edge_agent", "run", str(place / "frames"), "--fps", str(_FPS)),
                 *("--broker", broker, "--store", str(store), "--device", store.name, "--provider", "cpu", "--no-view"),
                 *("--set", "levels=frames,submodels,base", "--output", str(self._output))],
                stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip

    def first_answer_s(self, patience: float) -> float:
        """Seconds from the start of the process to its first answer; infinite if there is none in time."""
        while time.monotonic() - self._begun < patience and self._process.poll() is None:
            if self._output.exists() and self._output.stat().st_size:
                return time.monotonic() - self._begun
            time.sleep(0.01)
        return float("inf")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def _update_s(place: Path, broker: str, version: str) -> float:
    """Seconds from the start of an agent to the end of an update that nothing cuts off."""
    store, begun = _copy(place, 0), time.monotonic()
    agent = _Agent(place, store, broker)
    try:
        while _stage(store, version) != "committed":
            if time.monotonic() - begun > _WAIT_S:
                log = (place / "agent.log").read_text()
                raise SystemExit(f"update_kills: the update has not ended after {_WAIT_S:.0f} s\n{log}")
            time.sleep(0.05)
        return time.monotonic() - begun
    finally:
        agent.kill()


def _stage(store: Path, version: str) -> str:
    """How far the update has come, as the store has it."""
    opened = Store(store)
    if (current := opened.recall()) is not None and digest(current) == version:
        return "committed" if opened.previous("cifar10") is None else "trial"
    if opened.candidate() is None:
        return "before the update"
    return "pending" if not any((store / "probed").iterdir()) else "probed"


def _copy(place: Path, number: int) -> Path:
    store = place / f"device{number}"
    shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(place / "store", store)
    return store


def _stream(directory: Path) -> None:
    """Frames of the sample, each picture for a while, as a camera sees objects."""
    images = sample.load().images[:, :, :, ::-1]
    recording = stream.Recording(
        name="frames", seed=None, frames=_FRAMES, fps=float(_FPS), labels=(), truth=None, files="%06d.png"
    )
    stream.write(directory, recording, (np.ascontiguousarray(images[n // 20]) for n in range(_FRAMES)))


def _newer(directory: Path) -> Bundle:
    """The shipped bundle with a note in every model, and so other bytes and another version."""
    shutil.copytree(ZOO, directory)
    manifest = Bundle(ZOO).manifest
    models = {}
    for name, described in manifest.models.items():
        path = directory / described.file
        model = onnx.load(path)
        model.metadata_props.add(key="revision", value="2")
        onnx.save(model, path)
        models[name] = msgspec.structs.replace(described, bytes=path.stat().st_size, sha256=file_digest(path))
    (directory / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, models=models)))
    return Bundle(directory)


def _store(directory: Path) -> None:
    """A store whose current set is the shipped bundle, with its base model and its other general model."""
    store, bundle = Store(directory), Bundle(ZOO)
    for name in (bundle.manifest.only("base"), *bundle.manifest.generals()):
        store.append(bundle.manifest.models[name].sha256, bundle.path(name).read_bytes())
        store.finish(bundle.manifest.models[name].sha256)
    store.stage(bundle.data, bundle.manifest)
    store.promote(bundle.manifest.name, bundle.version)
    store.commit(bundle.manifest.name)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.update_kills", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--kills", type=int, default=100, help="number of kill -9 at random moments (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--limit", type=float, default=5.0, help="seconds to the first answer (default: 5)")
    parser.add_argument("--workers", type=int, default=1, help="devices that are killed at a time (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    figures = measure(given.kills, given.seed, given.limit, given.workers, sys.stderr.isatty())
    if given.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:18} {value}")
    if min(figures["offline_answered"], figures["online_answered"]) < given.kills:  # type: ignore[call-overload]
        raise SystemExit(1)


if __name__ == "__main__":
    main()
