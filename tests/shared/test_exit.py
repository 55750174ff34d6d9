"""A command's end: one line and its exit code, whatever went wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from cachenet.shared.command import exit


def app() -> typer.Typer:
    made = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

    @made.command()
    def count(upto: int) -> None:
        """Count."""
        if upto < 0:
            raise typer.Exit(3)
        if upto == 99:
            raise KeyboardInterrupt
        print(*range(upto))

    @made.command()
    def other() -> None:
        """Do nothing."""

    return made


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["count", "2"], 0, ""),
        (["count", "two"], 2, "invalid value for"),
        (["count"], 2, "missing argument"),
        (["cuont", "2"], 2, "no such command 'cuont'"),
        (["count", "2", "--fast"], 2, "no such option: --fast"),
        (["count", "--", "-1"], 3, ""),
        (["count", "99"], 130, ""),
    ],
)
def test_an_error_is_one_line_that_names_the_help(
    arguments: list[str], code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/counter", *arguments])
    with pytest.raises(SystemExit) as ended:
        exit.run(app())
    err = capsys.readouterr().err
    assert ended.value.code == code, err
    assert says in err
    assert err.count("\n") == bool(says)
    assert not says or err.endswith("counter --help\n") or err.endswith("counter count --help\n")


def test_without_a_command_it_shows_its_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["counter"])
    with pytest.raises(SystemExit) as ended:
        exit.run(app())
    shown = capsys.readouterr()
    assert ended.value.code == 2
    assert "count" in shown.out + shown.err and "other" in shown.out + shown.err


def test_a_full_disk_under_standard_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cachenet.models", "show", "models/zoo/cifar10", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "No space left on device" in done.stderr, done.stderr
