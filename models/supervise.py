"""The command's work in a child process, so that a crash of native code ends in a line that says what to do."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress

from cachenet.shared.command import signals

#: Signals that end the child as a person or a service manager wishes.
_WISHES = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WATCHED = (*_WISHES, signal.SIGCHLD)
#: prctl(2): the signal that a process gets when its parent ends. siginfo(2): what kill(2) sent, and not the terminal.
_PR_SET_PDEATHSIG, _SI_USER = 1, 0


def supervise(program: str) -> None:
    """Go on in a child process; this returns only there. The parent ends as the child does: with its exit code, by the
    signal that it was asked to end by, or with one line and 1 where it crashed."""
    if sys.platform != "linux":
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before that was arranged
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    status = _wait(child)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        os._exit(code)
    if -code in _WISHES:
        signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.kill(parent, -code)
    with suppress(OSError):
        os.write(2, f"{program}: {signals.report(-code)}\n".encode())
    os._exit(1)


def _wait(child: int) -> int:
    """The status that ``child`` ends with. Signals that are sent to this process alone are passed on; those of a
    terminal reach the child by themselves."""
    while True:
        received = signal.sigwaitinfo(_WATCHED)
        if received.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status
        elif received.si_code == _SI_USER:
            os.kill(child, received.si_signo)
