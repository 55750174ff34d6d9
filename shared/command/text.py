"""Text from elsewhere, made safe to print on a terminal or into a log."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` on one line, with every character that is not printable written as an escape such as ``\\x1b``.

    Control characters, terminal escapes, line breaks, marks that turn the direction of writing and bytes of file names
    that are no UTF-8 could otherwise move the cursor, hide text or forge a line of the log.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
