"""ONNX Runtime, set up for small devices: one thread budget, no spinning between runs, no arena, memory that comes
back.

Without these settings an idle session burns a core in spinning and keeps every byte it ever touched. Within a run the
threads do spin: to put them to sleep and wake them between operators takes longer than most operators do (measured on
two cores, a question every 33 ms: ResNet-18 in 12.3 ms without, 7.3 with).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from cachenet.shared.command.errors import UserError
from cachenet.shared.command.file_names import path_or_bytes

Logits = npt.NDArray[np.float32]
#: Of pictures or of what comes of them: ``(n, ...)``.
Batch = npt.NDArray[np.float32]
Provider = Literal["auto", "cpu", "cuda", "tensorrt"]

_EXECUTION = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}

#: A session's option without which sums of INT8 overflow, in silence, on x86 processors without VNNI, and nothing that
#: was proven of a model holds there.
EXACT = ("session.x64quantprecision", "1")

#: What ONNX Runtime puts before a reason: a status, and a place in its source with the function's signature.
_ORT_STATUS = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_ORT_PLACE = re.compile(r"(?:Load model from .* failed:)?\S+\.(?:cc|h):\d+ [^()]*\([^()]*(?:\([^()]*\)[^()]*)*\) ")


class EngineError(UserError):
    """A model that cannot be loaded or run; the message says what to do."""


class Session:
    """One loaded model. Safe to run from several threads."""

    def __init__(self, path: Path, provider: Provider = "auto", threads: int = 1, slowdown: float = 1.0) -> None:
        """Load ``path`` with ``threads`` threads inside an operator. ``slowdown``: a run takes so many times as long as
        it would, to try a small device on a large one. Raises ``EngineError``."""
        self._slowdown = slowdown
        self._session = _load(path, path.name, provider, threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise EngineError(f"{path.name}: needs one input and one output, has {len(inputs)} and {len(outputs)}")
        self._input, self._outputs = inputs[0].name, [outputs[0].name]
        #: The batch size that the model fixes; None if it takes any.
        self.batch = next((size for size in inputs[0].shape[:1] if isinstance(size, int)), None)
        self.provider = self._session.get_providers()[0]

    def run(self, batch: npt.NDArray[np.float32]) -> Logits:
        """Logits ``(n, classes)`` float32 of a batch ``(n, channels, height, width)``. Raises ``EngineError``."""
        begun = time.perf_counter()
        try:
            logits: Logits = self._session.run(self._outputs, {self._input: batch})[0]
        except Exception as error:
            raise EngineError(f"inference failed ({first_line(error)})") from None
        if self._slowdown > 1.0:
            time.sleep((self._slowdown - 1.0) * (time.perf_counter() - begun))
        return logits


class ModelPart:
    """A piece of a model, in memory: named tensors in, named tensors out."""

    def __init__(self, model: bytes, name: str, provider: Provider = "auto", threads: int = 1) -> None:
        """``name``: for errors. Raises ``EngineError``."""
        self._session = _load(model, name, provider, threads)
        self.takes = tuple(given.name for given in self._session.get_inputs())
        self.gives = tuple(output.name for output in self._session.get_outputs())
        self.provider = self._session.get_providers()[0]

    def run(self, tensors: Mapping[str, Batch]) -> dict[str, Batch]:
        """What it makes of ``tensors``, of which there may be more than it takes; all ``(n, ...)`` float32. Raises
        ``EngineError``."""
        try:
            made = self._session.run(self.gives, {name: tensors[name] for name in self.takes})
        except Exception as error:
            raise EngineError(f"inference failed ({first_line(error)})") from None
        return dict(zip(self.gives, made, strict=True))


def _load(model: Path | bytes, name: str, provider: Provider, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry(*EXACT)
    wanted = providers(provider)
    try:
        source = path_or_bytes(model) if isinstance(model, Path) else model
        return ort.InferenceSession(source, options, providers=wanted)
    except Exception as error:  # ONNX Runtime raises a family of types that share no base of their own
        raise EngineError(f"{name}: not a model ONNX Runtime can load ({first_line(error)})") from None


def providers(wanted: Provider) -> list[str]:
    """ONNX Runtime's execution providers, best first, for ``wanted``. Raises ``EngineError`` if it is not there."""
    available = ort.get_available_providers()
    if wanted == "auto":
        wanted = next((p for p in ("tensorrt", "cuda") if _EXECUTION[p][0] in available), "cpu")
    if _EXECUTION[wanted][0] not in available:
        raise EngineError(
            f"provider '{wanted}' is not in this ONNX Runtime (it has {', '.join(available)}); "
            "install onnxruntime-gpu, or use --provider auto"
        )
    return [p for p in _EXECUTION[wanted] if p in available]


def resident_bytes() -> int:
    """Resident set size of this process, bytes."""
    with Path("/proc/self/statm").open("rb") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def peak_resident_bytes() -> int:
    """Largest resident set size that this process has had, bytes."""
    status = Path("/proc/self/status").read_text("ascii", "replace")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def release_memory() -> None:
    """Give freed memory back to the system. A dropped session returns nothing by itself: the C library keeps the
    pages (measured: eight sessions and back to one stayed at 384 MiB until this call, then 102)."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def first_line(error: BaseException) -> str:
    """What an error says, short enough for a line of ours: of ONNX Runtime's the reason alone, without its place in
    the source."""
    said = _ORT_STATUS.sub("", str(error).strip())
    said = _ORT_PLACE.sub("", said).strip()
    return (said.splitlines() or [type(error).__name__])[0][:200]
