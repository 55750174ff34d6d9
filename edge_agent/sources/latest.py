"""The latest of what one thread hands to another."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class LatestValue(Generic[T]):
    """A queue of length one: a new item replaces one that was not taken."""

    def __init__(self) -> None:
        #: Number of replaced items.
        self.dropped = 0
        self._item: T | None = None
        self._ended = False
        self._condition = threading.Condition()

    def put(self, item: T) -> None:
        with self._condition:
            self.dropped += self._item is not None
            self._item = item
            self._condition.notify()

    def take(self) -> T | None:
        """Wait for the next item; None after ``end``."""
        with self._condition:
            self._condition.wait_for(lambda: self._item is not None or self._ended)
            item, self._item = self._item, None
            return item

    def end(self) -> None:
        """Wake all waiting threads: no item follows."""
        with self._condition:
            self._ended = True
            self._condition.notify_all()
