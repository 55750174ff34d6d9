"""The probe: models of a candidate set are tried in a process of their own before the agent loads them.

A model may hang, take all memory or crash the runtime. In this process that harms nobody: it has bounds on time and
memory, it yields to all other work, and it is the first that the kernel ends when memory is short. It answers the
bundle's golden frames and what the cameras have seen last, and compares the former with the known scores.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime

from cachenet.edge_agent.updates.model_loading import check_scores, open_model
from cachenet.shared.bundle import golden_frames
from cachenet.shared.bundle.manifest import Layer, Manifest, Model, Way, digest, parse
from cachenet.shared.command.version import VERSION
from cachenet.shared.inference.early_exit import runner
from cachenet.shared.inference.engine import EngineError, Provider, first_line, providers
from cachenet.shared.inference.image import BadPicture, Picture, crop, preprocessor
from cachenet.shared.media.pictures import decode

#: What a probe's result holds for: another version of these programs may find another.
SOFTWARE = f"cachenet {VERSION}, onnxruntime {onnxruntime.__version__}"

#: Seconds that one probe may take: on a CPU, where the slowest full model on the slowest device takes a fifth, and on
#: anything else, for TensorRT compiles a model for minutes when it is loaded first.
_TIME_CPU_S, _TIME_OTHER_S = 60.0, 900.0
#: Bytes that the process may take, where no memory budget says so: at least, and as a multiple of the largest file.
_LEAST_BYTES, _TIMES_FILE = 512 << 20, 16
#: Seconds between two looks at the process.
_LOOK_S = 0.02
#: ``prctl``'s number for the signal that a process gets when its parent has ended.
_PARENT_DEATH = 1
_ROOT = str(Path(__file__).parents[3])
#: Ends with the process that began it, however that ends, and imports from here whatever the working directory holds.
_COMMAND = f"""
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl({_PARENT_DEATH}, signal.SIGKILL)
os.getppid() == int(sys.argv[1]) or os._exit(1)
sys.path.insert(0, {_ROOT!r})
from cachenet.edge_agent.updates.probe import main
main()
"""


class ProbeError(Exception):
    """A model that must not be loaded; the message says why."""


class ProbeAborted(ProbeError):
    """The probe has not come to an end through no fault of a model that is known: somebody ended its process, or it
    could not be started. Another try may succeed."""


class ProbeRequest(msgspec.Struct, frozen=True):
    """What is to be tried.

    Args:
        manifest: Bytes of the bundle's manifest.
        models: Names of the models to try.
        files: Paths of the files that they need, as the system has them, by digest.
        frames: PNG or JPEG files of pictures that they must answer, whatever they say.
        provider: See ``engine.Session``.
        way: Kind of the caches between the full model's layers that it will run with; None without.
        memory: Bytes that the process may take; 0 for what suits the models' files.
    """

    manifest: bytes
    models: tuple[str, ...]
    files: dict[str, bytes]
    frames: tuple[bytes, ...] = ()
    provider: Provider = "auto"
    way: Way | None = None
    memory: int = 0


class _Result(msgspec.Struct, frozen=True):
    error: str = ""


def time_limit(provider: Provider) -> float:
    """Seconds that a model may take to be loaded and tried."""
    return _TIME_CPU_S if providers(provider)[0] == "CPUExecutionProvider" else _TIME_OTHER_S


def probe(request: ProbeRequest, stopped: Callable[[], bool] = lambda: False, seconds: float = 0.0) -> None:
    """Try models in a process of their own, and wait for its end.

    Args:
        stopped: Whether to give up, because nobody wants to know any more.
        seconds: How long it may take; 0 for what suits the provider.

    Raises:
        ProbeError: A model must not be loaded, or ``stopped`` said so.
    """
    memory, seconds = request.memory or _memory(request), seconds or time_limit(request.provider)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        with os.fdopen(os.memfd_create("request"), "w+b") as given:
            given.write(msgspec.json.encode(msgspec.structs.replace(request, memory=memory)))
            given.seek(0)
            process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, str(os.getpid())],
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
    except OSError as error:
        raise ProbeAborted(f"models cannot be tried now: {error.strerror}") from None
    assert process.stdout is not None
    ended, looks = "", 0
    try:
        while process.poll() is None and not ended:
            # Looks are counted, for the clock goes on where all processes are stopped for a while.
            if (looks := looks + 1) * _LOOK_S > seconds:
                ended = f"takes more than {seconds:.0f} s to load and to answer"
            elif _resident_bytes(process.pid) > memory:
                ended = f"takes more than {memory / 1e6:.0f} MB of memory"
            elif stopped():
                ended = "the program ends"
            else:
                time.sleep(_LOOK_S)
    finally:
        code = process.poll()
        process.kill()
        said = process.stdout.read()
        process.stdout.close()
        process.wait()
    names = ", ".join(request.models)
    if ended:
        raise ProbeError(f"{names}: {ended}")
    if code in (-signal.SIGKILL, -signal.SIGTERM):
        raise ProbeAborted(f"{names}: the process that tried them was ended ({_how(code)}); is memory short?")
    try:
        result = msgspec.json.decode(said, type=_Result)
    except msgspec.DecodeError:
        raise ProbeError(f"{names}: crashes the runtime ({_how(code or 0)})") from None
    if result.error:
        raise ProbeError(result.error)


def main() -> None:
    """What the process does: a ``ProbeRequest`` on standard input, a result on standard output."""
    # The runtime may write to standard output; the result must be alone there.
    result = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.nice(10)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=ProbeRequest)
    if request.provider == "cpu":  # a GPU's driver reserves far more addresses than it uses
        address_space = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
        resource.setrlimit(resource.RLIMIT_AS, (address_space + request.memory,) * 2)
    error = ""
    try:
        _try(request)
    except (EngineError, golden_frames.GoldenError, BadPicture, OSError) as raised:
        error = str(raised)
    except MemoryError:
        error = f"{', '.join(request.models)}: takes more than {request.memory / 1e6:.0f} MB of memory"
    except Exception as raised:
        error = f"{', '.join(request.models)}: {first_line(raised)}"
    result.write(msgspec.json.encode(_Result(error)))
    result.flush()
    os._exit(0)  # whatever a model's threads do


def _try(request: ProbeRequest) -> None:
    manifest = parse(request.manifest)
    known = None
    if manifest.golden is not None and manifest.golden.sha256 in request.files:
        known = golden_frames.read(_path(request, manifest.golden.sha256).read_bytes())
    pictures = [decode(data) for data in (known.pictures if known is not None else ())]
    seen = [decode(data) for data in request.frames]
    for name in request.models:
        try:
            scores = _answer(request, manifest, name, pictures, seen)
        except EngineError as error:
            raise EngineError(f"{name}: {str(error).removeprefix(f'{name}: ')}") from None
        if known is not None:
            known.check(name, scores, manifest.models[name].temperature)


def _answer(
    request: ProbeRequest, manifest: Manifest, name: str, pictures: list[Picture], seen: list[Picture]
) -> list[tuple[float, ...]]:
    """Load one model and run it on all pictures; its scores for the golden ones. Raises ``EngineError``."""
    model = manifest.models[name]

    def find(one: Model | Layer) -> Path:
        return _path(request, one.sha256)

    way = request.way if model.role == "full" and request.way in manifest.layers else None
    run, prepare = runner(open_model(manifest, name, find, request.provider, 1, way=way)), preprocessor(model.input)
    drawn = np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3), np.uint8)
    scores = []
    for picture in (*pictures, *seen, *drawn, np.zeros_like(drawn[0])):
        logits = run(prepare(crop(picture, model.input)))
        check_scores(name, logits, len(manifest.labels))
        scores.append(tuple(map(float, logits[0])))
    return scores[: len(pictures)]


def _path(request: ProbeRequest, sha256: str) -> Path:
    return Path(os.fsdecode(request.files[sha256]))


def fingerprint(manifest: Manifest, name: str) -> str:
    """What the result of a probe of one model depends on, as a digest: another of these may give another result."""
    model = manifest.models[name]
    layers = manifest.layers if model.role == "full" else {}
    return digest(msgspec.json.encode((model, layers, manifest.golden, len(manifest.labels), SOFTWARE)))


def _memory(request: ProbeRequest) -> int:
    sizes = [model.bytes for model in parse(request.manifest).models.values() if model.sha256 in request.files]
    return max(_LEAST_BYTES, _TIMES_FILE * max(sizes, default=0))


def _resident_bytes(pid: int) -> int:
    """Resident set size of a process, bytes; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, IndexError):
        return 0


def _how(code: int) -> str:
    """How a process has ended, for a person."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
