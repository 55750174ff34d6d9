"""The latest of what one thread hands to another."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class LatestValue(Generic[T]):
    """A place for one thing: what is put there takes the place of what nobody has taken yet."""

    def __init__(self) -> None:
        #: How many were never taken.
        self.dropped = 0
        self._item: T | None = None
        self._ended = False
        self._news = threading.Condition()

    def put(self, item: T) -> None:
        with self._news:
            self.dropped += self._item is not None
            self._item = item
            self._news.notify()

    def take(self) -> T | None:
        """Wait for the next; None when there will be none."""
        with self._news:
            self._news.wait_for(lambda: self._item is not None or self._ended)
            item, self._item = self._item, None
            return item

    def end(self) -> None:
        """There will be no more: whoever waits is told so."""
        with self._news:
            self._ended = True
            self._news.notify_all()
