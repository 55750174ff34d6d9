"""Supervised threads."""

from __future__ import annotations

import itertools
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from cachenet.shared.command.supervision import SupervisedThread, ended_threads, failures

_WAIT_S = 20.0
_QUICK = (0.001, 0.002)


@pytest.fixture
def start() -> Iterator[Callable[..., SupervisedThread]]:
    """Start a thread that is stopped at the end of the test."""
    threads: list[SupervisedThread] = []

    def begin(name: str, body: Callable[[], None], **more: object) -> SupervisedThread:
        thread = SupervisedThread(name, body, backoff_s=_QUICK, **more)  # type: ignore[arg-type]
        threads.append(thread)
        thread.start()
        return thread

    yield begin
    for thread in threads:
        assert thread.stop(_WAIT_S)


def test_a_thread_that_has_ended_by_itself_is_named_and_one_that_was_stopped_is_not(
    start: Callable[..., SupervisedThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    stopped = start("stopped", lambda: time.sleep(0.001))
    assert stopped.stop(_WAIT_S)
    ended = start("ended", lambda: ended._run.no_such_name)  # type: ignore[attr-defined]
    monkeypatch.setattr(ended, "_failed", None)  # as where the log itself fails
    ended._thread.join(_WAIT_S)
    assert ended_threads() == ["ended"]
    ended.stopping.set()
    assert ended_threads() == []


class Panic(BaseException):
    """As exceptions of libraries in Rust: no ``Exception``."""


@pytest.mark.parametrize("kind", [RuntimeError, MemoryError, SystemExit, Panic])
def test_a_thread_continues_after_any_exception(
    kind: type[BaseException], start: Callable[..., SupervisedThread]
) -> None:
    tasks: queue.Queue[str] = queue.Queue()
    done: queue.Queue[str] = queue.Queue()

    def body() -> None:
        try:
            task = tasks.get(timeout=0.05)
        except queue.Empty:
            return
        if task == "bad":
            raise kind("boom")
        done.put(task)

    before = failures().get("any", 0)
    start("any", body)
    for task in ("a", "bad", "b", "bad", "c"):
        tasks.put(task)
    assert [done.get(timeout=_WAIT_S) for _ in range(3)] == ["a", "b", "c"]
    assert failures()["any"] == before + 2


def test_each_distinct_failure_is_logged_once_with_its_traceback(
    start: Callable[..., SupervisedThread], caplog: pytest.LogCaptureFixture
) -> None:
    calls = itertools.count()
    finished = threading.Event()

    def body() -> None:
        if (call := next(calls)) < 40:
            raise ValueError("even" if call % 2 == 0 else "odd")
        finished.set()
        time.sleep(0.01)

    start("noisy", body, max_failures=1000)
    assert finished.wait(_WAIT_S)
    records = [record for record in caplog.records if "noisy" in record.getMessage()]
    assert sorted(str(record.exc_info[1]) for record in records if record.exc_info) == ["even", "odd"]


def test_consecutive_failures_give_up_once(start: Callable[..., SupervisedThread]) -> None:
    reasons: queue.Queue[str] = queue.Queue()
    calls = iter(range(1000))

    def body() -> None:
        if next(calls) != 3:  # three failures, a return, then failures for ever
            raise OSError("no disk")

    thread = start("doomed", body, give_up=reasons.put, max_failures=5)
    assert reasons.get(timeout=_WAIT_S) == "thread doomed failed 5 times in a row (OSError: no disk)"
    assert thread.stop(_WAIT_S)
    assert reasons.empty()
    assert next(calls) == 3 + 1 + 5


def test_the_fault_is_set_while_the_thread_fails(start: Callable[..., SupervisedThread]) -> None:
    broken = threading.Event()
    broken.set()
    called = threading.Semaphore(0)

    def body() -> None:
        called.release()
        if broken.is_set():
            raise ValueError("first line\nsecond line")
        time.sleep(0.001)

    thread = start("moody", body, max_failures=10**6)
    for _ in range(2):
        assert called.acquire(timeout=_WAIT_S)
    assert thread.fault == "ValueError: first line"
    broken.clear()
    for _ in range(5):
        assert called.acquire(timeout=_WAIT_S)
    assert thread.fault == ""
    assert thread.alive


def test_a_thread_that_gives_up_ends_the_process_with_exit_code_1() -> None:
    script = (
        "import logging, threading\n"
        "from cachenet.shared.command.supervision import SupervisedThread\n"
        "logging.basicConfig()\n"
        "def body(): raise ValueError('broken for good')\n"
        "SupervisedThread('loader', body, max_failures=3, backoff_s=(0.001, 0.001)).start()\n"
        "threading.Event().wait(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "thread loader failed 3 times in a row (ValueError: broken for good); ending the process" in done.stderr
