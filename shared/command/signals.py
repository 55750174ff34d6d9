"""Messages about a process that was ended by a signal: the signal, its likely cause, and advice."""

from __future__ import annotations

import signal

_AGAIN = "Finished work is saved; start the command again"
_NATIVE_CODE = (
    "an error in native code (PyTorch, oneDNN or ONNX Runtime), often in instructions that only new processors have. "
    f"{_AGAIN} with ONEDNN_MAX_CPU_ISA=AVX2 in its environment, or with --threads 1"
)
_CAUSES = {
    signal.SIGSEGV: _NATIVE_CODE,
    signal.SIGABRT: _NATIVE_CODE,
    signal.SIGBUS: _NATIVE_CODE,
    signal.SIGFPE: _NATIVE_CODE,
    signal.SIGILL: (
        "an instruction that this processor lacks. "
        f"{_AGAIN} with ONEDNN_MAX_CPU_ISA=AVX2 and ATEN_CPU_CAPABILITY=default in its environment"
    ),
    signal.SIGKILL: (
        "sent by a user, or by the system when it ran out of memory (see dmesg). "
        f"{_AGAIN} with more memory, or with fewer frames (--frame-step)"
    ),
}


def report(number: int) -> str:
    """One line about a process that was ended by the signal ``number``."""
    try:
        name = signal.Signals(number)
    except ValueError:  # a real-time signal
        return f"ended by signal {number}"
    return f"ended by {name.name}: {_CAUSES[name]}" if name in _CAUSES else f"ended by {name.name}"
