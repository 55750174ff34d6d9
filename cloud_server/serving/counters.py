"""What the server counts, and how it says so at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec


class Counts(msgspec.Struct):
    """``requests = answers + sum(refusals)`` once nothing waits any more.

    ``requests``: those with someone to answer. ``malformed``: messages that did not say what they must, refused or
    not. ``lost``: of answers and refusals, how many met no connection. ``chunks``: pieces of files given out.
    ``bytes_in``, ``bytes_out``: payload.
    """

    requests: int = 0
    answers: int = 0
    refusals: dict[str, int] = msgspec.field(default_factory=dict)
    malformed: int = 0
    lost: int = 0
    batches: int = 0
    chunks: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def line(self) -> str:
        """One line for a person."""
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(self.refusals.items()))
        return (
            f"{self.requests} requests: {self.answers} answered in {self.batches} batches, "
            f"{sum(self.refusals.values())} refused{f' ({reasons})' if reasons else ''}; "
            f"{self.malformed} malformed, {self.lost} lost; {self.chunks} chunks; "
            f"{self.bytes_in / 1e6:.1f} MB in, {self.bytes_out / 1e6:.1f} MB out"
        )


class Counters:
    """Counts that the link's thread and the worker's share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counts()

    @contextmanager
    def change(self) -> Iterator[Counts]:
        with self._lock:
            yield self._counts

    def read(self) -> Counts:
        with self._lock:
            return msgspec.structs.replace(self._counts, refusals=dict(self._counts.refusals))
