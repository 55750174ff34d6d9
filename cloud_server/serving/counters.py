"""Counters of the server, and their summary at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec


class Counts(msgspec.Struct):
    """Counts since the start. ``requests = answers + sum(refusals)`` when no request is queued."""

    #: Requests that name a device to reply to.
    requests: int = 0
    answers: int = 0
    #: Refused requests by reason.
    refusals: dict[str, int] = msgspec.field(default_factory=dict)
    #: Requests refused as ``busy`` because their device was over its quota and others waited.
    throttled: int = 0
    #: Invalid messages, refused or ignored.
    malformed: int = 0
    #: Answers and refusals that could not be sent because the connection was down.
    lost: int = 0
    #: Runs of the full model.
    batches: int = 0
    #: Chunks of model files sent.
    chunks: int = 0
    #: Payload received and sent, bytes.
    bytes_in: int = 0
    bytes_out: int = 0

    def line(self) -> str:
        """The counts as one line of text."""
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(self.refusals.items()))
        return (
            f"{self.requests} requests: {self.answers} answered in {self.batches} batches, "
            f"{sum(self.refusals.values())} refused{f' ({reasons})' if reasons else ''}, "
            f"{self.throttled} of them over a quota; "
            f"{self.malformed} malformed, {self.lost} lost; {self.chunks} chunks; "
            f"{self.bytes_in / 1e6:.1f} MB in, {self.bytes_out / 1e6:.1f} MB out"
        )


class Counters:
    """Counts that several threads change."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counts()

    @contextmanager
    def change(self) -> Iterator[Counts]:
        """The counts, locked for a change."""
        with self._lock:
            yield self._counts

    def read(self) -> Counts:
        """A copy of the counts."""
        with self._lock:
            return msgspec.structs.replace(self._counts, refusals=dict(self._counts.refusals))
