"""The progress view on a pipe and on a terminal, and the reader of a file that grows."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
from rich.console import Console

from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.simulator.live.progress_view import ProgressView, Tail


def _line(frame: int, level: str = "base") -> AnswerLine:
    return AnswerLine(
        frame=frame, time=0.0, label="cat", confidence=1.0, risk=0.0, level=level, model="m", latency_ms=2.0
    )


def test_a_pipe_gets_plain_lines() -> None:
    out = io.StringIO()
    with ProgressView(Console(file=out, width=120, highlight=False), ["cachenet", "server-only"], 8) as view:
        view.begin("cachenet")
        for frame in range(8):
            view.add([_line(frame, "cloud" if frame < 2 else "base")])
        view.end()
    assert out.getvalue().splitlines() == [
        "cachenet: 2 of 8 frames, 0% local, mean 2.0 ms",
        "cachenet: 4 of 8 frames, 50% local, mean 2.0 ms",
        "cachenet: 6 of 8 frames, 67% local, mean 2.0 ms",
        "cachenet: 8 of 8 frames, 75% local, mean 2.0 ms",
    ]


def test_a_terminal_shows_every_policy() -> None:
    out = io.StringIO()
    with ProgressView(Console(file=out, width=120, force_terminal=True), ["cachenet", "server-only"], 8) as view:
        view.begin("cachenet")
        view.add([_line(0)])
        view.end()
    assert "server-only" in out.getvalue()
    assert "100% local, mean 2.0 ms" in out.getvalue()


def test_a_row_fits_eighty_columns_and_a_skipped_policy_is_marked() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system=None)
    with ProgressView(console, ["device-only"], 600) as view:
        view.begin("device-only")
        line = msgspec.structs.replace(_line(0, "submodels"), label="automobile", latency_ms=250.0)
        view.add([line] * 600)
        assert "100% local, mean 250.0 ms; automobile by submodels" in _shown(console, view)
        counts = {"bicycle": 1, "person": 12, "traffic light": 3}
        view.add([msgspec.structs.replace(line, label="", objects=(), counts=counts)])
        assert "mean 250.0 ms; 1 bicycle, 1.. by submodels" in _shown(console, view)
        view.end(skipped=True)
        assert "skipped" in _shown(console, view)


def _shown(console: Console, view: ProgressView) -> str:
    with console.capture() as capture:
        console.print(view._progress.get_renderable())
    assert capture.get().count("\n") == 1, capture.get()
    return capture.get()


def test_the_tail_gives_complete_lines_once(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    tail = Tail(file)
    assert tail.read() == []
    data = b"".join(msgspec.json.encode(_line(frame)) + b"\n" for frame in range(3))
    file.write_bytes(data[:-5])
    assert [line.frame for line in tail.read()] == [0, 1]
    file.write_bytes(data)
    assert [line.frame for line in tail.read()] == [2]
    assert tail.read() == []
