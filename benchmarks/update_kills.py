"""Whether a device answers after ``kill -9`` at any moment of an update.

    python -m benchmarks.update_kills [--kills 100] [--json]

A server offers a newer version of the shipped bundle, with other bytes in every model, to an agent whose store holds
the shipped version. Each round starts the agent on a copy of that store and kills it at a random moment between its
start and the end of the update. It then starts the agent twice on the same store, without and with a network. Both
must answer a frame within five seconds of the process's start.
"""

from __future__ import annotations

import argparse
import json
import os
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
#: Frame rate of the stream, frames per second.
_FPS = 250
#: Frames of the stream, enough for an update and its trial.
_FRAMES = 6000
#: Frames that show one image. Links take the place of copies: 6000 files take longer to delete than kills to measure.
_REPEATS = 20
#: Longest duration of an undisturbed update, seconds.
_UPDATE_TIMEOUT_S = 60.0


def measure(kills: int, seed: int, limit: float, workers: int, progress: bool) -> dict[str, object]:
    """The measures as the command prints them."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        _stream(work / "frames")
        newer = _newer(work / "newer")
        _store(work / "store")
        port = free_port()
        with (work / "server.log").open("wb") as log:
            server = subprocess.Popen(
                [*(sys.executable, "-m", "cachenet.cloud_server", "run", "--bundle", str(newer.directory)),
                 *("--broker", "embedded", "--port", str(port), "--provider", "cpu")],
                stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
        try:
            return _rounds(
                work,
                f"mqtt://127.0.0.1:{port}",
                newer.version,
                kills,
                limit,
                workers,
                random.Random(seed),
                progress,
            )
        finally:
            server.terminate()
            server.wait()


def _rounds(
    work: Path,
    broker: str,
    version: str,
    kills: int,
    limit: float,
    workers: int,
    rng: random.Random,
    progress: bool,
) -> dict[str, object]:
    length = _update_s(work, broker, version)
    moments = [rng.uniform(0.0, 1.1 * length) for _ in range(kills)]
    stages: Counter[str] = Counter()
    answered: dict[str, list[float]] = {"offline": [], "online": []}
    with ThreadPoolExecutor(workers) as pool:
        rounds = (
            pool.submit(_round, work, number, broker, version, moment, limit) for number, moment in enumerate(moments)
        )
        for done, ended in enumerate(as_completed(list(rounds)), 1):
            stage, offline, online = ended.result()
            stages[stage] += 1
            answered["offline"].append(offline)
            answered["online"].append(online)
            if progress:
                print(f"\r{done} of {kills} kills", end="\n" * (done == kills), file=sys.stderr, flush=True)
    measures: dict[str, object] = {"kills": kills}
    for way, times in answered.items():
        measures[f"{way}_answered"] = sum(seconds <= limit for seconds in times)
        measures[f"{way}_median_s"] = round(statistics.median(times), 2)
        measures[f"{way}_longest_s"] = round(max(times), 2)
    return measures | {"update_s": round(length, 2), "killed_while": dict(stages.most_common())}


def _round(work: Path, number: int, broker: str, version: str, moment: float, limit: float) -> tuple[str, float, float]:
    """Kill one agent ``moment`` seconds after its start.

    Returns:
        The stage of the update, and seconds to the first answer afterwards, without and with a network.
    """
    store = _copy(work, number)
    agent = _Agent(work, store, broker)
    time.sleep(moment)
    agent.kill()
    stage, seconds = _stage(store, version), []
    for address in ("mqtt://127.0.0.1:1", broker):
        again = _Agent(work, store, address)
        seconds.append(again.first_answer_s(2 * limit))
        again.kill()
    shutil.rmtree(store)
    return stage, seconds[0], seconds[1]


class _Agent:
    """An agent process, with the time of its first answer."""

    def __init__(self, work: Path, store: Path, broker: str) -> None:
        self._output = store.with_suffix(".jsonl")
        self._output.unlink(missing_ok=True)
        self._begun = time.monotonic()
        with (work / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*(sys.executable, "-m", "cachenet.edge_agent", "run", str(work / "frames"), "--fps", str(_FPS)),
                 *("--broker", broker, "--store", str(store), "--device", store.name, "--provider", "cpu", "--no-view"),
                 *("--output", str(self._output))],
                stdout=subprocess.DEVNULL, stderr=log,
                env={**os.environ, "CACHENET_LEVELS": "frames,submodels,base"},
            )  # fmt: skip

    def first_answer_s(self, timeout_s: float) -> float:
        """Seconds from the start of the process to its first answer; infinite after ``timeout_s``."""
        while time.monotonic() - self._begun < timeout_s and self._process.poll() is None:
            if self._output.exists() and self._output.stat().st_size:
                return time.monotonic() - self._begun
            time.sleep(0.01)
        return float("inf")

    def kill(self) -> None:
        """End the process with SIGKILL."""
        self._process.kill()
        self._process.wait()


def _update_s(work: Path, broker: str, version: str) -> float:
    """Seconds from the start of an agent to the end of an undisturbed update."""
    store, begun = _copy(work, 0), time.monotonic()
    agent = _Agent(work, store, broker)
    try:
        while _stage(store, version) != "committed":
            if time.monotonic() - begun > _UPDATE_TIMEOUT_S:
                log = (work / "agent.log").read_text()
                raise SystemExit(f"update_kills: the update has not ended after {_UPDATE_TIMEOUT_S:.0f} s\n{log}")
            time.sleep(0.05)
        return time.monotonic() - begun
    finally:
        agent.kill()


def _stage(store: Path, version: str) -> str:
    """Stage of the update, from the store."""
    opened = Store(store)
    if (current := opened.current()) is not None and digest(current) == version:
        return "committed" if opened.previous("cifar10") is None else "trial"
    if opened.candidate() is None:
        return "before the update"
    return "pending" if not any((store / "probed").iterdir()) else "probed"


def _copy(work: Path, number: int) -> Path:
    store = work / f"device{number}"
    shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(work / "store", store)
    return store


def _stream(directory: Path) -> None:
    """Write a stream of sample images. Each is shown for 20 frames, which are links to one file."""
    images, shown = sample.load().images[:, :, :, ::-1], _FRAMES // _REPEATS
    recording = stream.Recording(
        name="frames", seed=None, frames=shown, fps=float(_FPS), labels=(), truth=None, files="%06d.png"
    )
    distinct = directory.with_name("images")
    stream.write(distinct, recording, (np.ascontiguousarray(image) for image in images[:shown]))
    directory.mkdir()
    for number in range(_FRAMES):
        os.link(distinct / (recording.files % (number // _REPEATS)), directory / (recording.files % number))
    whole = msgspec.structs.replace(recording, frames=_FRAMES)
    (directory / stream.MANIFEST).write_bytes(msgspec.json.encode(whole))


def _newer(directory: Path) -> Bundle:
    """The shipped bundle with metadata added to every model: other bytes, and another version."""
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
    """A store that holds the shipped bundle, with its base model and its other general model."""
    store, bundle = Store(directory), Bundle(ZOO)
    for name in (bundle.manifest.only("base"), *bundle.manifest.general_models()):
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
    parser.add_argument("--workers", type=int, default=1, help="devices at a time (default: 1)")
    parser.add_argument("--json", action="store_true", help="print JSON in work of lines")
    chosen = parser.parse_args()
    measures = measure(chosen.kills, chosen.seed, chosen.limit, chosen.workers, sys.stderr.isatty())
    if chosen.json:
        print(json.dumps(measures))
    else:
        for name, value in measures.items():
            print(f"{name:18} {value}")
    if min(measures["offline_answered"], measures["online_answered"]) < chosen.kills:  # type: ignore[call-overload]
        raise SystemExit(1)


if __name__ == "__main__":
    main()
