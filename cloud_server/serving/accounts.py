"""What each device has cost the server: expected cost of its next request, and a token bucket for its quota.

A token is a millisecond of decoding and of the full model. A bucket holds what the quota gives in two seconds, and may
owe as much. Only time that was spent is charged.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

#: Capacity of a bucket, and its largest debt, seconds of the quota.
_BURST_S = 2.0
#: Weight of the newest cost in the exponential average of costs.
_NEWEST = 0.25
#: Largest number of devices with an account: 1 MB. The account that was not charged for longest is dropped first.
_MAX_ACCOUNTS = 4096


@dataclass(slots=True)
class _Account:
    """Mean cost of a request, and tokens at the time ``charged``; milliseconds."""

    mean: float
    tokens: float
    charged: float


class Accounts:
    """Accounts of devices, by name.

    Example:
        accounts = Accounts(time.monotonic, share=0.25)
        accounts.charge("cam1", 20.0)
        accounts.expected_ms("cam1"), accounts.over_quota("cam1")
    """

    def __init__(self, clock: Callable[[], float], share: float) -> None:
        """Create accounts with full buckets.

        Args:
            clock: Returns the time, seconds.
            share: Quota of a device, as a share of the server's time, above 0.
        """
        self._clock, self._share = clock, share
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        #: Mean cost of a request of any device, milliseconds.
        self._mean: float | None = None

    def expected_ms(self, device: str) -> float:
        """Expected cost of the next request of ``device``, milliseconds; 0 before the first cost of any device."""
        account = self._accounts.get(device)
        return (self._mean or 0.0) if account is None else account.mean

    def charge(self, device: str, milliseconds: float, answered: bool = True) -> None:
        """Take the cost of a request from the tokens of ``device``.

        Args:
            answered: Whether the model has answered it. What was refused does not lower the expected costs: with cheap
                refused requests a device would make a batch of dear ones look short.
        """
        tokens, before = self._tokens(device), self.expected_ms(device)
        mean = before + (_NEWEST if device in self._accounts else 1.0) * (milliseconds - before)
        overall = milliseconds if self._mean is None else self._mean + _NEWEST * (milliseconds - self._mean)
        if not answered:
            mean, overall = max(mean, before), max(overall, self._mean or 0.0)
        self._mean = overall
        self._accounts[device] = _Account(mean, max(-self._capacity, tokens - milliseconds), self._clock())
        self._accounts.move_to_end(device)
        if len(self._accounts) > _MAX_ACCOUNTS:
            self._accounts.popitem(last=False)

    def over_quota(self, device: str) -> bool:
        """Whether ``device`` has no token left."""
        return self._tokens(device) <= 0

    def retry_after_ms(self, device: str) -> int:
        """Time after which ``device`` has a part of a token, milliseconds; 1 at least."""
        return max(0, math.floor(-self._tokens(device) / self._share)) + 1

    @property
    def _capacity(self) -> float:
        return self._share * _BURST_S * 1000

    def _tokens(self, device: str) -> float:
        account = self._accounts.get(device)
        if account is None:
            return self._capacity
        earned = (self._clock() - account.charged) * self._share * 1000
        return min(self._capacity, account.tokens + earned)
