"""Start of a program, before the modules of its command line are loaded. Imports next to nothing itself."""

from __future__ import annotations

import signal
from importlib import import_module


def start(module: str) -> None:
    """Load the module of a command line, and run its ``main``.

    Ctrl-C meanwhile ends the process by the signal. As a ``KeyboardInterrupt`` it would end in a traceback, or in a
    crash of a native module that is being loaded.
    """
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # nohup ignores the signal
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    program = import_module(module)
    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    program.main()
