"""The queue in front of the full model: bounded, first in first out, in batches. Pure: the clock comes from outside.

A batch is what arrived while the batch before it ran. No request waits for a batch to fill, so a single request on an
idle server has no delay. A *background* item runs alone, when the queue is empty; a new request waits for one of them
at most. The caller locks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class QueuedItem(Generic[T]):
    """An item in the queue; times in seconds of the batcher's clock."""

    item: T
    arrived: float
    expires: float


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """Items to run now, and items that have expired; both in order of arrival."""

    ready: list[QueuedItem[T]] = field(default_factory=list)
    expired: list[QueuedItem[T]] = field(default_factory=list)


class Batcher(Generic[T]):
    """Queue of bounded length that gives out batches of bounded size.

    Example:
        batcher = Batcher(time.monotonic, bound=64, largest=16)
        batcher.offer("request", budget_s=0.25)
        batch = batcher.take()
    """

    def __init__(self, clock: Callable[[], float], bound: int, largest: int) -> None:
        """Create an empty queue.

        Args:
            clock: Returns the time, seconds.
            bound: Largest number of queued items, and of queued background items.
            largest: Largest size of a batch.
        """
        self._clock, self._bound, self._largest = clock, bound, largest
        self._queue: deque[QueuedItem[T]] = deque()
        self._background: deque[QueuedItem[T]] = deque()

    def __len__(self) -> int:
        return len(self._queue) + len(self._background)

    def offer(self, item: T, budget_s: float, background: bool = False) -> bool:
        """Queue ``item`` if there is room.

        Args:
            item: The item.
            budget_s: Time from now until the item expires, seconds.
            background: Whether the item runs only when no other item is queued.

        Returns:
            False if the queue is full.
        """
        queue = self._background if background else self._queue
        if len(queue) >= self._bound:
            return False
        now = self._clock()
        queue.append(QueuedItem(item, now, now + budget_s))
        return True

    def take(self) -> Batch[T]:
        """Remove and return the next batch. Expired items do not count towards its size."""
        batch: Batch[T] = Batch()
        now = self._clock()
        for queue, largest in ((self._queue, self._largest), (self._background, 1)):
            while queue and len(batch.ready) < largest:
                queued = queue.popleft()
                (batch.ready if now < queued.expires else batch.expired).append(queued)
        return batch

    def drain(self) -> list[T]:
        """Remove and return all items."""
        items = [queued.item for queued in (*self._queue, *self._background)]
        self._queue.clear()
        self._background.clear()
        return items
