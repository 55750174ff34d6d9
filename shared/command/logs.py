"""Logging of the commands: one line for each message on stderr, with bounded repetition and printable text."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cachenet.shared.command.text import printable
from cachenet.shared.transport.addresses import hide

#: Time in which a message is not repeated, seconds.
WINDOW_S = 60.0
#: Most different messages of one line of code in that time.
BURST = 20
#: Most lines of code that are remembered; the least recently used is forgotten first.
_MAX_SITES = 512


def to_stderr(level: int) -> None:
    """Log messages of ``level`` and above to stderr."""
    handler = Limited(logging.StreamHandler(sys.stderr))
    logging.basicConfig(level=level, handlers=[handler])


class Formatter(logging.Formatter):
    """Formats level and message on one line, and a traceback below, printable and with addresses without passwords."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        return printable(hide(super().formatMessage(record)))

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging's own name
        lines = super().formatException(ei).split("\n")  # type: ignore[arg-type]
        return "\n".join(printable(hide(line)) for line in lines)


@dataclass
class _Site:
    """Messages of one line of code.

    Attributes:
        since: Start of the present window, seconds.
        texts: Messages logged in this window.
        suppressed: Number of messages suppressed in this window.
        last: The last of these.
    """

    since: float
    texts: set[str] = field(default_factory=set)
    suppressed: int = 0
    last: logging.LogRecord | None = None


class Limited(logging.Handler):
    """Passes messages to ``handler``, and suppresses repetitions.

    The same text passes once in ``WINDOW_S``, and at most ``BURST`` different texts of one line of code. The number of
    suppressed messages is logged with the next message of that line, or after the window with the last one suppressed.
    """

    def __init__(self, handler: logging.Handler, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        handler.setFormatter(Formatter())
        self._handler, self._clock = handler, clock
        self._sites: dict[tuple[str, int, int], _Site] = {}
        self._sweep_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # arguments do not match the template
            text, record.args = str(record.msg), None
        now, key = self._clock(), (record.pathname, record.lineno, record.levelno)
        site = self._sites.pop(key, None)
        if now >= self._sweep_at:
            self._sweep_at = now + 1.0
            self._report_ended(now)
        if site is None or now - site.since >= WINDOW_S:
            self._write(record, site.suppressed if site is not None else 0)
            site = _Site(now, {text})
        elif text in site.texts or len(site.texts) >= BURST:
            site.suppressed += 1
            site.last = record
        else:
            site.texts.add(text)
            self._write(record, 0)
        self._sites[key] = site  # most recently used last
        if len(self._sites) > _MAX_SITES:
            self._report_site(self._sites.pop(next(iter(self._sites))))

    def flush(self) -> None:
        self._handler.flush()

    def close(self) -> None:
        """Report what was suppressed."""
        self.acquire()
        try:
            for site in self._sites.values():
                self._report_site(site)
            self._sites.clear()
            self._handler.flush()
        finally:
            self.release()
        super().close()

    def _report_ended(self, now: float) -> None:
        """Forget lines of code whose window has ended, and report what they suppressed."""
        for key, site in list(self._sites.items()):
            if now - site.since >= WINDOW_S:
                self._report_site(site)
                del self._sites[key]

    def _report_site(self, site: _Site) -> None:
        if site.last is not None:
            self._write(site.last, site.suppressed - 1)

    def _write(self, record: logging.LogRecord, suppressed: int) -> None:
        if suppressed > 0:
            more = f"{record.getMessage()} (and {suppressed} more within a minute)"
            record = logging.makeLogRecord(record.__dict__ | {"msg": more, "args": None})
        self._handler.handle(record)
