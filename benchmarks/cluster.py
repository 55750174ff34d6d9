"""The same simulator comparison in this process, in a process pool, and on Ray clusters of 1, 2 and 4 nodes.

    python -m benchmarks.cluster --json build/cluster.json

All pools have as many workers: a cluster divides them among its nodes, which are on this machine. Each round takes
every way in turn, so that other load of the machine meets all. Every worker of a pool has imported its modules
before the time is taken. Printed for each way: the median of the seconds of all rounds, the median of the ratios to the
process pool of the same round, and the SHA-256 of the results, which must be the same. ``--build`` also builds a trial
bundle in this process and on each cluster, once, and prints the digest of its models.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec
from rich.progress import Progress

from cachenet.models.certify import traces
from cachenet.models.data import cifar10, sample
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle, digest
from cachenet.shared.command import atomic_files, jobs
from cachenet.simulator.report import comparison

if TYPE_CHECKING:
    from cachenet.models.data.dataset import Dataset

_NODES = (1, 2, 4)
#: Object store of a node, bytes.
_STORE = 200_000_000
#: Pictures of the trial bundle.
_PICTURES = 300


def _wait(seconds: float, _number: int) -> int:
    """A small job that imports what the others need; returns its worker's process number."""
    time.sleep(seconds)
    return os.getpid()


@contextmanager
def process_pool(workers: int) -> Iterator[jobs.Run]:
    with ProcessPoolExecutor(workers, get_context("spawn")) as executor:

        def run(function: Callable[[Any, Any], Any], shared: Any, arguments: Iterable[Any]) -> Iterator[Any]:
            return executor.map(partial(function, shared), arguments)

        yield run


@contextmanager
def cluster(nodes: int, workers: int) -> Iterator[jobs.Run]:
    """A local cluster of ``nodes``, which have ``workers`` processors together."""
    os.environ.setdefault("RAY_agent_register_timeout_ms", "300000")  # a loaded machine starts processes slowly
    from ray.cluster_utils import Cluster

    node = {"num_cpus": workers // nodes, "object_store_memory": _STORE, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=node)
    try:
        for _ in range(nodes - 1):
            started.add_node(**node)
        with jobs.connected(started.address) as run:
            yield run
    finally:
        started.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--workers", type=int, default=4, help="workers of a pool; a multiple of 4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--stream", default="dwell")
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bundle = Bundle(zoo.find(Path("cifar10")))
    setup = comparison.Setup(stream=options.stream, seeds=range(1000, 1000 + options.seeds), frames=options.frames)
    models, split = traces.open_models(bundle), sample.load()

    def compared(run: jobs.Run) -> str:
        with Progress(disable=True) as progress:
            bench = comparison.prepare(bundle, setup, split, models, progress, run)
            found = comparison.summary(comparison.compare(bench, setup, None, progress, run))
        return digest(msgspec.json.encode(found))

    workers = options.workers
    ways: dict[str, Callable[[], AbstractContextManager[jobs.Run]]] = {
        "in process": lambda: jobs.connected(""),
        "process pool": lambda: process_pool(workers),
        **{f"ray, nodes: {nodes}": partial(cluster, nodes, workers) for nodes in _NODES},
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, set[str]] = {name: set() for name in ways}
    for _ in range(options.rounds):
        for name, opened in ways.items():
            with opened() as run:
                ready: set[int] = set()
                while run is not jobs.in_process and len(ready) < workers:
                    ready |= set(run(_wait, 1.0, range(workers)))
                started = time.perf_counter()
                results[name].add(compared(run))
                seconds[name].append(time.perf_counter() - started)
            print(f"{name:16} {seconds[name][-1]:7.1f} s   load {os.getloadavg()[0]:.1f}", flush=True)
    report: dict[str, Any] = {
        name: {
            "seconds": taken,
            "median_s": statistics.median(taken),
            "of_the_pool": statistics.median(a / b for a, b in zip(taken, seconds["process pool"], strict=True)),
            "digests": sorted(results[name]),
        }
        for name, taken in seconds.items()
    }
    for name, row in report.items():
        print(f"{name:16} {row['median_s']:7.1f} s  {row['of_the_pool']:.2f} of the pool  {row['digests']}")
    if options.build:
        report["bundles"] = _bundles(ways)
        for name, found in report["bundles"].items():
            print(f"bundle, {name:16} {found}")
    if options.json is not None:
        atomic_files.write(options.json, msgspec.json.format(msgspec.json.encode(report), indent=2))


def _bundles(ways: dict[str, Callable[[], AbstractContextManager[jobs.Run]]]) -> dict[str, str]:
    """Digest of the models of a trial bundle, by the way that it is built. Measured times are no part of a digest."""
    from cachenet.models.build import build
    from cachenet.models.build_config import QUICK

    found = {}
    with TemporaryDirectory() as directory:
        place = Path(directory)
        dataset = _dataset(place)
        config = replace(QUICK, name="trial", shares=(1 / 100, 1 / 200), precision="float16")
        for number, (name, opened) in enumerate(ways.items()):
            with opened() as run, Progress(disable=True) as progress:
                built = build(config, dataset, place / f"work-{number}", place / f"out-{number}", progress, run)
            manifest = built.manifest
            digests = {name: model.sha256 for name, model in manifest.models.items()}
            found[name] = digest(msgspec.json.encode([digests, manifest.priors, manifest.certificates]))
    return found


def _dataset(place: Path) -> Dataset:
    import cv2

    from cachenet.models.data.dataset import collect
    from cachenet.models.data.frames import find
    from cachenet.models.export.classifier import load_classifier
    from cachenet.models.train.label import label_frames

    split = sample.load()
    for number in range(_PICTURES):
        folder = place / "data" / cifar10.LABELS[split.labels[number]]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number:03}.png"), split.images[number][:, :, ::-1])
    classifier, frames = load_classifier(zoo.find(Path("cifar10")) / "full/1/model.onnx"), find(place / "data")
    return collect(classifier, (frames, label_frames(classifier, frames, place, 1)))


if __name__ == "__main__":
    main()
