"""Child processes always end, and a failure quotes the log of the process that failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachenet.simulator.world.processes import Failed, Process, Processes, free_port, is_listening


def _listener(processes: Processes) -> tuple[Process, int]:
    port = free_port()
    process = processes.start("web", "http.server", str(port), "--bind", "127.0.0.1")
    processes.wait(process, lambda: is_listening(port), 60, "listening")
    return process, port


def test_leaving_ends_every_child(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Processes(tmp_path) as processes:
        children = [_listener(processes) for _ in range(2)]
        assert all(child.running for child, _ in children)
        raise KeyboardInterrupt
    assert not any(child.running or is_listening(port) for child, port in children)


def test_a_failure_quotes_the_end_of_the_log(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        broken = processes.start("broken", "no_such_module")
        with pytest.raises(Failed, match=r"(?s)^broken ended by itself; .*No module named no_such_module"):
            processes.wait(broken, lambda: False, 60, "ready")


def test_a_child_that_ends_is_a_failure(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        child, _ = _listener(processes)
        processes.check()
        child.kill()
        processes.check(but=child)
        with pytest.raises(Failed, match="web ended by itself"):
            processes.check()


def test_waiting_ends_after_its_time(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        child, _ = _listener(processes)
        with pytest.raises(Failed, match="web was not ready within 0 s"):
            processes.wait(child, lambda: False, 0, "ready")
