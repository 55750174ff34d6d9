"""Regular files, told from what else may have a file's name: FIFOs, devices, sockets, directories."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

#: What may have the name of a file and is none, and what to call it.
_NOT_REGULAR: dict[Callable[[int], bool], str] = {
    stat.S_ISDIR: "a directory, no file",
    stat.S_ISFIFO: "a FIFO, no file",
    stat.S_ISSOCK: "a socket, no file",
    stat.S_ISCHR: "a device, no file",
    stat.S_ISBLK: "a device, no file",
}


def open_regular(path: Path) -> int:
    """Open a regular file for reading, as a file descriptor. Never waits, and touches nothing that is no regular file.
    Raises ``OSError``, whose ``strerror`` says what is in the place of a file."""
    try:
        _check_regular(path, path.stat().st_mode)
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        if path.is_symlink():
            raise FileNotFoundError(error.errno, "a link to a file that is not there", str(path)) from None
        raise
    try:
        _check_regular(path, os.fstat(file).st_mode)  # something else may have taken its place meanwhile
    except OSError:
        os.close(file)
        raise
    return file


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = next((what for kind, what in _NOT_REGULAR.items() if kind(mode)), "no regular file")
        raise OSError(errno.EINVAL, what, str(path))
