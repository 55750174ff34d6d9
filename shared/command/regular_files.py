"""Opening of regular files only, and not of FIFOs, devices, sockets or directories."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

#: Other kinds of files, and their names in messages.
_NOT_REGULAR: dict[Callable[[int], bool], str] = {
    stat.S_ISDIR: "a directory, no file",
    stat.S_ISFIFO: "a FIFO, no file",
    stat.S_ISSOCK: "a socket, no file",
    stat.S_ISCHR: "a device, no file",
    stat.S_ISBLK: "a device, no file",
}


def open_regular(path: Path) -> int:
    """Open a regular file for reading, without blocking; return its descriptor. Raises ``OSError``."""
    try:
        _check_regular(path, path.stat().st_mode)
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        if path.is_symlink():
            raise FileNotFoundError(error.errno, "a link to a file that is not there", str(path)) from None
        raise
    try:
        _check_regular(path, os.fstat(file).st_mode)  # the file may have been replaced meanwhile
    except OSError:
        os.close(file)
        raise
    return file


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = next((what for kind, what in _NOT_REGULAR.items() if kind(mode)), "no regular file")
        raise OSError(errno.EINVAL, what, str(path))
