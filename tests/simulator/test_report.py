"""Reports add up: from agents' lines written by hand to the table, the JSON and the sentence."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from edge_agent.report import Line
from simulator import report
from simulator.emulator import Counts
from simulator.report import Incomplete, Outcome, Setting, Summary

_SETTING = Setting("camera", 3, "wifi", 30.0, {"cachenet": "0"})


def _line(frame: int, level: str, label: str, ms: float, cloud: str | None = None, truth: str | None = None) -> Line:
    return Line(
        frame=frame,
        time=0.0,
        label=label,
        confidence=0.9,
        risk=0.1,
        level=level,
        model="m",
        latency_ms=ms,
        cloud=cloud,
        truth=truth,
    )


def _outcomes() -> dict[str, Outcome]:
    ours = [
        _line(0, "cloud", "cat", 20, "cat", "cat"),
        _line(1, "submodels", "cat", 2, None, "cat"),
        _line(2, "frames", "cat", 1, None, "dog"),
        _line(3, "fallback", "dog", 250, None, "dog"),
    ]
    server = [
        _line(0, "cloud", "cat", 20, "cat", "cat"),
        _line(1, "cloud", "dog", 20, "dog", "cat"),
        _line(2, "fallback", "cat", 250, None, "dog"),
        _line(3, "cloud", "dog", 30, "dog", "dog"),
    ]
    device = [_line(frame, "base", "cat", 150) for frame in range(4)]
    reference = report.bare_answers(server)
    return {
        "ours": report.outcome(ours, Summary(4, ("pets",)), Counts(1000, 2000), reference, 4),
        "server-only": report.outcome(server, Summary(4), Counts(4000, 500), reference, 4),
        "device-only": report.outcome(device, Summary(4), Counts(0, 0), reference, 4),
    }


def test_a_run_is_added_up() -> None:
    ours = _outcomes()["ours"]
    assert (ours.hits, ours.cloud, ours.fallbacks) == ({"frames": 1, "submodels": 1, "base": 0}, 1, 1)
    assert ours.latency_ms["mean"] == pytest.approx(68.25)
    assert ours.latency_ms["p50"] == pytest.approx(11)
    assert ours.accuracy == 0.75
    assert ours.local_share == 0.5
    assert (ours.bytes_up, ours.bytes_down, ours.models_pushed) == (1000, 2000, 1)


def test_agreement_is_with_the_bare_answers_that_there_are() -> None:
    outcomes = _outcomes()
    assert outcomes["ours"].compared == 3
    assert outcomes["ours"].agreement == pytest.approx(2 / 3, abs=1e-4)
    assert outcomes["server-only"].agreement == 1.0
    assert outcomes["device-only"].accuracy is None


@pytest.mark.parametrize(
    "lines",
    [
        [_line(0, "base", "cat", 1)],
        [_line(0, "base", "cat", 1), _line(0, "base", "cat", 1)],
        [_line(0, "base", "cat", 1), _line(1, "nowhere", "cat", 1)],
    ],
    ids=["one missing", "one twice", "one at no level"],
)
def test_what_does_not_add_up_is_said(lines: list[Line]) -> None:
    with pytest.raises(Incomplete, match="2 frames were shown"):
        report.outcome(lines, Summary(2), Counts(0, 0), {}, 2)


def test_the_json_has_every_figure() -> None:
    found = msgspec.json.decode(report.to_json(_SETTING, _outcomes()))
    assert found["frames"] == sum(found["hits"].values()) + found["cloud"] + found["fallbacks"] == 4
    assert found["models_pushed"] == 1
    assert found["local_share"] == 0.5
    assert (found["stream"], found["seed"], found["link"], found["fps"]) == ("camera", 3, "wifi", 30.0)
    assert set(found["policies"]) == {"ours", "server-only", "device-only"}
    assert set(found["policies"]["ours"]["latency_ms"]) == {"mean", "p50", "p95", "p99"}
    assert found["policies"]["server-only"]["bytes_up"] == 4000


def test_the_sentence_names_the_better_rival_and_what_it_holds_for() -> None:
    said = report.sentence(_SETTING, _outcomes())
    assert said.startswith("Ours answers 1.2 times faster on average than server-only")
    assert "(68.2 against 80.0 ms; link wifi, stream camera, seed 3, 30 frames a second)" in said
    assert "leaves out 1 frame " in said


def test_the_table_shows_every_policy_whole() -> None:
    out = io.StringIO()
    Console(file=out, width=report.TABLE_WIDTH).print(report.table(_outcomes()))
    rows = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert "ours 4 1 1 0 0 1 1 68.2 11.0 215.5 243.1 75.0 66.7 1 2 1" in rows
    assert "device-only 4 0 0 4 0 0 0 150.0 150.0 150.0 150.0 - 33.3 0 0 0" in rows


def test_lines_are_read_as_the_agent_writes_them(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    lines = [_line(0, "cloud", "cat", 1.5, "cat"), _line(1, "base", "dog", 2.5)]
    file.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    assert report.read_lines(file) == lines
    file.write_bytes(b'{"frame": 0')
    with pytest.raises(Incomplete, match=r"answers\.jsonl"):
        report.read_lines(file)
