"""The queue before the full model: bounded, first come first served, in batches. Pure: the clock comes in from
outside and the caller sees to locking.

Batches form by themselves: what arrived while one batch ran is the next. Nothing ever waits for company, so a lone
request on an idle server has no delay to pay for a busy server's throughput. What is *patient* is taken when nothing
else waits, and alone, so that whoever comes next waits for one of it at most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Waiting(Generic[T]):
    """Something in the queue; times in seconds of the batcher's clock."""

    item: T
    arrived: float
    expires: float


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """What to run now, and what nobody waits for any more; each in order of arrival."""

    ready: list[Waiting[T]] = field(default_factory=list)
    expired: list[Waiting[T]] = field(default_factory=list)


class Batcher(Generic[T]):
    """At most ``bound`` items wait; a batch has at most ``largest``."""

    def __init__(self, clock: Callable[[], float], bound: int, largest: int) -> None:
        self._clock, self._bound, self._largest = clock, bound, largest
        self._queue: deque[Waiting[T]] = deque()
        self._patient: deque[Waiting[T]] = deque()

    def __len__(self) -> int:
        return len(self._queue) + len(self._patient)

    def offer(self, item: T, budget_s: float, patient: bool = False) -> bool:
        """Queue ``item``, which is of use for ``budget_s`` seconds from now. False if the queue is full; what is
        patient has one as long of its own."""
        queue = self._patient if patient else self._queue
        if len(queue) >= self._bound:
            return False
        now = self._clock()
        queue.append(Waiting(item, now, now + budget_s))
        return True

    def take(self) -> Batch[T]:
        """The next batch. Expired items do not count against its size: refusing them costs next to nothing."""
        batch: Batch[T] = Batch()
        now = self._clock()
        for queue, largest in ((self._queue, self._largest), (self._patient, 1)):
            while queue and len(batch.ready) < largest:
                waiting = queue.popleft()
                (batch.ready if now < waiting.expires else batch.expired).append(waiting)
        return batch

    def drain(self) -> list[T]:
        """Everything that still waits, which is then forgotten."""
        left = [waiting.item for waiting in (*self._queue, *self._patient)]
        self._queue.clear()
        self._patient.clear()
        return left
