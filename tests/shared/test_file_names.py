"""Names of files: natural order, and text that any output takes."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.command.file_names import natural, shown

names = st.binary(min_size=1, max_size=60).map(os.fsdecode)


@given(names)
def test_any_name_becomes_one_printable_line(name: str) -> None:
    text = shown(name)
    assert text.isprintable()
    text.encode("utf-8")


@given(names)
def test_a_plain_name_stays_as_it_is(name: str) -> None:
    if name.isprintable():
        assert shown(name) == name


def test_numbers_in_names_are_ordered_by_value() -> None:
    ordered = ["1.png", "2.png", "10.png", "a1b2.png", "a1b10.png", "a2b1.png", "frame9.png", "frame0010.png"]
    assert sorted(set(ordered), key=natural) == ordered


@given(st.lists(names, unique=True, max_size=8), st.randoms())
def test_the_order_does_not_depend_on_how_files_are_listed(given: list[str], random: object) -> None:
    shuffled = list(given)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sorted(shuffled, key=natural) == sorted(given, key=natural)
