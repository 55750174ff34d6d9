"""The file of the outbox: frames in SQLite, in the store directory.

A commit survives the end of the process by any signal. It is flushed to the disk by the system, not at once: a power
cut loses the last commits, and the file stays sound (WAL, ``synchronous = NORMAL``). A lost deletion is a frame that is
sent again, which a server recognises by its id.

An empty outbox has no file, so that no deleted picture stays in its free pages.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

T = TypeVar("T")

#: What a frame counts beside its picture, bytes: its row, and the unused part of its last page.
OVERHEAD = 4096
#: Version of the table, as ``user_version``; 0: a new file.
_VERSION = 1
_TABLE = """
    CREATE TABLE IF NOT EXISTS frames (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB UNIQUE, stored REAL, model TEXT, content TEXT, picture BLOB)
"""
#: Pages of the log after which it is written into the file: 1 MB. SQLite's default is 4 MB.
_LOG_PAGES = 256


class Damaged(Exception):
    """The file is no outbox, or is damaged."""


class StoredFrame(NamedTuple):
    """A frame as it is stored.

    Attributes:
        id: Identifies the frame to servers, 16 bytes.
        stored: Time of storing, seconds since the epoch on the device's clock.
        model: Name of the full model.
        content: Content type of the picture.
        picture: The picture, encoded.
    """

    id: bytes
    stored: float
    model: str
    content: str
    picture: bytes


class OutboxFile:
    """The file, opened when it is needed. All methods raise ``OSError`` if the disk refuses, and ``Damaged``.

    One process uses it at a time.

    Example:
        >>> import tempfile
        >>> file = OutboxFile(Path(tempfile.mkdtemp()))
        >>> file.exchange([], StoredFrame(b"1", 0.0, "full", "image/png", b"..."))
        >>> file.index()
        [(b'1', 4099, 0.0)]
    """

    def __init__(self, store: Path) -> None:
        """``store``: the store directory; it is created with the first frame."""
        self.path = store / "outbox.sqlite"
        self._connection: sqlite3.Connection | None = None

    def index(self) -> list[tuple[bytes, int, float]]:
        """Id, size and time of storing of each frame, oldest first. The size is what the frame takes, bytes."""
        if not self.path.exists():
            return []
        rows = self._run(
            "SELECT id, length(picture), stored FROM frames ORDER BY number", list[tuple[bytes, int, float]]
        )
        return [(frame, size + OVERHEAD, stored) for frame, size, stored in rows]

    def exchange(self, removed: list[bytes], added: StoredFrame | None = None) -> None:
        """Delete frames and store another, both or nothing."""
        try:
            with self._open() as connection:
                connection.executemany("DELETE FROM frames WHERE id = ?", [(frame,) for frame in removed])
                if added is not None:
                    columns = ", ".join(StoredFrame._fields)
                    connection.execute(f"INSERT INTO frames ({columns}) VALUES (?, ?, ?, ?, ?)", added)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise _explained(error, self.path) from None

    def read(self, frame: bytes) -> StoredFrame | None:
        """The frame with this id; None if there is none."""
        columns = ", ".join(StoredFrame._fields)
        found = self._run(f"SELECT {columns} FROM frames WHERE id = ?", list[StoredFrame], (frame,))
        return found[0] if found else None

    def shift(self, seconds: float) -> None:
        """Correct all times of storing after a step of the clock."""
        if self.path.exists():
            self._run("UPDATE frames SET stored = stored + ?", list[None], (seconds,))

    def rename_damaged(self) -> None:
        """Rename a damaged file to ``outbox.sqlite.damaged``, in place of an earlier one."""
        self.close()
        self.path.replace(f"{self.path}.damaged")
        _remove_logs(self.path)

    def remove(self) -> None:
        """Delete the file."""
        self.close()
        _remove_logs(self.path)
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _run(self, statement: str, rows: type[T], values: tuple[object, ...] = ()) -> T:
        """The rows of a statement, of these types."""
        try:
            with self._open() as connection:
                return msgspec.convert(connection.execute(statement, values).fetchall(), rows, strict=False)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise _explained(error, self.path) from None
        except msgspec.ValidationError as error:
            raise Damaged(f"{self.path}: {error}") from None

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        self.path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))  # pictures are for the owner only
        # The thread of the outbox uses the connection, and the thread that stops it closes it afterwards.
        connection = sqlite3.connect(self.path, timeout=1.0, check_same_thread=False)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
            if (version := connection.execute("PRAGMA user_version").fetchone()[0]) not in (0, _VERSION):
                raise Damaged(f"{self.path} has the unknown version {version}")
            if version == 0:
                connection.execute(_TABLE)
                connection.execute(f"PRAGMA user_version = {_VERSION}")
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection


def _remove_logs(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _explained(error: sqlite3.Error | UnicodeDecodeError, path: Path) -> OSError | Damaged:
    """``error`` as ``Damaged`` or ``OSError``; SQLite's own classes do not tell them from errors of a program."""
    # A damaged file raises the class itself; a disk that is full, read-only or locked raises a subclass. Where a name
    # in the file is damaged, the error's text cannot be decoded, or says "no such table" or "no such column".
    if type(error) in (sqlite3.DatabaseError, UnicodeDecodeError) or str(error).startswith("no such "):
        return Damaged(f"{path}: {error}")
    return OSError(0, str(error), str(path))
