"""Self-clocked fair queueing over devices (S. J. Golestani, INFOCOM 1994, "A Self-Clocked Fair Queueing Scheme").

Each device has a queue of its own, first in first out. The head of each queue has a *finish tag*: the tag of the item
before it, or the virtual time of its arrival if that is later, plus its expected cost. The head of the least tag leaves
first, and its tag becomes the virtual time. All devices have the same weight. While two devices have items queued, the
costs served to them differ by the largest cost of an item of each at most.

Costs are known only after an item has run. ``correct`` then replaces the expected cost in the tags that follow.
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
    device: str
    arrived: float
    expires: float


@dataclass(slots=True)
class _Flow(Generic[T]):
    """Queue of a device. The head's tag is its cost after ``finish``, the last tag, and after ``arrived``."""

    finish: float = 0.0
    #: Virtual time at which the queue's head arrived, if the queue was empty then.
    arrived: float = 0.0
    items: deque[QueuedItem[T]] = field(default_factory=deque)


class FairQueue(Generic[T]):
    """Queues of devices that share one server. The caller locks, and bounds the number of items.

    Example:
        queue = FairQueue(lambda device: 20.0)
        queue.push(QueuedItem("question", "cam1", arrived=0.0, expires=0.25))
        queue.serve(queue.next()).item
    """

    def __init__(self, expected_ms: Callable[[str], float]) -> None:
        """``expected_ms``: gives the expected cost of a device's next item, milliseconds."""
        self._expected_ms = expected_ms
        #: Devices with queued items, and devices whose last tag is later than the virtual time.
        self._flows: dict[str, _Flow[T]] = {}
        self._virtual = 0.0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def count(self, device: str) -> int:
        """Number of queued items of ``device``."""
        flow = self._flows.get(device)
        return 0 if flow is None else len(flow.items)

    def devices(self) -> list[str]:
        """Devices with queued items."""
        return [device for device, flow in self._flows.items() if flow.items]

    def push(self, queued: QueuedItem[T]) -> None:
        """Queue an item behind the others of its device."""
        flow = self._flows.setdefault(queued.device, _Flow())
        if not flow.items:
            flow.arrived = self._virtual
        flow.items.append(queued)
        self._length += 1

    def next(self) -> str:
        """The device whose head is the next to leave. The queue must not be empty."""
        return min(self.devices(), key=self._tag)

    def head(self, device: str) -> QueuedItem[T]:
        """The oldest item of ``device``."""
        return self._flows[device].items[0]

    def serve(self, device: str) -> QueuedItem[T]:
        """Remove the oldest item of ``device`` and add its expected cost to the device's tag."""
        flow = self._flows[device]
        flow.finish = self._tag(device)
        flow.arrived = 0.0  # the next item arrived behind this one
        self._virtual = max(self._virtual, flow.finish)
        self._length -= 1
        return flow.items.popleft()

    def discard(self, device: str, newest: bool = False) -> QueuedItem[T]:
        """Remove the oldest, or the newest, item of ``device`` without a cost."""
        items = self._flows[device].items
        self._length -= 1
        return items.pop() if newest else items.popleft()

    def correct(self, device: str, milliseconds: float) -> None:
        """Add to the tag of a device, whose item has run, what the item cost more than expected."""
        self._flows.setdefault(device, _Flow(self._virtual)).finish += milliseconds

    def settle(self, idle: bool) -> None:
        """Forget devices without items whose tag is not later than the virtual time; of an idle server, all of them."""
        for device, flow in list(self._flows.items()):
            if not flow.items and (idle or flow.finish <= self._virtual):
                del self._flows[device]

    def drain(self) -> list[QueuedItem[T]]:
        """Remove and return all items."""
        drained = [queued for flow in self._flows.values() for queued in flow.items]
        self._flows.clear()
        self._length = 0
        return drained

    def _tag(self, device: str) -> float:
        flow = self._flows[device]
        return max(flow.finish, flow.arrived) + self._expected_ms(device)
