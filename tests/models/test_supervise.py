"""A crash of a supervised command ends with one line of advice; a signal ends parent and child."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_PROGRAM = """
import os, signal, sys, time
from cachenet.models.supervise import supervise
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what it starts in the background
supervise("program")
"""


def start(then: str) -> subprocess.Popen[str]:
    """A supervised program that executes ``then`` in its child."""
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM + then], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_until(ready: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < until
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether the process has ended, including a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("SIGSEGV", "ONEDNN_MAX_CPU_ISA=AVX2"),
        ("SIGABRT", "ONEDNN_MAX_CPU_ISA=AVX2"),
        ("SIGILL", "ATEN_CPU_CAPABILITY=default"),
        ("SIGKILL", "memory"),
    ],
)
def test_a_crash_by_a_signal_is_one_line_with_its_name_and_advice(name: str, advice: str) -> None:
    _, stderr = (program := start(f"os.kill(os.getpid(), signal.{name})")).communicate(timeout=60)
    assert program.returncode == 1
    assert stderr.startswith(f"program: ended by {name}: ") and stderr.count("\n") == 1
    assert advice in stderr


@pytest.mark.parametrize("code", [0, 2, 3])
def test_the_exit_code_is_that_of_the_child(code: int) -> None:
    _, stderr = (program := start(f"sys.exit({code})")).communicate(timeout=60)
    assert (program.returncode, stderr) == (code, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_to_the_parent_ends_the_child(number: signal.Signals) -> None:
    """``kill`` sends SIGINT to the parent alone; the child may clean up after it."""
    then = "try:\n    print(os.getpid(), flush=True)\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    sys.exit(130)"
    program = start(then)
    assert program.stdout is not None
    child = int(program.stdout.readline())
    os.kill(program.pid, number)
    program.communicate(timeout=60)
    wait_until(lambda: gone(child))
    assert program.returncode == (130 if number == signal.SIGINT else -number)


def test_an_interrupt_from_a_terminal_reaches_the_child_once() -> None:
    """The terminal sends SIGINT to parent and child; a forwarded one would interrupt the child's clean-up."""
    then = "got = []\nsignal.signal(signal.SIGINT, lambda *_: got.append(1))\nprint('ready', flush=True)\n"
    then += "while not got: time.sleep(0.01)\ntime.sleep(0.5)\nsys.exit(10 + len(got))"
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", _PROGRAM + then])
    output = b""
    while b"ready" not in output:
        output += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 11
    os.close(terminal)
