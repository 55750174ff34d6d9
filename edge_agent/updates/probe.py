"""The probe: a process that tests the models of a candidate set before the agent loads them.

A model may hang, use all memory or crash the runtime. The probe process has limits of time and memory, the lowest
priority, and is the first that the kernel kills when memory is short. It runs the models on the bundle's golden frames,
whose scores or objects must match the stored ones, and on the last frame of each camera.
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
from typing import Any

import msgspec
import numpy as np
import onnxruntime

from cachenet.edge_agent.updates.model_loading import answerer, check_answer, open_model
from cachenet.shared.bundle import golden_frames
from cachenet.shared.bundle.manifest import ExitKind, Layer, Manifest, Model, digest, parse
from cachenet.shared.cascade.detect.detections import Detections
from cachenet.shared.command.version import VERSION
from cachenet.shared.inference.engine import EngineError, Provider, first_line, providers
from cachenet.shared.inference.image import BadPicture, Picture
from cachenet.shared.media.pictures import decode

#: Versions of the programs that a probe's result depends on.
SOFTWARE = f"cachenet {VERSION}, onnxruntime {onnxruntime.__version__}"

#: Time limit of one probe on a CPU, seconds: five times the time of the slowest full model on the slowest device.
_CPU_TIMEOUT_S = 60.0
#: Time limit of one probe on other hardware, seconds: TensorRT compiles a model for minutes at its first load.
_OTHER_TIMEOUT_S = 900.0
#: Least memory limit of a probe without a memory budget, bytes.
_MIN_MEMORY_BYTES = 512 << 20
#: Memory limit of a probe without a memory budget, as a multiple of the largest model file.
_MEMORY_PER_FILE_BYTE = 16
#: Time between two checks of the process, seconds.
_POLL_S = 0.02
#: ``PR_SET_PDEATHSIG`` of ``prctl``: the signal that a process gets after the death of its parent.
_PARENT_DEATH = 1
_ROOT = str(Path(__file__).parents[3])
#: Program of the process. It ends with its parent, and imports from this installation whatever the working directory
#: contains.
_COMMAND = f"""
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl({_PARENT_DEATH}, signal.SIGKILL)
os.getppid() == int(sys.argv[1]) or os._exit(1)
sys.path.insert(0, {_ROOT!r})
from cachenet.edge_agent.updates.probe import main
main()
"""


class ProbeError(Exception):
    """A model must not be loaded; the message says why."""


class ProbeAborted(ProbeError):
    """The probe process was killed or could not be started. Another try may succeed."""


class ProbeRequest(msgspec.Struct, frozen=True):
    """Models to test.

    Attributes:
        manifest: Bytes of the bundle's manifest.
        models: Names of the models.
        files: Paths of the files that they need, in the system's encoding, by digest.
        frames: PNG or JPEG files of pictures that they must answer with any finite scores or any objects.
        provider: See ``engine.Session``.
        exit_kind: Kind of early exits of the full model; None without.
        memory: Memory limit of the process, bytes; 0: a multiple of the largest model file.
    """

    manifest: bytes
    models: tuple[str, ...]
    files: dict[str, bytes]
    frames: tuple[bytes, ...] = ()
    provider: Provider = "auto"
    exit_kind: ExitKind | None = None
    memory: int = 0


class _Result(msgspec.Struct, frozen=True):
    error: str = ""


def time_limit(provider: Provider) -> float:
    """Time limit of loading and testing a model, seconds."""
    return _CPU_TIMEOUT_S if providers(provider)[0] == "CPUExecutionProvider" else _OTHER_TIMEOUT_S


def probe(request: ProbeRequest, stopped: Callable[[], bool] = lambda: False, seconds: float = 0.0) -> None:
    """Test models in another process, and wait for the result.

    Args:
        stopped: Whether to give up.
        seconds: Time limit; 0: that of the provider.

    Raises:
        ProbeError: A model must not be loaded, or ``stopped`` returned true.
        ProbeAborted: The process was killed or could not be started.
    """
    memory, seconds = request.memory or _memory_limit(request), seconds or time_limit(request.provider)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        with os.fdopen(os.memfd_create("request"), "w+b") as stdin:
            stdin.write(msgspec.json.encode(msgspec.structs.replace(request, memory=memory)))
            stdin.seek(0)
            process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, str(os.getpid())],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
    except OSError as error:
        raise ProbeAborted(f"models cannot be tried now: {error.strerror}") from None
    assert process.stdout is not None
    failure, polls = "", 0
    try:
        while process.poll() is None and not failure:
            # Polls are counted, because the clock goes on while all processes are suspended.
            if (polls := polls + 1) * _POLL_S > seconds:
                failure = f"takes more than {seconds:.0f} s to load and to answer"
            elif _resident_bytes(process.pid) > memory:
                failure = f"takes more than {memory / 1e6:.0f} MB of memory"
            elif stopped():
                failure = "the program ends"
            else:
                time.sleep(_POLL_S)
    finally:
        code = process.poll()
        process.kill()
        output = process.stdout.read()
        process.stdout.close()
        process.wait()
    names = ", ".join(request.models)
    if failure:
        raise ProbeError(f"{names}: {failure}")
    if code in (-signal.SIGKILL, -signal.SIGTERM):
        raise ProbeAborted(f"{names}: the process that tried them was ended ({_exit_status(code)}); is memory short?")
    try:
        result = msgspec.json.decode(output, type=_Result)
    except msgspec.DecodeError:
        raise ProbeError(f"{names}: crashes the runtime ({_exit_status(code or 0)})") from None
    if result.error:
        raise ProbeError(result.error)


def main() -> None:
    """Main function of the process: a ``ProbeRequest`` on standard input, the result on standard output."""
    # The runtime may write to standard output, which must hold the result alone.
    result = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.nice(10)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=ProbeRequest)
    if request.provider == "cpu":  # a GPU driver reserves far more addresses than it uses
        address_space = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
        resource.setrlimit(resource.RLIMIT_AS, (address_space + request.memory,) * 2)
    error = ""
    try:
        _test(request)
    except (EngineError, golden_frames.GoldenError, BadPicture, OSError) as raised:
        error = str(raised)
    except MemoryError:
        error = f"{', '.join(request.models)}: takes more than {request.memory / 1e6:.0f} MB of memory"
    except Exception as raised:
        error = f"{', '.join(request.models)}: {first_line(raised)}"
    result.write(msgspec.json.encode(_Result(error)))
    result.flush()
    os._exit(0)  # threads of a model may still run


def _test(request: ProbeRequest) -> None:
    manifest = parse(request.manifest)
    golden = None
    if manifest.golden is not None and manifest.golden.sha256 in request.files:
        golden = golden_frames.read(_path(request, manifest.golden.sha256).read_bytes())
    pictures = [decode(data) for data in (golden.pictures if golden is not None else ())]
    frames = [decode(data) for data in request.frames]
    for name in request.models:
        try:
            answers = _run_model(request, manifest, name, pictures, frames)
        except EngineError as error:
            raise EngineError(f"{name}: {str(error).removeprefix(f'{name}: ')}") from None
        if golden is None:
            continue
        if manifest.models[name].decoder is not None:
            golden.check_objects(name, answers)
        else:
            golden.check(name, answers, manifest.models[name].temperature)


def _run_model(
    request: ProbeRequest, manifest: Manifest, name: str, pictures: list[Picture], frames: list[Picture]
) -> list[Any]:
    """Load one model and run it on all pictures; returns what it gives for the golden ones: rows of scores, or
    ``Detections``. Raises ``EngineError``."""
    model = manifest.models[name]

    def find(one: Model | Layer) -> Path:
        return _path(request, one.sha256)

    exit_kind = request.exit_kind if model.role == "full" and request.exit_kind in manifest.layers else None
    answer_to = answerer(open_model(manifest, name, find, request.provider, 1, exit_kind=exit_kind), model.input)
    noise = np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3), np.uint8)
    answers: list[Any] = []
    for picture in (*pictures, *frames, *noise, np.zeros_like(noise[0])):
        answer = answer_to(picture)
        check_answer(name, answer, len(manifest.labels))
        answers.append(answer if isinstance(answer, Detections) else tuple(map(float, answer[0])))
    return answers[: len(pictures)]


def _path(request: ProbeRequest, sha256: str) -> Path:
    return Path(os.fsdecode(request.files[sha256]))


def fingerprint(manifest: Manifest, name: str) -> str:
    """Digest of everything that the result of a probe of one model depends on."""
    model = manifest.models[name]
    layers = manifest.layers if model.role == "full" else {}
    return digest(msgspec.json.encode((model, layers, manifest.golden, len(manifest.labels), SOFTWARE)))


def _memory_limit(request: ProbeRequest) -> int:
    sizes = [model.bytes for model in parse(request.manifest).models.values() if model.sha256 in request.files]
    return max(_MIN_MEMORY_BYTES, _MEMORY_PER_FILE_BYTE * max(sizes, default=0))


def _resident_bytes(pid: int) -> int:
    """Resident set size of a process, bytes; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, IndexError):
        return 0


def _exit_status(code: int) -> str:
    """Exit status of a process as text."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
