"""How a command ends: where it does not understand, with one line that says what to do and exit code 2; where it cannot
write what it has to say, with one line and 1."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import typer

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
        # What is left to write would be tried once more when the interpreter ends.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:  # whoever reads may stop
            print(f"{program}: {error.filename or 'standard output'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception, program: str) -> None:
    said, context = error.format_message(), getattr(error, "ctx", None)  # type: ignore[attr-defined]
    if "\n" in said:  # the help itself, where nothing was asked for
        error.show()  # type: ignore[attr-defined]
        return
    path = program if context is None else context.command_path
    print(f"{path}: {said[:1].lower() + said[1:].rstrip('.')}; see {path} --help", file=sys.stderr)
