"""The fleet: what devices report becomes rows, the worst first."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cachenet.cloud_server.cli import app
from cachenet.cloud_server.fleet import text
from cachenet.cloud_server.fleet.assessment import MAX_PERIODS, assess
from cachenet.cloud_server.fleet.fleet import MAX_DEVICES, Fleet
from cachenet.shared.transport import protocol
from cachenet.shared.transport.fleet import Recent, Stats
from cachenet.shared.transport.protocol import Status

HEALTHY = Stats(
    bundle="ab" * 32, seconds=100.0, period_s=60.0, levels={"base": 280, "cloud": 20}, asked=22, errors=0, audits=10,
    wrong=0.0, alarms=0, error=(0.01, 0.0, 0.06), budget=0.02, recent=Recent(300, 0.93, 0.0, 3.0, 40.0),
)  # fmt: skip
ONLINE = Status("online", "0.1.0", "ab" * 32, (), "committed")


def status(
    fleet: Fleet, device: str, state: Any = "online", broker: int = 0, retained: bool = False, **fields: Any
) -> None:
    payload = protocol.describe(msgspec.structs.replace(ONLINE, state=state, **fields))
    fleet.receive(protocol.topic(device, "status"), payload, broker, retained)


def stats(fleet: Fleet, device: str, broker: int = 0, retained: bool = False, **fields: Any) -> None:
    payload = protocol.describe(msgspec.structs.replace(HEALTHY, **fields))
    fleet.receive(protocol.topic(device, "stats"), payload, broker, retained)


def test_a_device_that_works_has_no_findings() -> None:
    assert assess(ONLINE, HEALTHY, 30.0) == []


def test_a_device_that_was_stopped_has_no_findings() -> None:
    assert assess(msgspec.structs.replace(ONLINE, state="stopped", update="failed (no disk)"), None, 0.0) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"faults": "yard: no frame for 30 s; is the camera there?"}, "no frame for 30 s"),
        ({"error": (0.05, 0.03, 0.08)}, "error 5.0%, at least 3.0% (95 %); the budget is 2.0%"),
        ({"errors": 3}, "3 frames or model runs failed"),
        ({"recent": Recent(300, 0.9, 0.1, 3.0, 40.0)}, "10% of the answers are fallbacks"),
    ],
)
def test_each_fault_is_named(changed: dict[str, Any], expected: str) -> None:
    (finding,) = assess(ONLINE, msgspec.structs.replace(HEALTHY, **changed), 30.0)
    assert expected in finding.text


def test_an_error_that_may_be_within_the_budget_is_no_finding() -> None:
    """A few audits have a wide interval: only its lower end proves anything."""
    assert assess(ONLINE, msgspec.structs.replace(HEALTHY, error=(0.1, 0.015, 0.4)), 30.0) == []


def test_stats_are_missing_once_the_broker_has_dropped_them() -> None:
    assert assess(ONLINE, HEALTHY, MAX_PERIODS * HEALTHY.period_s) == []
    (finding,) = assess(ONLINE, HEALTHY, MAX_PERIODS * HEALTHY.period_s + 1)
    assert finding.text == "no figures for 181 s"


def test_the_worst_device_is_first() -> None:
    fleet = Fleet(lambda: 0.0)
    for name, state, update in (("a", "online", ""), ("b", "online", "failed (x)"), ("c", "offline", "failed (x)")):
        status(fleet, name, state, update=update)
        stats(fleet, name)
    status(fleet, "d", "offline")
    assert [row.device for row in fleet.summary().rows] == ["c", "d", "b", "a"]


def test_errors_count_since_the_message_before() -> None:
    fleet = Fleet(lambda: 0.0)
    status(fleet, "a")
    stats(fleet, "a", errors=3)
    assert fleet.summary().rows[0].severity > 0
    stats(fleet, "a", errors=3)
    assert fleet.summary().rows[0].severity == 0


def test_a_device_is_in_the_first_group_that_its_name_matches() -> None:
    fleet = Fleet(lambda: 0.0, [("yard", "cam-1*"), ("all", "cam-*")])
    for name in ("cam-11", "cam-21", "porch"):
        status(fleet, name)
    assert {row.device: row.group for row in fleet.summary().rows} == {"cam-11": "yard", "cam-21": "all", "porch": ""}


def test_a_device_that_moved_to_another_broker_is_online() -> None:
    """It left ``offline`` on the first one, whichever message comes last."""
    for order in ((0, 1), (1, 0)):
        fleet = Fleet(lambda: 0.0)
        for broker in order:
            status(fleet, "a", "offline" if broker == 0 else "online", broker)
        assert fleet.summary().states == {"online": 1}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_retained_records_of_a_device_the_newer_counts(order: tuple[int, int]) -> None:
    """The first broker was killed while the device was connected, and has read back what it retained."""
    fleet = Fleet(lambda: 0.0)
    for broker in order:
        state, at = [("online", 100.0), ("offline", 200.0)][broker]
        status(fleet, "a", state, broker, retained=True, bundle=str(broker), at=at)
        stats(fleet, "a", broker, retained=True, errors=broker, at=at)
    (row,) = fleet.summary().rows
    assert (row.status.state, row.status.bundle) == ("offline", "1")
    assert row.stats is not None and row.stats.errors == 1


def test_a_device_that_connects_to_another_broker_with_a_clock_that_is_behind_is_there() -> None:
    fleet = Fleet(lambda: 0.0)
    status(fleet, "a", "online", 0, retained=True, bundle="old", at=200.0)
    stats(fleet, "a", 0, retained=True, at=200.0, seconds=9.0)
    status(fleet, "a", "online", 1, bundle="new", at=100.0)
    stats(fleet, "a", 1, at=100.0, seconds=1.0)
    (row,) = fleet.summary().rows
    assert row.status.bundle == "new" and row.stats is not None and row.stats.seconds == 1.0


def test_numbers_that_a_broker_repeats_are_not_newer() -> None:
    now = [0.0]
    fleet = Fleet(lambda: now[0])
    status(fleet, "a", at=100.0)
    stats(fleet, "a", errors=3, at=100.0)
    now[0] = 500.0
    stats(fleet, "a", errors=3, at=100.0, retained=True)
    (row,) = fleet.summary().rows
    assert row.age_s == 500.0


def test_a_device_that_is_forgotten_has_no_row() -> None:
    fleet = Fleet(lambda: 0.0)
    status(fleet, "a")
    fleet.receive(protocol.topic("a", "status"), b"")
    assert fleet.summary().devices == 0


def test_the_number_of_devices_is_bounded() -> None:
    fleet = Fleet(lambda: 0.0)
    fleet._devices = {str(number): None for number in range(MAX_DEVICES)}  # type: ignore[misc]
    status(fleet, "more")
    assert "more" not in fleet._devices


@given(st.text(max_size=20), st.binary(max_size=60) | st.just(b'{"state": "online", "version": 1}'))
def test_no_message_raises(name: str, payload: bytes) -> None:
    fleet = Fleet(lambda: 0.0)
    for leaf in ("status", "stats", "status/x"):
        fleet.receive(f"{protocol.ROOT}/{name}/{leaf}", payload)
    fleet.summary()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["online", "offline", "stopped"]),
            st.sampled_from(["committed", "failed (x)", ""]),
            st.floats(0, 1),
            st.integers(0, 3),
        ),
        max_size=8,
    )
)
def test_rows_are_sorted_and_counted(devices: list[tuple[str, str, float, int]]) -> None:
    fleet = Fleet(lambda: 0.0)
    for number, (state, update, fallbacks, errors) in enumerate(devices):
        status(fleet, f"cam{number}", state, update=update)
        stats(fleet, f"cam{number}", errors=errors, recent=Recent(10, 0.5, fallbacks, 1.0, 2.0))
    summary = fleet.summary()
    severities = [row.severity for row in summary.rows]
    assert severities == sorted(severities, reverse=True)
    assert len(summary.rows) == summary.devices == len(devices) == sum(summary.states.values())
    assert summary.with_findings == sum(severity > 0 for severity in severities)


def test_text_of_a_device_cannot_move_the_cursor() -> None:
    fleet = Fleet(lambda: 0.0)
    status(fleet, "a", update="failed (\x1b[2J)")
    shown = "\n".join(text.lines(fleet.summary()))
    assert "\x1b" not in shown
    assert "failed" in shown


def test_the_text_counts_no_devices_and_one() -> None:
    fleet = Fleet(lambda: 0.0)
    assert text.lines(fleet.summary()) == ["no devices"]
    status(fleet, "cam", "offline")
    assert text.lines(fleet.summary())[0] == "1 device: 1 offline; 1 with findings"


def test_the_text_lists_the_devices_with_findings_alone() -> None:
    fleet = Fleet(lambda: 0.0)
    for number in range(30):
        status(fleet, f"cam{number}", "offline" if number < 25 else "online")
        stats(fleet, f"cam{number}")
    lines = text.lines(fleet.summary())
    assert lines[0] == "30 devices: 25 offline, 5 online; 25 with findings"
    assert sum("connection lost" in line for line in lines) == text.MAX_ROWS
    assert lines[-1].startswith("and 5 more")


@pytest.mark.parametrize("other", [["--json"], ["--html", "fleet.html"]], ids=" ".join)
def test_a_served_page_is_not_written_as_well(other: list[str]) -> None:
    done = CliRunner().invoke(app, ["fleet", "--broker", "mqtt://127.0.0.1:1", "--listen", "0", *other])
    assert done.exit_code == 2
    assert "leave out --json and --html" in done.output
