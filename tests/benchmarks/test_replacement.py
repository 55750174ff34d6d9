"""The optimum that replacement policies are set against."""

from __future__ import annotations

from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.replacement import _least

wanted = st.lists(st.sampled_from("abcd"), max_size=9).map(tuple)


@given(wanted, st.integers(1, 3))
def test_beladys_rule_fetches_as_little_as_any_rule_can(names: tuple[str, ...], room: int) -> None:
    """Against every choice there is."""

    @cache
    def least(place: int, resident: frozenset[str]) -> int:
        if place == len(names):
            return 0
        name = names[place]
        if name in resident:
            return least(place + 1, resident)
        if len(resident) < room:
            return 1 + least(place + 1, resident | {name})
        return 1 + min(least(place + 1, (resident - {victim}) | {name}) for victim in resident)

    assert _least(names, room) == least(0, frozenset())
