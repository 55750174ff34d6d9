from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.edge_agent.outputs import report
from cachenet.edge_agent.outputs.report import AccuracyCounter, AnswerLine, JsonLinesWriter, LatencyHistogram
from cachenet.shared.bundle.manifest import FORMAT, Manifest
from cachenet.shared.cascade.cascade import Tally
from cachenet.shared.cascade.types import Answer

HIT = Answer(7, 1, 0.97, 0.03, "base", "small")
ASKED = Answer(8, 0, 0.6, 0.0, "cloud", "full", "risk 0.400 over 0.050")
MANIFEST = Manifest(FORMAT, "pets", "classification", ("cat", "dog"), {}, {})


def line(answer: Answer, time: float, latency_ms: float, truth: str | None) -> AnswerLine:
    return report.line(answer, MANIFEST, time, latency_ms, truth)


def filled(values: list[float]) -> LatencyHistogram:
    latencies = LatencyHistogram()
    for value in values:
        latencies.add(value)
    return latencies


@given(st.lists(st.floats(0.001, 1e6), min_size=1), st.floats(0.001, 1.0))
def test_a_percentile_is_what_so_many_frames_stayed_within_to_one_percent(values: list[float], share: float) -> None:
    exact = sorted(values)[math.ceil(share * len(values)) - 1]
    assert exact * 0.999999 <= filled(values).percentile(share) <= exact * 1.0101


@pytest.mark.parametrize("scale", [0.05, 1.0, 40.0])
def test_the_table_agrees_with_numpy(scale: float) -> None:
    values = np.random.default_rng(0).lognormal(math.log(scale), 1.0, 20_000)
    table = filled(values.tolist()).table()
    assert table["mean"] == pytest.approx(values.mean(), rel=1e-3, abs=1e-3)
    assert table["max"] == pytest.approx(values.max(), abs=1e-3)
    for name, share in (("p50", 50), ("p95", 95), ("p99", 99)):
        assert table[name] == pytest.approx(np.percentile(values, share), rel=0.02, abs=1e-3)


def test_nothing_measured_is_zero_and_extremes_do_no_harm() -> None:
    assert filled([]).table() == {"mean": 0.0, "p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0}
    assert filled([0.0, 1e9]).table()["max"] == 1e9


def test_memory_stays_bounded_however_long_the_run() -> None:
    latencies = filled(np.random.default_rng(0).lognormal(0, 8, 20_000).tolist())
    assert len(latencies._bins) <= math.log(1e9) / math.log(1.01) + 2


def test_accuracy_counts_only_where_the_truth_is_known() -> None:
    score = AccuracyCounter()
    assert score.value is None
    for label, truth in (("cat", "cat"), ("cat", "dog"), ("cat", None), ("dog", "dog")):
        score.add(label, truth)
    assert score.value == pytest.approx(2 / 3)


def test_a_line_has_the_answer_and_omits_defaults(tmp_path: Path) -> None:
    sink = JsonLinesWriter(str(tmp_path / "answers.jsonl"))
    sink.write(line(HIT, 1.5, 0.25, None))
    sink.write(line(ASKED, 1.6, 9.5, "dog"))
    sink.close()
    first, second = (json.loads(text) for text in (tmp_path / "answers.jsonl").read_text().splitlines())
    assert first == {
        "frame": 7, "time": 1.5, "label": "dog", "confidence": 0.97, "risk": 0.03, "level": "base", "model": "small",
        "latency_ms": 0.25,
    }  # fmt: skip
    assert (second["label"], second["truth"]) == ("cat", "dog")
    assert second["reason"] == "risk 0.400 over 0.050"


def test_every_line_is_on_the_disk_when_write_returns(tmp_path: Path) -> None:
    sink = JsonLinesWriter(str(tmp_path / "answers.jsonl"))
    sink.write(line(HIT, 1.5, 0.25, None))
    assert (tmp_path / "answers.jsonl").read_bytes().endswith(b"}\n")
    sink.close()


def test_a_full_disk_ends_the_writing_not_the_run(caplog: pytest.LogCaptureFixture) -> None:
    sink = JsonLinesWriter("/dev/full")
    for _ in range(3):
        sink.write(line(HIT, 1.5, 0.25, None))
    sink.close()
    assert [record.message for record in caplog.records] == [
        "/dev/full: No space left on device; answers are no longer written; make room and start again"
    ]
    assert sink.failure == "/dev/full: No space left on device"


def test_standard_output_is_not_closed(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    sink = JsonLinesWriter("-")
    sink.write(line(HIT, 1.5, 0.25, None))
    sink.close()
    print("still here", flush=True)
    assert capfdbinary.readouterr().out.endswith(b"}\nstill here\n")


def test_a_file_that_cannot_be_opened_is_an_error_at_once() -> None:
    with pytest.raises(OSError):
        JsonLinesWriter("/nowhere/answers.jsonl")


def test_no_target_writes_nothing() -> None:
    sink = JsonLinesWriter("")
    sink.write(line(HIT, 1.5, 0.25, None))
    sink.close()


def test_an_answer_without_a_label_is_unknown() -> None:
    assert line(Answer(9, None, 0.0, 1.0, "base", ""), 1.7, 0.1, None).label == "unknown"


def test_misses_and_audited_hits_count_as_asked() -> None:
    tally = Tally()
    for level in ("base", "base", "frames", "frames", "cloud", "full", "fallback"):
        tally.count(Answer(0, None if level == "base" else 1, 0.5, 0.5, level, ""))
    assert report.counters(tally, audited=1) == {
        "overruled": 0, "asked": 4 / 7, "audited": 1, "unknown": 2, "scene_changes": 0,
    }  # fmt: skip
    assert report.counters(Tally(), audited=0)["asked"] == 0.0


def test_agreement_is_shown_after_the_first_audit() -> None:
    assert report.agreement(None) == ""
    assert report.agreement({"agreement": None}) == ""
    output = report.agreement({"agreement": {"estimate": 0.991, "low": 0.975, "high": 0.999}})
    assert output == "99.1% agree with the full model (95 %: 97.5% to 99.9%)"
