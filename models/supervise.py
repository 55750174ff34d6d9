"""Runs the command in a child process, so that a crash of native code ends with one line of advice."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress

from cachenet.shared.command import signals

#: Signals with which a user or a service manager ends the program.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WATCHED = (*_ENDING, signal.SIGCHLD)
#: prctl(2): sets the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1
#: siginfo(2): the signal was sent by kill(2) and not by the terminal.
_SI_USER = 0


def supervise(program: str) -> None:
    """Continue in a child process; only the child returns.

    The parent ends with the child's exit code, with the signal that ended the child, or, if the child has crashed, with
    one line and code 1.
    """
    if sys.platform != "linux":
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the call
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    code = os.waitstatus_to_exitcode(_wait(child))
    if code >= 0:
        os._exit(code)
    if -code in _ENDING:
        signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.kill(parent, -code)
    with suppress(OSError):
        os.write(2, f"{program}: {signals.report(-code)}\n".encode())
    os._exit(1)


def _wait(child: int) -> int:
    """Wait status of ``child``. Signals to this process alone are forwarded; the terminal's reach the child itself."""
    while True:
        received = signal.sigwaitinfo(_WATCHED)
        if received.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status
        elif received.si_code == _SI_USER:
            os.kill(child, received.si_signo)
