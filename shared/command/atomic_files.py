"""Atomic writes and renames, and directories that git ignores."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def write(path: Path, data: bytes | memoryview) -> None:
    """Write a file atomically: after an interruption or a power cut it has its old or its new content.

    The directory is created if needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(data)
    flush(partial)
    replace(partial, path)


def replace(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target``, replacing it, and flush the rename to the disk."""
    source.replace(target)
    with suppress(OSError):  # some network file systems cannot flush a directory
        flush(target.parent)


def keep_from_git(directory: Path) -> None:
    """Make git ignore ``directory``, so that no private key is committed. An existing ``.gitignore`` stays."""
    with suppress(FileExistsError), (directory / ".gitignore").open("x") as out:
        out.write("*\n")


def flush(path: Path) -> None:
    """Flush a file or a directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
