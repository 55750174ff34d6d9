"""A command that crashes says so and what to do; one that is ended takes its child with it."""

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
supervise("program")
"""


def start(then: str) -> subprocess.Popen[str]:
    """A supervised program that does ``then`` in its child."""
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM + then], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_until(ready: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < until
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody has waited for yet has, too."""
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
def test_a_death_by_a_signal_is_one_line_that_names_it_and_says_what_to_do(name: str, advice: str) -> None:
    _, said = (program := start(f"os.kill(os.getpid(), signal.{name})")).communicate(timeout=60)
    assert program.returncode == 1
    assert said.startswith(f"program: ended by {name}: ") and said.count("\n") == 1
    assert advice in said


@pytest.mark.parametrize("code", [0, 2, 3])
def test_an_exit_code_is_passed_on(code: int) -> None:
    _, said = (program := start(f"sys.exit({code})")).communicate(timeout=60)
    assert (program.returncode, said) == (code, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_whoever_ends_the_program_ends_its_child_too(number: signal.Signals) -> None:
    """SIGINT as ``kill`` sends it, to the parent alone; the child may clean up after it."""
    then = "try:\n    print(os.getpid(), flush=True)\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    sys.exit(130)"
    program = start(then)
    assert program.stdout is not None
    child = int(program.stdout.readline())
    os.kill(program.pid, number)
    program.communicate(timeout=60)
    wait_until(lambda: gone(child))
    assert program.returncode == (130 if number == signal.SIGINT else -number)


def test_a_terminals_interrupt_reaches_the_child_once() -> None:
    """The terminal sends it to parent and child; a second one would break into the child's cleaning up."""
    then = "got = []\nsignal.signal(signal.SIGINT, lambda *_: got.append(1))\nprint('ready', flush=True)\n"
    then += "while not got: time.sleep(0.01)\ntime.sleep(0.5)\nsys.exit(10 + len(got))"
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", _PROGRAM + then])
    said = b""
    while b"ready" not in said:
        said += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 11
    os.close(terminal)
