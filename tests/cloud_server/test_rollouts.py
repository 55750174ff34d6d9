"""A rollout stops by itself when its canaries are worse, and only then."""

from __future__ import annotations

import contextlib
import re
from typing import Any, Literal

import msgspec
import numpy as np
import pytest

from cachenet.cloud_server.fleet import controller as module
from cachenet.cloud_server.fleet.comparison import Comparison
from cachenet.cloud_server.fleet.controller import RolloutController
from cachenet.cloud_server.fleet.fleet import Fleet
from cachenet.cloud_server.fleet.rollout_command import Action, RolloutError, change, lines
from cachenet.shared.transport import protocol, rollout
from cachenet.shared.transport.fleet import Recent, Stats
from cachenet.shared.transport.mqtt import Message
from cachenet.shared.transport.protocol import Malformed, Status
from cachenet.shared.transport.rollout import Rollout

START = Rollout("tiny", "old", "new", "running", 0, 0.2)
DEVICES = [f"cam{number}" for number in range(100)]


class Reporting:
    """A device whose audits and frames fail with these probabilities."""

    def __init__(self, version: str, wrong: float = 0.01, errors: float = 0.0, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._version, self._wrong, self._errors = version, wrong, errors
        self._seconds, self._audits, self._bad, self._failed, self._frames = 0.0, 0, 0, 0, 0

    def report(self) -> Stats:
        """Its figures a minute later."""
        self._seconds += 60.0
        self._audits += 6
        self._bad += int(self._rng.binomial(6, self._wrong))
        self._frames += 300
        self._failed += int(self._rng.binomial(300, self._errors))
        return Stats(
            self._version, self._seconds, 60.0, {"base": self._frames - self._failed}, 0, self._failed,
            self._audits, self._bad, 0, None, 0.02, Recent(300, 1.0, 0.0, 1.0, 2.0),
        )  # fmt: skip


def minutes_until_stop(canaries: dict[str, float], others: dict[str, float], minutes: int, seed: int = 0) -> int:
    """After how many minutes a rollout on 100 devices is stopped; 0: not at all."""
    comparison = Comparison(START)
    fleet = {
        name: Reporting("new", seed=1000 * seed + index, **canaries)
        if START.has_canary(name)
        else Reporting("old", seed=1000 * seed + index, **others)
        for index, name in enumerate(DEVICES)
    }
    for minute in range(1, minutes + 1):
        for name, device in fleet.items():
            comparison.on_stats(name, device.report())
        if comparison.verdict():
            return minute
    return 0


def test_canaries_whose_audits_are_worse_stop_it_within_minutes() -> None:
    assert 0 < minutes_until_stop({"wrong": 0.2}, {"wrong": 0.01}, 20) <= 5


def test_canaries_with_errors_stop_it_within_minutes() -> None:
    assert 0 < minutes_until_stop({"errors": 0.05}, {"errors": 0.0}, 20) <= 5


@pytest.mark.parametrize("seed", range(2))
def test_canaries_that_are_as_good_or_better_never_stop_it(seed: int) -> None:
    assert minutes_until_stop({"wrong": 0.02, "errors": 0.001}, {"wrong": 0.02, "errors": 0.001}, 40, seed) == 0
    assert minutes_until_stop({"wrong": 0.0}, {"wrong": 0.05}, 20, seed) == 0


def test_a_difference_that_does_not_matter_never_stops_it() -> None:
    """However certain it is: 0.2 % of the frames more have errors."""
    assert minutes_until_stop({"errors": 0.002}, {"errors": 0.0}, 40) == 0


@pytest.mark.parametrize(("before", "stopped"), [(0.01, True), (0.2, False)])
def test_canaries_that_were_as_bad_before_do_not_stop_it(before: float, stopped: bool) -> None:
    """Cameras differ: those of the canaries may be the hard ones."""
    comparison = Comparison(START)
    canary = next(name for name in DEVICES if START.has_canary(name))
    other = next(name for name in DEVICES if not START.has_canary(name))
    former = Reporting("old", wrong=before)
    for _ in range(50):
        comparison.on_stats(canary, former.report())
    present, control = Reporting("new", wrong=0.2), Reporting("old", wrong=0.01)
    for _ in range(60):
        comparison.on_stats(canary, present.report())
        comparison.on_stats(other, control.report())
    assert bool(comparison.verdict()) == stopped


def status(comparison: Comparison, device: str, bundle: str, update: str) -> None:
    comparison.on_status(device, Status("online", "1", bundle, (), update))


def outcomes(failed: int, updated: int, others_failed: int = 0) -> str:
    comparison = Comparison(START)
    names = [name for name in DEVICES if START.has_canary(name)]
    for name in names[:failed]:
        status(comparison, name, "old", "failed (base gives no finite scores)")
    for name in names[failed : failed + updated]:
        status(comparison, name, "new", "committed")
    for index, name in enumerate(name for name in DEVICES if not START.has_canary(name)):
        status(comparison, name, "old", "failed (no room)" if index < others_failed else "committed")
    return comparison.verdict()


def test_failed_updates_stop_it() -> None:
    assert outcomes(1, 0) == ""
    assert outcomes(2, 0) == "2 of 2 canaries could not update, 0% of the others"
    assert outcomes(6, 6) != ""


def test_a_failed_update_among_many_does_not_stop_it() -> None:
    assert outcomes(1, 12) == ""


def test_failures_that_others_have_as_well_do_not_stop_it() -> None:
    assert outcomes(2, 1, others_failed=60) == ""


def test_a_canary_that_updated_at_last_is_no_failure() -> None:
    comparison = Comparison(START)
    for name in [name for name in DEVICES if START.has_canary(name)][:3]:
        status(comparison, name, "old", "failed (x)")
        assert comparison._canaries[name]
        status(comparison, name, "new", "committed")
    assert comparison.verdict() == ""


def test_stats_that_a_broker_sends_again_count_once() -> None:
    """A server connects again to a broker that a device has left, and finds older figures of it there."""
    device = Reporting("old", wrong=1.0)
    reports = [device.report() for _ in range(4)]
    counted = []
    for again in (False, True):
        comparison = Comparison(START)
        for number, report in enumerate(reports):
            comparison.on_stats("cam", report)
            if again:
                comparison.on_stats("cam", reports[max(0, number - 2)], retained=True)
        counted.append(comparison._audits._others.count)
    assert counted == [18, 18]


class Site:
    """A broker that retains the rollout, and servers."""

    def __init__(self) -> None:
        self.controllers: list[RolloutController] = []
        self.retained = b""
        self.promoted: list[int] = []

    def server(self) -> RolloutController:
        number = len(self.controllers)
        own = RolloutController(
            START, lambda: {"bundle.json": b"new"}, self.publish, lambda: self.promoted.append(number)
        )
        self.controllers.append(own)
        return own

    def publish(self, topic: str, payload: bytes) -> bool:
        self.retained = payload
        for own in self.controllers:
            own.receive(Message(topic, payload, None, None, ()))
        return True

    @property
    def state(self) -> str:
        return rollout.read(self.retained).state


def send(own: RolloutController, device: str, leaf: Literal["status", "stats"], message: Any) -> None:
    own.receive(Message(protocol.topic(device, leaf), protocol.describe(message), None, None, ()))


def fail_two(own: RolloutController) -> None:
    for name in [name for name in DEVICES if START.has_canary(name)][:2]:
        send(own, name, "status", Status("online", "1", "old", (), "failed (x)"))


def test_a_bad_rollout_is_undone_by_the_server_and_stays_so_after_a_restart() -> None:
    site = Site()
    first = site.server()
    first.publish()
    assert site.state == "running"
    assert rollout.read(site.retained).files == {"bundle.json": b"new"}
    fail_two(first)
    assert site.state == "undone"
    assert "2 of 2 canaries" in rollout.read(site.retained).reason
    assert rollout.read(site.retained).files == {}
    again = site.server()
    again.receive(Message(rollout.topic("tiny"), site.retained, None, None, ()))
    again.on_connect()
    assert again.rollout.state == site.state == "undone"


def test_a_server_that_knows_less_cannot_start_an_undone_rollout_again() -> None:
    site = Site()
    first, second = site.server(), RolloutController(START, dict, lambda *_: True, lambda: None)
    fail_two(first)
    site.publish(rollout.topic("tiny"), protocol.encode(second.rollout))  # it has not heard of the end yet
    assert site.state == "undone"


def test_a_promotion_by_hand_reaches_every_server_once() -> None:
    site = Site()
    for _ in range(2):
        site.server()
    site.controllers[0].publish()
    site.publish(rollout.topic("tiny"), protocol.encode(change(rollout.read(site.retained), Action.PROMOTE)))
    site.publish(rollout.topic("tiny"), site.retained)
    assert sorted(site.promoted) == [0, 1]
    fail_two(site.controllers[0])
    assert site.state == "promoted"


@pytest.mark.parametrize("action", [Action.UNDO, Action.PAUSE, Action.PROMOTE])
def test_a_change_that_reaches_one_broker_alone_reaches_the_devices_of_all(action: Action) -> None:
    """Another broker was down, or its rollout is lost, when the command or another server made the change."""
    brokers = [Site(), Site()]

    def publish(topic: str, payload: bytes) -> None:
        for broker in brokers:
            broker.publish(topic, payload)

    own = RolloutController(START, lambda: {"bundle.json": b"new"}, publish, lambda: None)
    for broker in brokers:
        broker.controllers.append(own)
    own.publish()
    first, second = brokers
    first.publish(rollout.topic("tiny"), protocol.encode(change(rollout.read(first.retained), action)))
    assert rollout.read(second.retained).state == own.rollout.state == change(START, action).state


def test_an_undone_rollout_that_is_resumed_has_files_and_is_judged_anew() -> None:
    site = Site()
    own = site.server()
    fail_two(own)
    site.publish(rollout.topic("tiny"), protocol.encode(change(rollout.read(site.retained), Action.RESUME, 0.5)))
    present = rollout.read(site.retained)
    assert (present.state, present.share, present.files) == ("running", 0.5, {"bundle.json": b"new"})
    send(own, "cam0", "status", Status("online", "1", "new", (), "committed"))
    assert own.rollout.state == "running"


def test_a_larger_share_has_more_canaries_whose_failures_count() -> None:
    site = Site()
    own = site.server()
    own.publish()
    site.publish(rollout.topic("tiny"), protocol.encode(change(rollout.read(site.retained), Action.RESUME, 1.0)))
    for name in [name for name in DEVICES if not START.has_canary(name)][:2]:
        send(own, name, "status", Status("online", "1", "old", (), "failed (x)"))
    assert site.state == "undone"


def test_a_server_that_was_not_connected_waits_for_the_retained_rollout_again() -> None:
    own = RolloutController(START, dict, lambda *_: False, lambda: None)
    own.publish()
    assert not own._known


def test_a_rollout_of_other_versions_changes_nothing() -> None:
    own = Site().server()
    own.receive(
        Message(rollout.topic("tiny"), protocol.encode(Rollout("tiny", "a", "b", "undone", 9, 1.0)), None, None, ())
    )
    assert own.rollout == START


def test_malformed_messages_raise_malformed_alone() -> None:
    own = Site().server()
    for topic in (rollout.topic("tiny"), protocol.topic("cam", "status"), protocol.topic("cam", "stats")):
        with pytest.raises(Malformed):
            own.receive(Message(topic, b"\xc1", None, None, ()))
    assert not own.receive(Message(protocol.topic("cam", "infer", "full"), b"", None, None, ()))


@pytest.mark.parametrize("field", ["audits", "errors", "asked", "alarms"])
@pytest.mark.parametrize("digits", [400, 4300])
def test_a_count_without_bound_ends_neither_the_judgement_nor_the_page(field: str, digits: int) -> None:
    """JSON has integers of any length; one device with such a number must not blind the server to all others."""
    own, fleet, honest = Site().server(), Fleet(lambda: 0.0), Reporting("old")
    topic, first = protocol.topic("cam", "stats"), protocol.describe(honest.report())
    fleet.receive(rollout.topic("tiny"), protocol.encode(START))
    fleet.receive(protocol.topic("cam", "status"), protocol.describe(Status("online", "1", "old")))
    for payload in (first, re.sub(rb'("%s":)\d+' % field.encode(), rb"\g<1>" + b"9" * digits, first)):
        fleet.receive(topic, payload)
        with contextlib.suppress(Malformed):
            own.receive(Message(topic, payload, None, None, ()))
    assert msgspec.json.decode(msgspec.json.encode(fleet.summary()))["devices"] == 1
    assert lines(fleet.summary())[0].startswith("tiny: running")
    canary, other = (next(name for name in DEVICES if START.has_canary(name) == takes) for takes in (True, False))
    bad = Reporting("new", errors=0.5)
    for _ in range(20):
        send(own, canary, "stats", bad.report())
        send(own, other, "stats", honest.report())
    assert own.rollout.state == "undone"


def test_a_server_waits_for_the_retained_rollout_before_it_begins_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETAINED_S", 3600.0)
    site = Site()
    site.server().on_connect()
    assert site.retained == b""


def test_impossible_changes_are_refused() -> None:
    promoted = change(START, Action.PROMOTE)
    with pytest.raises(RolloutError, match="serve the former version"):
        change(promoted, Action.UNDO)
    with pytest.raises(RolloutError, match="is undone; pause is not possible"):
        change(change(START, Action.UNDO), Action.PAUSE)


def test_the_fleet_shows_the_rollout_and_both_versions() -> None:
    fleet = Fleet(lambda: 0.0)
    fleet.receive(rollout.topic("tiny"), protocol.encode(START.with_files({"bundle.json": b"new"})))
    for device, version in (("a", "new"), ("b", "old"), ("c", "old")):
        fleet.receive(protocol.topic(device, "status"), protocol.describe(Status("online", "1", version)))
        reporting = Reporting(version)
        fleet.receive(protocol.topic(device, "stats"), protocol.describe(reporting.report()))
    summary = fleet.summary()
    assert [own.files for own in summary.rollouts] == [{}]
    assert {own.version: (own.devices, own.audits) for own in summary.versions} == {"old": (2, 12), "new": (1, 6)}
    shown = lines(summary)
    assert shown[0] == "tiny: running, 20% of the devices *"
    assert [line.split()[:2] for line in shown[2:]] == [["new", "1"], ["old", "2"]]
    assert all(len(line) <= 80 for line in shown)
