"""The log of every command: one line a message on stderr, never a flood, nothing that a terminal would obey."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cachenet.shared.command.text import printable
from cachenet.shared.transport.addresses import hide

#: For how long a message is not repeated, seconds.
WINDOW_S = 60.0
#: How many different messages one line of code may log in that time.
BURST = 20
#: How many lines of code are remembered; the one used longest ago is forgotten first.
_SITES = 512


def to_stderr(level: int) -> None:
    """Log messages of ``level`` and above to stderr."""
    handler = Limited(logging.StreamHandler(sys.stderr))
    logging.basicConfig(level=level, handlers=[handler])


class Formatter(logging.Formatter):
    """Level and message on a line, then a traceback if there is one. Control characters are shown as text, and
    addresses without passwords."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        return printable(hide(super().formatMessage(record)))

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging's own name
        lines = super().formatException(ei).split("\n")  # type: ignore[arg-type]
        return "\n".join(printable(hide(line)) for line in lines)


@dataclass
class _Site:
    """What one line of code has logged. ``last``: the last message that was left out, shown if no other comes."""

    since: float
    texts: set[str] = field(default_factory=set)
    left_out: int = 0
    last: logging.LogRecord | None = None


class Limited(logging.Handler):
    """Passes messages on to ``handler``: the same text at most once a minute, and from one line of code at most
    ``BURST`` different texts a minute. The number of messages that were left out is logged with the next message of
    that line of code, or else with the last one that was left out, as soon as anything is logged after that minute and
    at the end. Lines of code and the texts of a minute bound the memory."""

    def __init__(self, handler: logging.Handler, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        handler.setFormatter(Formatter())
        self._handler, self._clock = handler, clock
        self._sites: dict[tuple[str, int, int], _Site] = {}
        self._sweep_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # arguments that do not fit their template
            text, record.args = str(record.msg), None
        now, place = self._clock(), (record.pathname, record.lineno, record.levelno)
        site = self._sites.pop(place, None)
        if now >= self._sweep_at:
            self._sweep_at = now + 1.0
            self._report(now)
        if site is None or now - site.since >= WINDOW_S:
            self._write(record, site.left_out if site is not None else 0)
            site = _Site(now, {text})
        elif text in site.texts or len(site.texts) >= BURST:
            site.left_out += 1
            site.last = record
        else:
            site.texts.add(text)
            self._write(record, 0)
        self._sites[place] = site  # behind the others: in the order of use
        if len(self._sites) > _SITES:
            self._tell(self._sites.pop(next(iter(self._sites))))

    def flush(self) -> None:
        self._handler.flush()

    def close(self) -> None:
        """Say what was left out."""
        self.acquire()
        try:
            for site in self._sites.values():
                self._tell(site)
            self._sites.clear()
            self._handler.flush()
        finally:
            self.release()
        super().close()

    def _report(self, now: float) -> None:
        """Forget the lines of code that have been silent for a minute, and say what they have left out."""
        for place, site in list(self._sites.items()):
            if now - site.since >= WINDOW_S:
                self._tell(site)
                del self._sites[place]

    def _tell(self, site: _Site) -> None:
        if site.last is not None:
            self._write(site.last, site.left_out - 1)

    def _write(self, record: logging.LogRecord, left_out: int) -> None:
        if left_out > 0:
            more = f"{record.getMessage()} (and {left_out} more within a minute)"
            record = logging.makeLogRecord(record.__dict__ | {"msg": more, "args": None})
        self._handler.handle(record)
