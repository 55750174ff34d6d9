"""The message of a rollout: who is a canary, and which state is the latest."""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.transport import protocol, rollout
from cachenet.shared.transport.protocol import Malformed
from cachenet.shared.transport.rollout import Rollout

RUNNING = Rollout("tiny", "old", "new", "running", 0, 0.1)
STATES = st.builds(
    lambda state, revision: Rollout("tiny", "old", "new", state, revision, 0.1),
    st.sampled_from(["running", "paused", "promoted", "undone"]),
    st.integers(0, 3),
)


def canaries(share: float, devices: str = "*", newer: str = "new") -> set[str]:
    own = Rollout("tiny", "old", newer, "running", 0, share, devices)
    return {name for name in (f"cam{number}" for number in range(1000)) if own.has_canary(name)}


def test_a_share_of_the_devices_are_canaries() -> None:
    assert 70 <= len(canaries(0.1)) <= 130
    assert canaries(0.0) == set()
    assert len(canaries(1.0)) == 1000


def test_a_larger_share_keeps_the_canaries_and_another_version_has_others() -> None:
    assert canaries(0.1) < canaries(0.3)
    assert canaries(0.1) != canaries(0.1, newer="newest")


def test_only_devices_of_the_pattern_are_canaries() -> None:
    assert canaries(1.0, "cam1?") == {f"cam{number}" for number in range(10, 20)}


@given(st.lists(STATES, min_size=1, max_size=5))
def test_all_who_receive_the_same_states_end_in_the_same_one(states: list[Rollout]) -> None:
    """In any order: two servers that change a rollout at once agree."""
    ends = set()
    for order in itertools.islice(itertools.permutations(states), 24):
        present: Rollout | None = None
        for state in order:
            if state.supersedes(present):
                present = state
        assert present is not None
        ends.add((present.state, present.revision))
    assert len(ends) == 1


def test_to_undo_wins_over_to_promote_at_the_same_time() -> None:
    undone, promoted = RUNNING.changed("undone", "worse"), RUNNING.changed("promoted", "by hand")
    assert undone.supersedes(promoted)
    assert not promoted.supersedes(undone)


def test_a_rollout_survives_the_wire() -> None:
    sent = RUNNING.with_files({"bundle.json": b"{}"})
    assert rollout.read(protocol.encode(sent)) == sent


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_an_impossible_rollout_is_malformed(share: float) -> None:
    with pytest.raises(Malformed):
        rollout.read(protocol.encode(Rollout("tiny", "old", "new", "running", 0, share)))
    with pytest.raises(Malformed):
        rollout.read(protocol.encode(Rollout("../x", "old", "new", "running", 0, 0.1)))


@given(st.binary(max_size=80))
def test_no_payload_raises_anything_else(payload: bytes) -> None:
    with suppress(Malformed):
        rollout.read(payload)
