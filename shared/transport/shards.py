"""Which of several brokers (shards) a device uses: rendezvous hashing. Pure: no input or output.

Each device orders the brokers by a hash of its name and the broker's address, and uses the first that works (D. G.
Thaler and C. V. Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on Networking
6(1), 1998). So the devices are spread evenly, all programs agree without talking to each other, and a broker that is
added or removed moves only its own devices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from cachenet.shared.transport.broker import Address


def ranked(brokers: Iterable[Address], device: str) -> tuple[Address, ...]:
    """The brokers in the order in which ``device`` prefers them. The order of the list has no effect.

    Example:
        >>> brokers = [Address("one.local", 1883), Address("two.local", 1883)]
        >>> [where.host for where in ranked(brokers, "cam4")]
        ['two.local', 'one.local']
    """
    return tuple(sorted(brokers, key=lambda broker: _score(broker, device), reverse=True))


def _score(broker: Address, device: str) -> bytes:
    return hashlib.sha256(f"{device}\0{broker.host}:{broker.port}".encode()).digest()
