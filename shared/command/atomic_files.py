"""Files that are there whole or not at all, and files that are for nobody else."""

from __future__ import annotations

import contextlib
import os
from contextlib import suppress
from pathlib import Path


def write(path: Path, data: bytes | memoryview) -> None:
    """Write ``data`` to ``path``, under another name until all of it is on the disk: what an interrupted job or a power
    cut leaves behind never passes for a result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(data)
    flush(partial)
    replace(partial, path)


def replace(source: Path, target: Path) -> None:
    """Give ``source`` the name ``target``, in the place of what has that name, and have the rename on the disk."""
    source.replace(target)
    with suppress(OSError):  # some network file systems cannot flush a directory
        flush(target.parent)


def keep_from_git(directory: Path) -> None:
    """Have git ignore ``directory`` and all in it, so that no private key is committed. A ``.gitignore`` that is there
    stays."""
    with contextlib.suppress(FileExistsError), (directory / ".gitignore").open("x") as out:
        out.write("*\n")


def flush(path: Path) -> None:
    """Have what was written to ``path``, a file or a directory, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
