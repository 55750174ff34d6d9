"""What every source has in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.image import Picture


class SourceError(UserError):
    """A source that cannot be opened; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture, BGR, and its true label where the source knows it. ``time``: of the frame in its file, in seconds;
    None where the file says none."""

    picture: Picture
    truth: str | None = None
    time: float | None = None


class Source(Protocol):
    """Yields shots until it ends or ``close`` is called from any thread."""

    @property
    def dropped(self) -> int:
        """Live frames that were replaced by a later one before they were taken."""

    @property
    def broken(self) -> int:
        """Files that held no picture, frames of a video that are damaged or missing, and pictures that were cut
        short."""

    @property
    def losses(self) -> int:
        """How often a live camera has stopped to give pictures."""

    @property
    def error(self) -> str:
        """Why there are no pictures now, or none that are new, for a person; empty while all is well."""

    @property
    def fps(self) -> float | None:
        """Frames per second that a file says it has; None where it says none, and of what is live."""

    def __iter__(self) -> Iterator[Shot]: ...
    def close(self) -> None: ...
