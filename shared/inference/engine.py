"""ONNX Runtime, configured for small devices: bounded threads, no spinning between runs, no memory arena.

With ONNX Runtime's defaults an idle session keeps a core busy, and never returns memory. Within a run the threads spin,
because waking them between operators takes longer than most operators (ResNet-18 on two cores, one run every 33 ms:
12.3 ms without spinning, 7.3 ms with).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from cachenet.shared.command.errors import UserError
from cachenet.shared.command.file_names import path_or_bytes

Logits = npt.NDArray[np.float32]
#: A batch of pictures or activations ``(n, ...)``.
Batch = npt.NDArray[np.float32]
Provider = Literal["auto", "cpu", "cuda", "tensorrt"]

#: Execution providers of ONNX Runtime, best first.
_EXECUTION = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}

#: Session option for exact INT8 sums. Without it, sums overflow silently on x86 processors without VNNI, and a model's
#: certificate does not hold there.
EXACT = ("session.x64quantprecision", "1")

#: Prefix of ONNX Runtime's error messages: status.
_ORT_STATUS = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
#: Prefix of ONNX Runtime's error messages: source location and function signature.
_ORT_PLACE = re.compile(r"(?:Load model from .* failed:)?\S+\.(?:cc|h):\d+ [^()]*\([^()]*(?:\([^()]*\)[^()]*)*\) ")


class EngineError(UserError):
    """A model that cannot be loaded or run. The message says what to do."""


class TensorInfo(NamedTuple):
    """An input or output of a model.

    Attributes:
        type: ONNX Runtime's name of the element type, such as ``float`` or ``int64``.
        shape: Sizes; -1 for any.
    """

    name: str
    type: str
    shape: tuple[int, ...]


class Network(Protocol):
    """What runs a model on a batch ``(n, channels, height, width)``; see ``Session``."""

    def run(self, batch: Batch) -> Logits: ...

    def run_all(self, batch: Batch) -> list[npt.NDArray[Any]]: ...


class Session:
    """One loaded model. Safe to run from several threads."""

    def __init__(self, path: Path, provider: Provider = "auto", threads: int = 1, slowdown: float = 1.0) -> None:
        """Load a model.

        Args:
            path: ONNX file with one input.
            threads: Threads of an operator.
            slowdown: Factor on the time of a run, to emulate a slower device.

        Raises:
            EngineError: The model or provider cannot be used.
        """
        self._slowdown, self._file = slowdown, path.name
        self._session = _load(path, path.name, provider, threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1:
            raise EngineError(f"{path.name}: needs one input, has {len(inputs)}")
        self._input, self._outputs = inputs[0].name, [output.name for output in outputs]
        #: Batch size that the model requires; None for any.
        self.batch = next((size for size in inputs[0].shape[:1] if isinstance(size, int)), None)
        self.provider = self._session.get_providers()[0]

    def inputs(self) -> list[TensorInfo]:
        """The inputs of the model, in order."""
        return [_tensor_info(one) for one in self._session.get_inputs()]

    def outputs(self) -> list[TensorInfo]:
        """The outputs of the model, in order."""
        return [_tensor_info(one) for one in self._session.get_outputs()]

    def check_classifier(self) -> Session:
        """This session, if its model can be a classifier's. Raises ``EngineError`` if it has several outputs."""
        if len(self._outputs) != 1:
            raise EngineError(f"{self._file}: a classifier has one output, and this model has {len(self._outputs)}")
        return self

    def run(self, batch: npt.NDArray[np.float32]) -> Logits:
        """Logits ``(n, classes)`` of a classifier for a batch ``(n, channels, height, width)``.

        Raises:
            EngineError: The run fails, or the model has several outputs.
        """
        return self.check_classifier().run_all(batch)[0]

    def run_all(self, batch: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """All outputs for a batch ``(n, channels, height, width)``, in order. Raises ``EngineError``."""
        started = time.perf_counter()
        try:
            outputs: list[npt.NDArray[np.float32]] = self._session.run(self._outputs, {self._input: batch})
        except Exception as error:
            raise EngineError(f"inference failed ({first_line(error)})") from None
        if self._slowdown > 1.0:
            time.sleep((self._slowdown - 1.0) * (time.perf_counter() - started))
        return outputs


class ModelPart:
    """A part of a model with named inputs and outputs.

    Attributes:
        takes: Names of the inputs.
        gives: Names of the outputs.
        provider: ONNX Runtime's execution provider.
    """

    def __init__(self, model: bytes, name: str, provider: Provider = "auto", threads: int = 1) -> None:
        """Load an ONNX file from memory; ``name`` identifies it in error messages. Raises ``EngineError``."""
        self._session = _load(model, name, provider, threads)
        self.takes = tuple(one.name for one in self._session.get_inputs())
        self.gives = tuple(one.name for one in self._session.get_outputs())
        self.provider = self._session.get_providers()[0]

    def run(self, tensors: Mapping[str, Batch]) -> dict[str, Batch]:
        """Outputs by name, from inputs by name, ``(n, ...)`` float32 each. Further tensors are ignored.

        Raises:
            EngineError: The run fails.
        """
        try:
            outputs = self._session.run(self.gives, {name: tensors[name] for name in self.takes})
        except Exception as error:
            raise EngineError(f"inference failed ({first_line(error)})") from None
        return dict(zip(self.gives, outputs, strict=True))


def _tensor_info(node: ort.NodeArg) -> TensorInfo:
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorInfo(node.name, node.type.removeprefix("tensor(").removesuffix(")"), shape)


def session_options(threads: int) -> ort.SessionOptions:
    """Options of all sessions."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry(*EXACT)
    return options


def _load(model: Path | bytes, name: str, provider: Provider, threads: int) -> ort.InferenceSession:
    options, wanted = session_options(threads), providers(provider)
    try:
        source = path_or_bytes(model) if isinstance(model, Path) else model
        return ort.InferenceSession(source, options, providers=wanted)
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise EngineError(f"{name}: not a model ONNX Runtime can load ({first_line(error)})") from None


def providers(wanted: Provider) -> list[str]:
    """ONNX Runtime's execution providers for ``wanted``, best first. Raises ``EngineError``."""
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
    """Peak resident set size of this process, bytes."""
    status = Path("/proc/self/status").read_text("ascii", "replace")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def release_memory() -> None:
    """Return freed memory to the system, which the C library does not do by itself.

    After eight sessions and back to one, 384 MiB stayed resident before this call, and 102 MiB after it.
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def first_line(error: BaseException) -> str:
    """First line of an error's message, at most 200 characters, without ONNX Runtime's prefixes."""
    message = _ORT_STATUS.sub("", str(error).strip())
    message = _ORT_PLACE.sub("", message).strip()
    return (message.splitlines() or [type(error).__name__])[0][:200]
