"""Which version a device takes while another is rolled out."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.edge_agent.updates.offers import Offers
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.transport.rollout import Rollout, State
from tests.bundles import tiny_bundle


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    """The catalogue's version and a newer one."""
    place = tmp_path_factory.mktemp("bundles")
    return Bundle(tiny_bundle(place / "old")), Bundle(tiny_bundle(place / "new", seed=1))


class Device:
    def __init__(self, versions: tuple[Bundle, Bundle], current: str = "") -> None:
        self.old, self.new = versions
        self.announced: list[bytes] = []
        self.current = current
        self.offers = Offers("cam", self.announced.append, lambda: self.current)

    def rollout(self, state: State, share: float = 1.0, stable: str = "") -> None:
        self.offers.on_rollout(Rollout("tiny", stable or self.old.version, self.new.version, state, 0, share))

    @property
    def takes(self) -> str:
        """The version that was announced last."""
        return {self.old.data: "old", self.new.data: "new"}[self.announced[-1]] if self.announced else ""


def test_a_canary_takes_the_newer_version_in_whatever_order_the_messages_come(versions: tuple[Bundle, Bundle]) -> None:
    for order in itertools.permutations(("manifest", "rollout", "canary")):
        device = Device(versions)
        steps = {
            "manifest": lambda: device.offers.on_manifest(device.old.data),  # noqa: B023
            "rollout": lambda: device.rollout("running"),  # noqa: B023
            "canary": lambda: device.offers.on_canary(device.new.data),  # noqa: B023
        }
        for step in order:
            steps[step]()
        assert device.takes == "new"


@pytest.mark.parametrize(
    ("state", "share", "current", "expected"),
    [
        ("running", 0.0, "old", "old"),
        ("paused", 1.0, "old", "old"),
        ("paused", 1.0, "new", "new"),
        ("promoted", 1.0, "new", "new"),
        ("undone", 1.0, "new", "old"),
        ("running", 1.0, "old", "new"),
    ],
)
def test_the_state_decides(
    versions: tuple[Bundle, Bundle], state: State, share: float, current: str, expected: str
) -> None:
    device = Device(versions, {"old": versions[0], "new": versions[1]}[current].version)
    device.offers.on_manifest(device.old.data)
    device.offers.on_canary(device.new.data)
    device.rollout(state, share)
    assert device.takes == expected


def test_a_rollout_from_another_version_of_the_catalogue_is_ignored(versions: tuple[Bundle, Bundle]) -> None:
    device = Device(versions)
    device.offers.on_canary(device.new.data)
    device.rollout("running", stable="another")
    device.offers.on_manifest(device.old.data)
    assert device.takes == "old"


@given(st.lists(st.sampled_from(["manifest", "running", "undone", "canary"]), max_size=8))
def test_nothing_but_the_two_versions_is_ever_announced_and_the_newer_one_only_while_it_runs(
    versions: tuple[Bundle, Bundle], steps: list[str]
) -> None:
    device, state = Device(versions), ""
    for step in steps:
        if step == "manifest":
            device.offers.on_manifest(device.old.data)
        elif step == "canary":
            device.offers.on_canary(device.new.data)
        else:
            state = step
            device.rollout("running" if step == "running" else "undone")
        assert device.takes in ("", "old", "new")
        if state != "running":
            assert device.takes != "new"


def test_other_bundles_are_announced(versions: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    device = Device(versions)
    device.rollout("running")
    data = Bundle(tiny_bundle(tmp_path)).data.replace(b'"tiny"', b'"other"')
    device.offers.on_manifest(data)
    assert device.announced == [data]
