"""The start of a program: Ctrl-C while its modules are loaded ends it by the signal, without a traceback."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

_START = "from cachenet.shared.command.start import start; start('program')"


def run(directory: Path, program: str, before: str = "") -> subprocess.CompletedProcess[str]:
    (directory / "program.py").write_text(f"import os, signal, sys\n{program}\n")
    command = [sys.executable, "-c", f"import signal, sys; sys.path.insert(0, {str(directory)!r}); {before}{_START}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_ctrl_c_while_modules_are_loaded_ends_the_program_by_the_signal(tmp_path: Path) -> None:
    done = run(tmp_path, "os.kill(os.getpid(), signal.SIGINT)\ndef main(): print('too late')")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_the_loaded_program_gets_ctrl_c_as_an_exception(tmp_path: Path) -> None:
    main = "def main():\n try: os.kill(os.getpid(), signal.SIGINT)\n except KeyboardInterrupt: sys.exit(7)"
    assert run(tmp_path, main).returncode == 7


def test_a_program_that_ignores_ctrl_c_as_with_nohup_still_does(tmp_path: Path) -> None:
    program = "os.kill(os.getpid(), signal.SIGINT)\ndef main(): print(signal.getsignal(signal.SIGINT).name)"
    done = run(tmp_path, program, "signal.signal(signal.SIGINT, signal.SIG_IGN); ")
    assert done.stdout == "SIG_IGN\n", done.stderr


def test_a_native_module_that_ctrl_c_interrupts_ends_the_command_as_ctrl_c_does(tmp_path: Path) -> None:
    """NumPy's initialisation, for one, makes an ``ImportError`` of it."""
    program = (
        "import typer\nfrom cachenet.shared.command import exit\napp = typer.Typer()\n@app.command()\ndef load():\n"
        " try: os.kill(os.getpid(), signal.SIGINT)\n except KeyboardInterrupt: raise ImportError('failed') from None\n"
        "def main(): exit.run(app)"
    )
    done = run(tmp_path, program)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("name", ["edge-agent", "cloud-server", "model-builder", "simulator"])
def test_each_program_starts_that_way(name: str) -> None:
    settings = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert re.search(rf'^{name} = "cachenet\.\w+\.__main__:main"$', settings, re.MULTILINE)
