"""Untrusted text for terminals and logs."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` on one line, with every unprintable character as an escape sequence such as ``\\x1b``.

    Unprintable are control characters, line breaks, marks of writing direction, and bytes that are not UTF-8. They
    could move the cursor, hide text or forge a line of a log.

    Example:
        >>> printable("name\\x1b[2J")
        'name\\\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
