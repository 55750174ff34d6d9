"""Text from elsewhere on a terminal."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.command.text import printable


@given(st.text())
def test_printed_text_is_one_line_without_control_characters(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert text.isprintable() == (shown == text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("café 猫 a\\b", "café 猫 a\\b"),
        ("\x1b[2Jgone\r\n", "\\x1b[2Jgone\\r\\n"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb", "a\\u202eb"),
        (os.fsdecode(b"caf\xe9.jpg"), "caf\\udce9.jpg"),
    ],
)
def test_control_characters_and_invalid_bytes_become_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown
