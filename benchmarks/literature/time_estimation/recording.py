"""Measures networks and their kernels in rounds, and records each round, so that an ended measurement continues."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.literature.time_estimation import kernels
from benchmarks.literature.time_estimation.kernels import Kernel
from benchmarks.literature.timing import quicker_half
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.engine import session_options

#: Networks that take turns. Each finds the caches filled by the others, as on a device between two frames. Groups of 8
#: had their weights in the third-level cache or not, by their size: a kernel of 83,000 weights took 4 or 31 us.
_GROUP = 60
#: Runs of a network in a round; the first warms up.
_RUNS = 9


@dataclass(frozen=True)
class Network:
    """A network to measure.

    Attributes:
        family: Networks of one family have one architecture.
        model: Returns the ONNX file.
    """

    name: str
    family: str
    model: Callable[[], bytes]


@dataclass(frozen=True)
class Recording:
    """Measured times of a network on one thread.

    Attributes:
        kernels: The kernels of its optimised graph.
        seconds: Time of each kernel.
        whole: Time of a run: the thread's processor time, which leaves out the time of other processes.
    """

    name: str
    family: str
    kernels: tuple[Kernel, ...]
    seconds: tuple[float, ...]
    whole: float

    @property
    def macs(self) -> float:
        """Multiply-adds of convolutions and matrix products, with those of padded channels."""
        return sum(one.macs for one in self.kernels if not one.kind.endswith("Pool"))


def record(networks: Sequence[Network], rounds: int, work: Path, say: Callable[[str], None]) -> list[Recording]:
    """Measure each network in ``rounds`` rounds; a time is the least of its rounds.

    Args:
        work: Directory of the rounds. A round that is there is not measured again.
    """
    work.mkdir(parents=True, exist_ok=True)
    groups = [networks[at : at + _GROUP] for at in range(0, len(networks), _GROUP)]
    for number in range(rounds):
        for at, group in enumerate(groups):
            path = work / f"round-{number}-{at}.json"
            if not path.exists():
                atomic_files.write(path, json.dumps(_measure(group)).encode())
        say(f"{work.name}: round {number + 1} of {rounds}")
    found = []
    for at, group in enumerate(groups):
        measured = [json.loads((work / f"round-{number}-{at}.json").read_text()) for number in range(rounds)]
        for row, network in enumerate(group):
            own = [one[row] for one in measured]
            described = tuple(Kernel(one[0], one[1], one[2], tuple(one[3])) for one in own[0]["kernels"])
            seconds = tuple(np.min([one["seconds"] for one in own], axis=0).tolist())
            whole = min(one["whole"] for one in own)
            found.append(Recording(network.name, network.family, described, seconds, whole))
    return found


def _measure(group: Sequence[Network]) -> list[dict[str, object]]:
    """One round of some networks that take turns."""
    with tempfile.TemporaryDirectory() as directory:
        models = [network.model() for network in group]
        profiled = [_session(model, Path(directory, str(number))) for number, model in enumerate(models)]
        plain = [_session(model) for model in models]
        rng = np.random.default_rng(0)
        feeds = [{one.name: rng.random(one.shape, np.float32) for one in session.get_inputs()} for session in plain]
        took: list[list[float]] = [[] for _ in group]
        for _ in range(_RUNS):
            for session, feed, own in zip(plain, feeds, took, strict=True):
                started = time.thread_time()
                session.run(None, feed)
                own.append(time.thread_time() - started)
            for session, feed in zip(profiled, feeds, strict=True):
                session.run(None, feed)
        rows: list[dict[str, object]] = []
        for number, session in enumerate(profiled):
            found, seconds = kernels.read(Path(session.end_profiling()), Path(directory, f"{number}.onnx"))
            rows.append(
                {"kernels": found, "seconds": quicker_half(seconds[1:]), "whole": quicker_half(took[number][1:])}
            )
        return rows


def _session(model: bytes, profile: Path | None = None) -> ort.InferenceSession:
    options = session_options(1)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
        options.optimized_model_filepath = f"{profile}.onnx"
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
