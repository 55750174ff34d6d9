"""The queue in front of the full model: bounded, fair over devices, in batches. Pure: the clock comes from outside.

A batch is what arrived while the batch before it ran, as far as it is expected to take a tenth of a second. No request
waits for a batch to fill, so a single request on an idle server has no delay. A *background* item runs alone, when the
queue is empty; a new request waits for one of them at most. The caller locks.

Devices share the server's time equally (``fair_queue``). A device over its quota (``accounts``) may queue one item only
while a device within its quota waits, so the server is never idle because of a quota.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from cachenet.cloud_server.serving.accounts import Accounts
from cachenet.cloud_server.serving.fair_queue import FairQueue, QueuedItem

T = TypeVar("T")

#: Longest expected duration of a batch of several items, milliseconds: less than half of a device's default deadline,
#: because a request waits for the batch that runs and for its own.
_BATCH_MS = 100.0
#: Longest time after which a refused device is told to ask again, milliseconds.
_MAX_RETRY_MS = 10_000


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """Items to run now, and items that have expired; both in the order of the queue.

    Attributes:
        charges: For each item to run, the queue that it was in and its expected cost, milliseconds.
    """

    ready: list[QueuedItem[T]] = field(default_factory=list)
    expired: list[QueuedItem[T]] = field(default_factory=list)
    charges: list[tuple[FairQueue[T], float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Refused(Generic[T]):
    """An item that has no place in the queue.

    Attributes:
        over_quota: Whether the quota of its device is the reason; otherwise the queue is full.
        retry_after_ms: Time after which the device may ask again, milliseconds.
    """

    item: T
    over_quota: bool
    retry_after_ms: int


class Batcher(Generic[T]):
    """Queue of bounded length that gives out batches of bounded size.

    Example:
        batcher = Batcher(time.monotonic, bound=64, largest=16, share=0.25)
        batcher.offer("request", "cam1", budget_s=0.25)
        batch = batcher.take()
        batcher.done(batch, [20.0])
    """

    def __init__(self, clock: Callable[[], float], bound: int, largest: int, share: float) -> None:
        """Create an empty queue.

        Args:
            clock: Returns the time, seconds.
            bound: Largest number of queued items, and of queued background items. One device has half of each at most.
            largest: Largest size of a batch.
            share: Quota of a device, as a share of the server's time, above 0.
        """
        self._clock, self._bound, self._largest = clock, bound, largest
        self._accounts = Accounts(clock, share)
        self._queue: FairQueue[T] = FairQueue(self._accounts.expected_ms)
        self._background: FairQueue[T] = FairQueue(self._accounts.expected_ms)
        #: Number of batches that are taken and not done.
        self._running = 0

    def __len__(self) -> int:
        return len(self._queue) + len(self._background)

    def offer(self, item: T, device: str, budget_s: float, background: bool = False) -> Refused[T] | None:
        """Queue ``item`` if there is room. In a full queue, the device with most items loses its newest one.

        Args:
            item: The item.
            device: Device that the item is charged to.
            budget_s: Time from now until the item expires, seconds.
            background: Whether the item runs only when no other item is queued.

        Returns:
            The item that has no place now, this one or another; None if there is room.
        """
        queue = self._background if background else self._queue
        queued = queue.count(device)
        if queued and self._accounts.over_quota(device) and self._others_wait(queue, device):
            return Refused(item, True, min(_MAX_RETRY_MS, self._accounts.retry_after_ms(device)))
        if queued >= math.ceil(self._bound / 2):
            return self._full(queue, item)
        refused = None
        if len(queue) >= self._bound:
            longest = max(queue.devices(), key=queue.count)
            if queue.count(longest) <= queued + 1:
                return self._full(queue, item)
            refused = self._full(queue, queue.discard(longest, newest=True).item)
        now = self._clock()
        queue.push(QueuedItem(item, device, now, now + budget_s))
        return refused

    def take(self) -> Batch[T]:
        """Remove and return the next batch. Expired items do not count towards its size, and cost their device nothing.

        Call ``done`` once with each batch that has items to run.
        """
        batch: Batch[T] = Batch()
        now, total_ms = self._clock(), 0.0
        for queue, largest in ((self._queue, self._largest), (self._background, 1)):
            while queue and len(batch.ready) < largest:
                device = queue.next()
                expected_ms = self._accounts.expected_ms(device)
                if now >= queue.head(device).expires:
                    batch.expired.append(queue.discard(device))
                    continue
                if batch.ready and total_ms + expected_ms > _BATCH_MS:
                    break
                total_ms += expected_ms
                batch.ready.append(queue.serve(device))
                batch.charges.append((queue, expected_ms))
        self._running += bool(batch.ready)
        return batch

    def done(self, batch: Batch[T], costs_ms: Sequence[float], answered: Sequence[bool] | None = None) -> None:
        """Charge the devices of a batch.

        Args:
            costs_ms: Time that each of its items took, in order, milliseconds.
            answered: Whether the model has answered each of them; None: all.
        """
        charged = zip(batch.ready, batch.charges, costs_ms, answered or [True] * len(costs_ms), strict=True)
        for queued, (queue, expected_ms), cost_ms, was_answered in charged:
            queue.correct(queued.device, cost_ms - expected_ms)
            self._accounts.charge(queued.device, cost_ms, was_answered)
        self._running -= bool(batch.ready)
        for queue in (self._queue, self._background):
            queue.settle(idle=self._running == 0 and len(self) == 0)

    def drain(self) -> list[T]:
        """Remove and return all items."""
        return [queued.item for queue in (self._queue, self._background) for queued in queue.drain()]

    def _others_wait(self, queue: FairQueue[T], device: str) -> bool:
        """Whether another device that is within its quota waits."""
        return any(other != device and not self._accounts.over_quota(other) for other in queue.devices())

    def _full(self, queue: FairQueue[T], item: T) -> Refused[T]:
        """``item`` is refused until the queue is expected to be empty."""
        waiting_ms = sum(queue.count(device) * self._accounts.expected_ms(device) for device in queue.devices())
        return Refused(item, False, max(1, min(_MAX_RETRY_MS, math.ceil(waiting_ms))))
