"""Compares the canaries of a rollout with the other devices. Pure: no I/O, no clock.

Three measures can stop a rollout: audited hits that disagree with the full model, errors, and failed updates. Each has
a sequential test, which allows a look at every message. Cameras differ: so the canaries must also be worse than they
were themselves with the version of the catalogue, as far as that is known.
"""

from __future__ import annotations

import math

import msgspec

from cachenet.cloud_server.fleet.fleet import MAX_DEVICES
from cachenet.shared.cascade.sequential_tests import TwoSampleTest
from cachenet.shared.transport.fleet import Stats
from cachenet.shared.transport.protocol import Status
from cachenet.shared.transport.rollout import Rollout

#: E-value that stops a rollout: a harmless one is stopped by one measure with a probability of at most 1 %.
STOP_E = 100.0
#: Least differences that matter, as shares: of audited hits, and of frames.
MIN_AUDIT_DIFFERENCE, MIN_ERROR_DIFFERENCE = 0.01, 0.005
#: Least number of observations of the canaries before the rollout that count.
MIN_BEFORE = 100
#: Share of updates that may fail for reasons of the device, such as a full disk.
MAX_FAILED = 0.05
#: Alternatives to ``MAX_FAILED``.
_FAILED_SHARES = (0.2, 0.5, 0.9)


class _Arm(msgspec.Struct):
    """Observations of one version: ``new`` ones are not in a block yet."""

    count: int = 0
    total: float = 0.0
    new_count: int = 0
    new_total: float = 0.0

    @property
    def rate(self) -> float:
        return self.total / self.count if self.count else 0.0

    def add(self, count: int, total: float) -> None:
        self.count, self.new_count = self.count + count, self.new_count + count
        self.total, self.new_total = self.total + total, self.new_total + total


class _Measure:
    """One measure of both versions."""

    def __init__(self, what: str, min_difference: float) -> None:
        self._what, self._min_difference = what, min_difference
        self._canaries, self._others = _Arm(), _Arm()
        #: Observations of canaries before they took the newer version, by device.
        self._before: dict[str, tuple[int, float]] = {}
        self._test = TwoSampleTest()

    def note_before(self, device: str, count: int, total: float) -> None:
        """Note all observations of a canary that does not have the newer version yet."""
        self._before[device] = count, total

    def add(self, canary: bool, count: int, total: float) -> None:
        """Add observations of one device, and a block to the test once there are some of both versions."""
        (self._canaries if canary else self._others).add(count, total)
        first, other = self._canaries, self._others
        if first.new_count and other.new_count:
            self._test.add(first.new_count, first.new_total, other.new_count, other.new_total)
            for arm in (first, other):
                arm.new_count, arm.new_total = 0, 0.0

    def verdict(self) -> str:
        first, other = self._canaries, self._others
        if self._test.e_value < STOP_E or first.rate - other.rate < self._min_difference:
            return ""
        before = [sum(values) for values in zip(*self._before.values(), strict=True)] or [0, 0.0]
        if before[0] >= MIN_BEFORE and first.rate - before[1] / before[0] < self._min_difference:
            return ""
        return f"{first.rate:.1%} of {first.count} {self._what} with the canaries, {other.rate:.1%} with the others"


class Comparison:
    """What the canaries of one rollout do, against the devices with the version of the catalogue."""

    def __init__(self, rollout: Rollout) -> None:
        #: State of the rollout, which says who is a canary.
        self.rollout = rollout
        self._audits = _Measure("audited hits are wrong", MIN_AUDIT_DIFFERENCE)
        self._errors = _Measure("frames have errors", MIN_ERROR_DIFFERENCE)
        self._devices: set[str] = set()
        self._last: dict[str, Stats] = {}
        #: Whether its last update has failed, by device: of canaries, and of others.
        self._canaries: dict[str, bool] = {}
        self._others: dict[str, bool] = {}

    def on_status(self, device: str, status: Status) -> None:
        """Take the status of a device."""
        failed = status.update.startswith("failed")
        if (not failed and status.update != "committed") or self._is_full(device):
            return  # under way, or too many devices
        if status.bundle == self.rollout.canary and not failed:
            self._canaries[device] = False
        elif status.bundle == self.rollout.stable:
            if not self.rollout.has_canary(device):
                self._others[device] = failed
            elif failed:
                self._canaries[device] = True

    def on_stats(self, device: str, stats: Stats, retained: bool = False) -> None:
        """Take the figures of a device.

        Args:
            retained: Whether a broker has sent them again. Those of a known device may be older than its last ones, as
                of a broker that the device has left, and would be counted twice.
        """
        if stats.bundle not in (self.rollout.canary, self.rollout.stable) or self._is_full(device):
            return
        if retained and device in self._last:
            return
        canary, frames = stats.bundle == self.rollout.canary, sum(stats.levels.values()) + stats.errors
        if not canary and self.rollout.has_canary(device):
            self._audits.note_before(device, stats.audits, stats.wrong)
            self._errors.note_before(device, frames, stats.errors)
        last, self._last[device] = self._last.get(device), stats
        if last is None or last.bundle != stats.bundle or stats.seconds < last.seconds or stats.audits < last.audits:
            return  # what came before may belong to another version
        audits = stats.audits - last.audits
        self._audits.add(canary, audits, min(max(0.0, stats.wrong - last.wrong), audits))
        errors = max(0, stats.errors - last.errors)
        frames -= sum(last.levels.values()) + last.errors
        self._errors.add(canary, max(frames, errors), errors)

    def verdict(self) -> str:
        """Why the rollout has to be undone, in one line; empty if there is no reason."""
        return self._updates() or self._audits.verdict() or self._errors.verdict()

    def _is_full(self, device: str) -> bool:
        """Whether this device is one too many; its messages are dropped."""
        self._devices |= {device} if len(self._devices) < MAX_DEVICES else set()
        return device not in self._devices

    def _updates(self) -> str:
        count, failed = len(self._canaries), sum(self._canaries.values())
        others = sum(self._others.values()) / len(self._others) if self._others else 0.0
        allowed = max(MAX_FAILED, others)
        e_values = [
            math.exp(failed * math.log(share / allowed) + (count - failed) * math.log((1 - share) / (1 - allowed)))
            for share in _FAILED_SHARES
            if share > allowed
        ]
        if not e_values or sum(e_values) / len(_FAILED_SHARES) < STOP_E:
            return ""
        return f"{failed} of {count} canaries could not update, {others:.0%} of the others"
