"""The log: each message at most once a minute, whatever repeats it, and nothing that a terminal obeys."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Callable

import pytest

from cachenet.shared.command.logs import _MAX_SITES, BURST, WINDOW_S, Limited


class Log:
    """A logger of its own, a clock, and the lines that have come out."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.stream = io.StringIO()
        self.handler = Limited(logging.StreamHandler(self.stream), lambda: self.now)
        self.logger = logging.Logger("test")
        self.logger.addHandler(self.handler)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


@pytest.fixture
def log() -> Log:
    return Log()


def test_the_same_message_passes_once_a_minute_with_the_number_suppressed(log: Log) -> None:
    def failed() -> None:
        log.logger.error("%s: failed", "model")

    for _ in range(43):
        failed()
        log.now += 1.0
    assert log.lines == ["ERROR model: failed"]
    log.now += WINDOW_S
    failed()
    assert log.lines == ["ERROR model: failed", "ERROR model: failed (and 42 more within a minute)"]


def test_the_number_suppressed_is_logged_after_the_message_stops(log: Log) -> None:
    for _ in range(5):
        log.logger.warning("lost")
    log.now += WINDOW_S
    log.logger.warning("something else")
    assert log.lines == ["WARNING lost", "WARNING lost (and 3 more within a minute)", "WARNING something else"]


def test_the_number_suppressed_is_logged_at_the_end_of_the_program(log: Log) -> None:
    for _ in range(5):
        log.logger.warning("lost")
    log.handler.close()
    assert log.lines == ["WARNING lost", "WARNING lost (and 3 more within a minute)"]


def test_different_messages_of_one_line_of_code_pass_up_to_a_limit(log: Log) -> None:
    """So that one camera does not hide another, and nobody fills a disk by sending texts that differ."""
    for number in range(1000):
        log.logger.warning(f"malformed message {number}")
    assert log.lines == [f"WARNING malformed message {number}" for number in range(BURST)]
    log.now += WINDOW_S
    log.logger.warning("later")
    assert log.lines[BURST] == f"WARNING malformed message 999 (and {1000 - BURST - 1} more within a minute)"


def test_levels_and_lines_of_code_do_not_hide_each_other(log: Log) -> None:
    log.logger.warning("same")
    log.logger.warning("same")
    log.logger.error("same")
    assert log.lines == ["WARNING same", "WARNING same", "ERROR same"]


def test_memory_is_bounded_by_the_lines_of_code(log: Log) -> None:
    def logged(line: int) -> None:
        log.logger.handle(logging.LogRecord("test", logging.ERROR, "generated.py", line, "x", None, None))

    for line in range(3 * _MAX_SITES):
        logged(line)
        logged(line)
    assert len(log.handler._sites) <= _MAX_SITES
    assert sum("1 more" in line or line == "ERROR x" for line in log.lines) == len(log.lines)


def test_a_flood_of_a_megabyte_leaves_a_few_lines(log: Log) -> None:
    for number in range(10_000):
        log.logger.error("a message that makes no sense, number %d, of %s", number, "x" * 100)
    assert len(log.stream.getvalue()) < 200 * (BURST + 1)


@pytest.mark.parametrize(
    "raising",
    [
        lambda logger: logger.error("from %s", "\x1b[31mthe server\x07\nERROR forged"),
        lambda logger: logger.error("\x1b[31mthe server\x07\nERROR forged"),
        lambda logger: logger.error("%s %s", "\x1b[31mtoo few"),  # noqa: PLE1206
    ],
)
def test_control_characters_are_logged_as_text(log: Log, raising: Callable[[logging.Logger], None]) -> None:
    raising(log.logger)
    (line,) = log.lines
    assert line.isprintable()


def test_a_traceback_stays_multiline_and_printable(log: Log) -> None:
    try:
        raise ValueError("\x1b]0;title\x07 of rtsp://u:secret@h/x")
    except ValueError:
        log.logger.exception("failed")
    assert log.lines[0] == "ERROR failed"
    assert log.lines[1].startswith("Traceback")
    assert log.lines[-1] == "ValueError: \\x1b]0;title\\x07 of rtsp://h/..."


def test_a_password_in_a_message_of_a_library_is_not_logged(log: Log) -> None:
    log.logger.error("cannot open %s", "rtsp://u:secret@h/x")
    assert log.lines == ["ERROR cannot open rtsp://h/..."]


def test_a_process_reports_at_its_end_what_it_suppressed() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import logging; from cachenet.shared.command import logs; logs.to_stderr(logging.INFO)\n"
            "for _ in range(9): logging.warning('again')",
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == "WARNING again\nWARNING again (and 7 more within a minute)\n"
