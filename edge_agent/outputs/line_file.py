"""A file of lines to which several processes may append, with an optional size limit."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path


class LineFile:
    """Appends whole lines to ``path``, each with one write. A renamed or deleted file is created again."""

    def __init__(self, path: Path, append: bool = True, max_bytes: int | None = None) -> None:
        """
        Args:
            append: Whether existing lines are kept.
            max_bytes: Largest size of the file; a full file is renamed to ``<path>.1``, which replaces an earlier one.

        Raises:
            OSError: The file cannot be opened.
        """
        self._path, self._max_bytes = path, max_bytes
        self._fd, self._regular = -1, False
        #: Newline after an unfinished line of an earlier process; empty otherwise.
        self._prefix = b""
        self._open(os.O_APPEND if append else os.O_APPEND | os.O_TRUNC)

    def write(self, line: bytes) -> None:
        """Append a line, which ends with a newline. Raises ``OSError``; a part of the line may have been written."""
        if self._regular:
            self._reopen(len(line))
        data = self._prefix + line
        while data:
            data = data[os.write(self._fd, data) :]
        self._prefix = b""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self, flags: int = os.O_APPEND) -> None:
        self.close()
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o666)
        found = os.fstat(self._fd)
        self._regular = stat.S_ISREG(found.st_mode)
        self._prefix = b"\n" if self._regular and found.st_size and self._last_byte() != b"\n" else b""

    def _last_byte(self) -> bytes:
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1)  # exactly one: another process may append meanwhile

    def _reopen(self, more: int) -> None:
        """Open the file that has the path now, with space for ``more`` bytes."""
        if not self._is_open_file():
            self._open()
        size = os.fstat(self._fd).st_size
        if self._max_bytes is None or not size or size + more <= self._max_bytes:
            return
        # One of several processes renames the file; the others find another file at the path.
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        if self._is_open_file():
            self._path.replace(f"{self._path}.1")
        self._open()

    def _is_open_file(self) -> bool:
        """Whether the path still names the open file."""
        try:
            return os.path.samestat(os.fstat(self._fd), self._path.stat())
        except FileNotFoundError:
            return False
