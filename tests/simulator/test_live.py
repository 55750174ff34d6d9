"""A live comparison prints its table, whichever policy was skipped."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.simulator.report import live, live_report
from cachenet.simulator.report.live import Options
from cachenet.simulator.report.live_report import CACHENET, SERVER
from cachenet.simulator.report.progress_view import ProgressView, Tail
from cachenet.simulator.world.emulator import Counts
from cachenet.simulator.world.processes import Failed, Processes

pytestmark = pytest.mark.slow

FRAMES = 4


def run_without(slow: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Output of a live comparison whose policy ``slow`` is too slow; no process is started."""

    def fake_run(policy: str, *others: object) -> live._Run:
        view = others[-1]
        assert isinstance(view, ProgressView)
        view.begin(policy)
        if policy == slow:
            raise live._Skipped("it had answered 2 of 4 frames after 60 s")
        lines = [
            AnswerLine(
                frame=frame, time=0.0, label="cat", confidence=1.0, risk=0.0, level="base", model="m", latency_ms=9.0
            )
            for frame in range(FRAMES)
        ]
        return live._Run(lines, live_report.Summary(FRAMES), Counts(0, 0))

    monkeypatch.setattr(live, "_run", fake_run)
    monkeypatch.setattr(live, "start_cloud", lambda *_: (0, None))
    text = io.StringIO()
    try:
        live.compare(Options(frames=FRAMES, out=out), Console(file=text, width=80))
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


def test_an_agent_that_does_not_end_in_time_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_GRACE_S", 0.2)
    with Processes(tmp_path) as processes, ProgressView(Console(file=io.StringIO()), ["cachenet"], 2) as view:
        agent = processes.start("agent", "timeit", "-n", "1", "-r", "1", "import time; time.sleep(60)")
        with pytest.raises(live._Skipped, match="it had answered 0 of 2 frames after 0 s"):
            live._follow(agent, Tail(tmp_path / "none"), Options(frames=2, fps=1000), processes, view, "")


def test_an_agent_that_fails_is_skipped_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes, ProgressView(Console(file=io.StringIO()), ["cachenet"], 2) as view:
        agent = processes.start("agent", "no_such_module")
        with pytest.raises(live._Skipped, match=r"agent failed; (?s:.)*No module named no_such_module"):
            live._follow(agent, Tail(tmp_path / "none"), Options(frames=2), processes, view, "")
