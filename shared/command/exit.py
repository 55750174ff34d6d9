"""Ends of commands: one line and exit code 2 for invalid input, one line and exit code 1 for failed output."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import typer

from cachenet.shared.command.config import PREFIX
from cachenet.shared.command.text import printable
from cachenet.shared.transport.addresses import hide

#: Base class of errors of a command line. Its module depends on the version of typer: click, or a copy inside typer.
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]
#: Exit code after Ctrl-C, as of a shell.
_INTERRUPTED = 130


def run(app: typer.Typer) -> NoReturn:
    """Run a program's command line, and end the process."""
    program = Path(sys.argv[0]).name
    interrupts = _watch_interrupts()
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()  # detects a failed output before the interpreter ends
    except _ClickError as error:
        _explain(error, program)
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(_INTERRUPTED)
    except OSError as error:
        close_stdout()
        if error.errno != errno.EPIPE:  # the reader of a pipe may stop early
            say(program, f"{error.filename or 'standard output'}: {error.strerror or error}")
        sys.exit(1)
    except Exception:
        if not interrupts:
            raise
        sys.exit(_INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _watch_interrupts() -> list[int]:
    """A list that gets an entry with each Ctrl-C, from now on.

    ``KeyboardInterrupt`` alone does not tell: a native module that is interrupted while it is loaded makes it an
    ``ImportError``.
    """
    interrupts: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, note)
    return interrupts


def close_stdout() -> None:
    """Redirect a failed standard output to the null device, so that the interpreter does not flush it again."""
    with suppress(OSError):
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)


def say(program: str, why: str) -> None:
    """Print one line on stderr, with addresses shown without passwords and control characters as text."""
    words = [word for argument in sys.argv[1:] for word in (argument, argument.partition("=")[2])]
    variables = [value for name, value in os.environ.items() if name.startswith(PREFIX)]
    typer.echo(printable(f"{program}: {hide(why, filter(None, words + variables))}"), err=True)


def refuse(program: str, why: str) -> NoReturn:
    """End the program with one line about invalid input, and exit code 2."""
    say(program, why)
    raise typer.Exit(2)


def _explain(error: Exception, program: str) -> None:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
        return
    message, context = error.format_message(), getattr(error, "ctx", None)  # type: ignore[attr-defined]
    message = re.sub(r"\s*\n\s*", " ", message)
    path = program if context is None else context.command_path
    say(path, f"{message[:1].lower() + message[1:].rstrip('.')}; see {path} --help")
