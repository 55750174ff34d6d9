"""A live comparison prints its table, whichever policy was skipped."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.simulator.live import compare
from cachenet.simulator.live.classification import Classification
from cachenet.simulator.live.outcome import CACHENET, SERVER, Run, Summary
from cachenet.simulator.live.progress_view import ProgressView
from cachenet.simulator.live.task import Options
from cachenet.simulator.world.emulator import Counts
from cachenet.simulator.world.processes import Failed, Processes

pytestmark = pytest.mark.slow

FRAMES = 4
BUNDLE = zoo.DIRECTORY / "cifar10"


def run_without(slow: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Output of a live comparison whose policy ``slow`` is too slow; no process is started."""

    def fake_run(own: compare._Agent, _broker: int, _processes: Processes, view: ProgressView) -> Run:
        view.begin(own.policy)
        if own.policy == slow:
            raise compare._Skipped("it had answered 2 of 4 frames after 60 s")
        lines = [
            AnswerLine(
                frame=frame, time=0.0, label="cat", confidence=1.0, risk=0.0, level="base", model="m", latency_ms=9.0
            )
            for frame in range(FRAMES)
        ]
        return Run(lines, Summary(FRAMES), Counts(0, 0))

    monkeypatch.setattr(compare, "_run", fake_run)
    monkeypatch.setattr(compare, "start_cloud", lambda *_: (0, None))
    text = io.StringIO()
    try:
        compare.compare(Options(BUNDLE, frames=FRAMES, out=out), Console(file=text, width=80))
    except Failed as error:
        text.write(f"failed: {error}")
    return text.getvalue()


def test_a_policy_that_is_too_slow_is_skipped_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = run_without(SERVER, tmp_path, monkeypatch)
    assert f"Skipped: {SERVER}: it had answered 2 of 4 frames after 60 s" in output
    rows = [line.split()[0] for line in output.splitlines() if line.endswith(" 0")]
    assert rows == ["cachenet", "device-only"]
    assert "on average than device-only (" in output and "failed" not in output
    metrics = msgspec.json.decode((tmp_path / "demo.json").read_bytes())
    assert list(metrics["skipped"]) == [SERVER] and SERVER not in metrics["policies"]
    assert (tmp_path / "demo.png").exists()


def test_without_cachenet_the_table_is_still_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = run_without(CACHENET, tmp_path, monkeypatch)
    assert "device-only" in output and "There is no ranking" in output
    assert output.endswith(
        "failed: there is no picture without cachenet; on a slow machine give --fps 5, or --frames 100"
    )
    assert set(msgspec.json.decode((tmp_path / "demo.json").read_bytes())["policies"]) >= {SERVER}


def agent(directory: Path, fps: float) -> compare._Agent:
    """The agent of the policy ``cachenet`` on two frames; it is not started."""
    task = Classification(Options(BUNDLE), Bundle(BUNDLE))
    return compare._Agent(task, CACHENET, task.setting("camera", 2, fps), directory, directory, directory)


def test_an_agent_that_does_not_end_in_time_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "_GRACE_S", 0.2)
    with Processes(tmp_path) as processes, ProgressView(Console(file=io.StringIO()), [CACHENET], 2) as view:
        slow = processes.start("agent", "timeit", "-n", "1", "-r", "1", "import time; time.sleep(60)")
        with pytest.raises(compare._Skipped, match="it had answered 0 of 2 frames after 0 s"):
            compare._follow(agent(tmp_path, 1000.0), slow, processes, view)


def test_an_agent_that_fails_is_skipped_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes, ProgressView(Console(file=io.StringIO()), [CACHENET], 2) as view:
        failing = processes.start("agent", "no_such_module")
        with pytest.raises(compare._Skipped, match=r"agent failed; (?s:.)*No module named no_such_module"):
            compare._follow(agent(tmp_path, 10.0), failing, processes, view)
