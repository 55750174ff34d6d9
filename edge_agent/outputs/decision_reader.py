"""Reads decision logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from cachenet.edge_agent.outputs.decision_log import Event
from cachenet.shared.command.errors import UserError

#: Errors of code that uses the events of a damaged log, whose values do not fit each other.
DAMAGE = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


class BadLog(UserError):
    """The file is no decision log, or a log of another bundle or stream. The message says which."""


def events(log: Path, on_truncated: Callable[[], object] = lambda: None) -> Iterator[Event]:
    """The events of a log in order, without a truncated last line, for which ``on_truncated`` is called. Raises
    ``BadLog``."""
    decoder = msgspec.json.Decoder(Event)
    with log.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                on_truncated()
                return
            try:
                yield decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise BadLog(f"{log} is no decision log, at line {number}: {error}") from None
