"""The devices of a fleet, from their messages on any number of brokers. No I/O; the clock comes from outside."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import msgspec

from cachenet.cloud_server.fleet.assessment import Finding, assess
from cachenet.shared.transport import protocol, rollout
from cachenet.shared.transport.fleet import Stats, read
from cachenet.shared.transport.protocol import Malformed, Status
from cachenet.shared.transport.rollout import Rollout

#: Largest number of devices; messages of further ones are dropped.
MAX_DEVICES = 20_000
#: Topics of the devices, and of the rollouts.
DEVICE_TOPICS = (f"{protocol.ROOT}/+/status", f"{protocol.ROOT}/+/stats")
TOPICS = (*DEVICE_TOPICS, rollout.TOPICS)
#: Largest number of rollouts, one for each bundle.
_MAX_ROLLOUTS = 64


class Row(msgspec.Struct, frozen=True):
    """One device.

    Attributes:
        group: Name of its group; empty for none.
        severity: Sum over ``findings``; 0 for a device that works.
        stats: Its figures; None without any.
        age_s: Time since these were received, seconds.
    """

    device: str
    group: str
    severity: int
    findings: list[Finding]
    status: Status
    stats: Stats | None
    age_s: float | None


class Version(msgspec.Struct):
    """The devices with one version of a bundle: their number, and sums over their figures.

    Attributes:
        failed: Devices whose last update has failed.
        frames: Answered frames since the start of each device.
        errors: Their frames and model runs that failed.
        audits: Audited hits of this version with a reply.
        wrong: Sum of the errors of these.
    """

    version: str
    devices: int = 0
    failed: int = 0
    frames: int = 0
    errors: int = 0
    audits: int = 0
    wrong: float = 0.0

    def add(self, row: Row) -> None:
        self.devices += 1
        self.failed += row.status.update.startswith("failed")
        if (stats := row.stats) is not None and stats.bundle == self.version:
            self.frames += sum(stats.levels.values())
            self.errors += stats.errors
            self.audits += stats.audits
            self.wrong += stats.wrong


class Summary(msgspec.Struct, frozen=True):
    """All devices, the worst first, how many have each state, their versions, and the rollouts without their files."""

    devices: int
    states: dict[str, int]
    with_findings: int
    versions: list[Version]
    rollouts: list[Rollout]
    malformed: int
    errors: list[str]
    rows: list[Row]


@dataclass
class _Device:
    """What is known of a device. ``statuses``: by number of the broker, oldest first."""

    statuses: dict[int, Status] = field(default_factory=dict)
    stats: Stats | None = None
    received: float = 0.0
    errors_before: int = 0

    @property
    def status(self) -> Status:
        """The newest status by the device's clock. A broker that the device has left may still have a former one."""
        newest_first = list(reversed(self.statuses.values()))
        if all(status.at for status in newest_first):
            return max(newest_first, key=lambda status: status.at)
        # of an agent of an earlier version
        return next((status for status in newest_first if status.state == "online"), newest_first[0])


class Fleet:
    """Collects status and figures of devices; thread-safe.

    Example:
        >>> fleet = Fleet(clock=lambda: 0.0)
        >>> fleet.receive("cachenet/2/cam1/status", b'{"state": "offline", "version": "1.0"}')
        >>> fleet.summary().rows[0].findings[0].text
        'connection lost'
    """

    def __init__(self, clock: Callable[[], float], groups: Sequence[tuple[str, str]] = ()) -> None:
        """
        Args:
            clock: Seconds since any time.
            groups: Name and pattern (``*`` and ``?``) of each group. A device is in the first whose pattern its name
                matches.
        """
        self._clock, self._groups = clock, groups
        self._devices: dict[str, _Device] = {}
        self._rollouts: dict[str, Rollout] = {}
        self._malformed = 0
        self._lock = threading.Lock()

    def receive(self, topic: str, payload: bytes, broker: int = 0, retained: bool = False) -> None:
        """Take a message of ``TOPICS``. One that is malformed is counted.

        Args:
            broker: Number of the broker.
            retained: Whether the broker had retained it before this program subscribed.
        """
        try:
            if topic.startswith(protocol.CATALOGUE_TOPICS[:-1]):
                self._on_rollout(protocol.catalogue_of(topic)[0], payload)
                return
            name, leaf = protocol.device_of(topic)
            with self._lock:
                if leaf == ("status",):
                    self._on_status(name, payload, broker, retained)
                elif leaf == ("stats",) and payload:
                    self._on_stats(name, read(payload, Stats), retained)
        except Malformed:
            with self._lock:
                self._malformed += 1

    def summary(self, errors: Sequence[str] = ()) -> Summary:
        """All devices now. ``errors``: of the connections, to be shown with them."""
        now = self._clock()
        with self._lock:
            rows = [self._row(name, device, now) for name, device in self._devices.items() if device.statuses]
            malformed, rollouts = self._malformed, [self._rollouts[name] for name in sorted(self._rollouts)]
        rows.sort(key=lambda row: (-row.severity, row.device))
        states = Counter[str](row.status.state for row in rows)
        versions: dict[str, Version] = {}
        for row in rows:
            if version := row.status.bundle:
                versions.setdefault(version, Version(version)).add(row)
        frequent = sorted(versions.values(), key=lambda version: (-version.devices, version.version))
        with_findings = sum(row.severity > 0 for row in rows)
        return Summary(len(rows), dict(states), with_findings, frequent, rollouts, malformed, list(errors), rows)

    def _on_rollout(self, bundle: str, payload: bytes) -> None:
        received = rollout.read(payload) if payload else None
        with self._lock:
            if received is None:
                self._rollouts.pop(bundle, None)
            elif (bundle in self._rollouts or len(self._rollouts) < _MAX_ROLLOUTS) and received.supersedes(
                self._rollouts.get(bundle)
            ):
                self._rollouts[bundle] = received.with_files({})

    def _device(self, name: str) -> _Device | None:
        """The entry of a device; None if there are too many."""
        if name not in self._devices and len(self._devices) >= MAX_DEVICES:
            return None
        return self._devices.setdefault(name, _Device())

    def _on_status(self, name: str, payload: bytes, broker: int, retained: bool) -> None:
        if not payload:  # ``edge-agent forget`` has removed it
            if (known := self._devices.get(name)) is not None:
                known.statuses.pop(broker, None)
                if not known.statuses:
                    del self._devices[name]
            return
        status = read(payload, Status)
        if (device := self._device(name)) is not None:
            device.statuses.pop(broker, None)
            if status.state == "online" and not retained:
                device.statuses.clear()  # it is connected to one broker only
            device.statuses[broker] = status

    def _on_stats(self, name: str, stats: Stats, retained: bool) -> None:
        if (device := self._device(name)) is not None:
            if retained and device.stats is not None and stats.at <= device.stats.at:
                return  # the same, or of a broker that the device has left
            device.errors_before = device.stats.errors if device.stats is not None else 0
            device.stats, device.received = stats, self._clock()

    def _row(self, name: str, device: _Device, now: float) -> Row:
        age_s = now - device.received
        findings = assess(device.status, device.stats, age_s, device.errors_before)
        severity = sum(finding.severity for finding in findings)
        shown_age = None if device.stats is None else round(age_s, 1)
        return Row(name, self._group(name), severity, findings, device.status, device.stats, shown_age)

    def _group(self, name: str) -> str:
        return next((group for group, pattern in self._groups if fnmatchcase(name, pattern)), "")
