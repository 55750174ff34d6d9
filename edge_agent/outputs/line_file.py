"""A file of lines that is appended to, by several processes if need be, within a bound if one is given."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path


class LineFile:
    """Appends whole lines to ``path``, each with one write. A file that was renamed or removed is begun anew."""

    def __init__(self, path: Path, append: bool = True, most: int | None = None) -> None:
        """``append``: keep the lines that are there. ``most``: bytes that the file may have; before it would have more,
        it is renamed to ``<path>.1``, in the place of an earlier one. Raises ``OSError``."""
        self._path, self._most = path, most
        self._fd, self._regular = -1, False
        #: What ends a line that an earlier process could not finish.
        self._before = b""
        self._open(os.O_APPEND if append else os.O_APPEND | os.O_TRUNC)

    def write(self, line: bytes) -> None:
        """Append a line, which ends in a newline. Raises ``OSError``; a part of the line may have been written."""
        if self._regular:
            self._follow(len(line))
        data = self._before + line
        while data:
            data = data[os.write(self._fd, data) :]
        self._before = b""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self, flags: int = os.O_APPEND) -> None:
        self.close()
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o666)
        found = os.fstat(self._fd)
        self._regular = stat.S_ISREG(found.st_mode)
        self._before = b"\n" if self._regular and found.st_size and self._last() != b"\n" else b""

    def _last(self) -> bytes:
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1)  # and not what another process has appended meanwhile

    def _follow(self, more: int) -> None:
        """Have the file open that has the name now, with room for ``more`` bytes."""
        if not self._current():
            self._open()
        size = os.fstat(self._fd).st_size
        if self._most is None or not size or size + more <= self._most:
            return
        # Of several processes only one renames the file; the others find that the name is another file's.
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        if self._current():
            self._path.replace(f"{self._path}.1")
        self._open()

    def _current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._fd), self._path.stat())
        except FileNotFoundError:
            return False
