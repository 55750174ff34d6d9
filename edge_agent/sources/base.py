"""The interface of all frame sources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.image import Picture


class SourceError(UserError):
    """A source cannot be opened; the message says what to do."""


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """One frame of a source.

    Attributes:
        picture: (height, width, 3) uint8 BGR.
        truth: True label; None if unknown.
        time: Time of the frame in its file, seconds; None for live sources and files without times.
    """

    picture: Picture
    truth: str | None = None
    time: float | None = None


class Source(Protocol):
    """Yields frames until it ends or ``close`` is called. ``close`` is thread-safe."""

    @property
    def dropped(self) -> int:
        """Number of live frames that were replaced by a later one before they were read."""

    @property
    def broken(self) -> int:
        """Number of unreadable files, damaged or missing video frames, and truncated pictures."""

    @property
    def losses(self) -> int:
        """Number of times that a live camera was lost."""

    @property
    def error(self) -> str:
        """Why there are no new frames now; empty without an error."""

    @property
    def fps(self) -> float | None:
        """Frame rate of a file, frames per second; None for live sources and files without a rate."""

    def __iter__(self) -> Iterator[SourceFrame]: ...
    def close(self) -> None: ...
