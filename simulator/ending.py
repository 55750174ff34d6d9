"""How a command of ``simulator`` shows its progress and ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console

from cachenet.shared.command import exit
from cachenet.shared.command.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress


@contextmanager
def reported(subject: object = None, also: type[Exception] = UserError) -> Iterator[None]:
    """End the program with one line and exit code 2 after a user's error or an ``OSError``.

    Args:
        subject: What an ``OSError`` without a file name concerns.
        also: A further type of errors.
    """
    try:
        yield
    except (UserError, also) as error:
        end(2, str(error))
    except OSError as error:
        end(2, f"{error.filename or subject}: {error.strerror}")


def progress_bar() -> Progress:
    """Progress bars on a terminal's stderr."""
    from rich.progress import Progress

    return Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def end(code: int, why: str) -> NoReturn:
    """End the program with one line."""
    exit.say("simulator", why)
    raise typer.Exit(code)
