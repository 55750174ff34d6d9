"""Ids of recent requests: a request that a device sends again is neither run nor collected twice."""

from __future__ import annotations

import threading
from collections import OrderedDict

from cachenet.shared.transport.protocol import Rejection

#: Ids that are remembered of a device. A power cut on the device can bring back the last hundred frames that were
#: answered, oldest first: deletions that were not flushed to its disk (``edge_agent.outbox.database``).
MAX_IDS = 128
#: Devices with remembered ids. Full, with all ids, they take 70 MB (tracemalloc).
MAX_DEVICES = 4096


class RequestIds:
    """The latest ids of each device, and whether their requests have an answer. All methods are thread-safe.

    Example:
        >>> ids = RequestIds()
        >>> ids.begin("cam", "1")
        >>> ids.end("cam", "1", answered=True)
        >>> ids.begin("cam", "1").reason
        'duplicate'
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: For each device, oldest first, whether the request with an id is answered.
        self._devices: OrderedDict[str, dict[str, bool]] = OrderedDict()

    def begin(self, device: str, own: str) -> Rejection | None:
        """Record a request with the id ``own`` that is to be run; or return why it must not be run."""
        with self._lock:
            ids = self._devices.setdefault(device, {})
            self._devices.move_to_end(device)
            if own in ids:
                if ids[own]:
                    return Rejection("duplicate", "this request was answered before")
                return Rejection("busy", "this request is in the server's queue already")
            ids[own] = False
            if len(ids) > MAX_IDS:
                del ids[next(iter(ids))]
            if len(self._devices) > MAX_DEVICES:
                self._devices.popitem(last=False)
        return None

    def end(self, device: str, own: str, answered: bool) -> None:
        """Record the end of a request. One that was refused may be sent again."""
        with self._lock:
            ids = self._devices.get(device)
            if ids is None or own not in ids:
                return
            if answered:
                ids[own] = True
            else:
                del ids[own]
