"""How a command ends: where it does not understand, with one line that says what to do and exit code 2; where it cannot
write what it has to say, with one line and 1."""

from __future__ import annotations

import errno
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import typer

from cachenet.shared.command.config import PREFIX
from cachenet.shared.command.text import printable
from cachenet.shared.transport.addresses import hide

#: Whatever is wrong with a command line; typer has it from click, or has a copy of its own, by version.
_Misunderstood: type[Exception] = typer.BadParameter.__mro__[2]
_INTERRUPTED = 130


def run(app: typer.Typer) -> NoReturn:
    """Run a program's command line."""
    program = Path(sys.argv[0]).name
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()  # now, or the interpreter finds out when nobody can be told any more
    except _Misunderstood as error:
        _explain(error, program)
        sys.exit(2)
    except typer.Abort:
        sys.exit(_INTERRUPTED)
    except OSError as error:
        close_stdout()
        if error.errno != errno.EPIPE:  # whoever reads may stop
            say(program, f"{error.filename or 'standard output'}: {error.strerror or error}")
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def close_stdout() -> None:
    """Drop what is still to be written to a standard output that has failed: it would be tried once more, and fail once
    more, when the interpreter ends."""
    with suppress(OSError):
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)


def say(program: str, why: str) -> None:
    """Print one line on stderr, without passwords of addresses, and with control characters shown as text."""
    words = [word for argument in sys.argv[1:] for word in (argument, argument.partition("=")[2])]
    variables = [value for name, value in os.environ.items() if name.startswith(PREFIX)]
    typer.echo(printable(f"{program}: {hide(why, filter(None, words + variables))}"), err=True)


def refuse(program: str, why: str) -> NoReturn:
    """End the program with one line that says what it cannot use, and exit code 2."""
    say(program, why)
    raise typer.Exit(2)


def _explain(error: Exception, program: str) -> None:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
        return
    said, context = error.format_message(), getattr(error, "ctx", None)  # type: ignore[attr-defined]
    said = re.sub(r"\s*\n\s*", " ", said)
    path = program if context is None else context.command_path
    say(path, f"{said[:1].lower() + said[1:].rstrip('.')}; see {path} --help")
