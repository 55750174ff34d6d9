"""Which submodel goes first, by each of the policies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.replacement import POLICIES, Policy, Replacement

ANY = np.full(2, 0.5)


def made(policy: Policy, **cost_and_gain: tuple[int, float, float]) -> Replacement:
    replacement = Replacement(policy)
    for name, (cost, *gain) in cost_and_gain.items():
        replacement.add(name, cost, np.array(gain))
    return replacement


def test_lru_lets_go_of_what_was_used_longest_ago() -> None:
    replacement = made("lru", a=(1, 0, 0), b=(1, 0, 0), c=(1, 0, 0))
    for name in "aab":
        replacement.use(name)
    assert replacement.victim("abc", ANY) == "c"
    assert replacement.victim("ab", ANY) == "a"


def test_lfu_lets_go_of_what_was_used_least_however_lately() -> None:
    replacement = made("lfu", a=(1, 0, 0), b=(1, 0, 0))
    for name in "aaaab":
        replacement.use(name)
    assert replacement.victim("ab", ANY) == "b"


def test_lfu_forgets_in_time() -> None:
    replacement = made("lfu", a=(1, 0, 0), b=(1, 0, 0))
    for name in "a" * 500 + "b" * 2000:
        replacement.use(name)
    assert replacement.victim("ab", ANY) == "a"


def test_gdsf_lets_go_of_the_largest_of_equals_and_old_merit_fades() -> None:
    replacement = made("gdsf", large=(100, 0, 0), small=(10, 0, 0))
    assert replacement.victim(["large", "small"], ANY) == "large"
    replacement = made("gdsf", once=(10, 0, 0))
    for _ in range(5):
        replacement.use("once")
    for number in range(20):  # newcomers come and go, and each that goes raises the clock
        replacement.add(f"new{number}", 10, ANY)
        gone = replacement.victim(["once", f"new{number}"], ANY)
        if gone == "once":
            break
        replacement.drop(gone)
    assert gone == "once"


def test_context_lets_go_of_what_the_present_working_set_has_least_use_for() -> None:
    replacement = made("context", first=(10, 0.3, 0.0), second=(10, 0.0, 0.2), heavy=(100, 0.4, 0.4))
    assert replacement.victim(["first", "second"], np.array([0.9, 0.1])) == "second"
    assert replacement.victim(["first", "second"], np.array([0.1, 0.9])) == "first"
    assert replacement.victim(["first", "heavy"], np.array([0.9, 0.1])) == "heavy", "its gain takes ten times the bytes"


@pytest.mark.parametrize("policy", POLICIES)
@given(steps=st.lists(st.tuples(st.sampled_from(["add", "use", "victim"]), st.sampled_from("abcd")), max_size=60))
def test_the_victim_is_always_one_of_those_who_may_go(policy: Policy, steps: list[tuple[str, str]]) -> None:
    replacement, here = Replacement(policy), set[str]()
    for what, name in steps:
        if what == "add" and name not in here:
            replacement.add(name, 10, ANY)
            here.add(name)
        elif what == "use" and name in here:
            replacement.use(name)
        elif what == "victim" and here:
            gone = replacement.victim(sorted(here), ANY)
            assert gone in here
            replacement.drop(gone)
            here.remove(gone)
