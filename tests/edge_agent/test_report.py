from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.edge_agent.outputs import report
from cachenet.edge_agent.outputs.report import AccuracyCounter, AnswerLine, JsonLinesWriter, LatencyHistogram, View
from cachenet.edge_agent.zones import Zone
from cachenet.shared.bundle.manifest import FORMAT, Manifest
from cachenet.shared.cascade.tally import Tally
from cachenet.shared.cascade.types import Answer
from tests.edge_agent.frames import detected_frame, tracked

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


def test_a_classifiers_line_has_no_fields_of_objects() -> None:
    """Lines of classifiers are what they were before detectors, byte for byte."""
    expected = (
        b'{"frame":8,"time":1.6,"label":"cat","confidence":0.6,"risk":0.0,"level":"cloud","model":"full",'
        b'"latency_ms":9.5,"reason":"risk 0.400 over 0.050","truth":"dog","correction":true,"camera":"yard"}'
    )
    made = report.line(ASKED, MANIFEST, 1.6, 9.5, "dog", True, View("yard"))
    assert msgspec.json.encode(made) == expected


def test_a_detectors_line_has_objects_and_counts_and_no_label() -> None:
    answered = detected_frame([tracked(17, (0.12345, 0.2, 0.1, 0.3), risk=0.03), tracked(18, (0, 0, 1, 1), 2)], 7)
    assert json.loads(msgspec.json.encode(answered.line)) == {
        "frame": 7, "time": 0.0, "confidence": 0.94, "risk": 0.06, "level": "tracks", "model": "base",
        "latency_ms": 4.2,
        "objects": [
            {"track": 17, "label": "person", "confidence": 0.97, "box": [0.1235, 0.2, 0.1, 0.3], "risk": 0.03},
            {"track": 18, "label": "traffic light", "confidence": 0.9, "box": [0.0, 0.0, 1.0, 1.0], "risk": 0.1},
        ],
        "counts": {"person": 1, "traffic light": 1},
    }  # fmt: skip


def test_nothing_is_an_answer_with_an_empty_list() -> None:
    line = json.loads(msgspec.json.encode(detected_frame(view=View(zones=(_LEFT,))).line))
    assert (line["objects"], line["counts"], line["zone_counts"]) == ([], {}, {"left": {}})
    assert "label" not in line and "truth" not in line


_LEFT = Zone("left", ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)))
_RIGHT = Zone("right", ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)))
_TOP = Zone("top", ((0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (0.0, 0.5)))
_BOTTOM = Zone("bottom", ((0.0, 0.5), (1.0, 0.5), (1.0, 1.0), (0.0, 1.0)))


@st.composite
def _boxes(draw: st.DrawFn) -> tuple[float, float, float, float]:
    left, top = draw(st.floats(0, 0.99)), draw(st.floats(0, 0.99))
    return left, top, draw(st.floats(1e-4, 1 - left)), draw(st.floats(1e-4, 1 - top))


@given(st.lists(st.tuples(_boxes(), st.integers(0, 2)), max_size=20))
def test_counts_add_up_over_zones_that_tile_the_picture_and_a_line_is_read_back(
    found: list[tuple[tuple[float, float, float, float], int]],
) -> None:
    """Objects that touch the edge of the picture too."""
    objects = [tracked(number, box, label) for number, (box, label) in enumerate(found)]
    line = detected_frame(objects, view=View("yard", zones=(_LEFT, _RIGHT, _TOP, _BOTTOM))).line
    assert line.counts is not None and line.zone_counts is not None and line.objects is not None
    assert sum(line.counts.values()) == len(objects)
    for one, other in (("left", "right"), ("top", "bottom")):
        assert Counter(line.zone_counts[one]) + Counter(line.zone_counts[other]) == Counter(line.counts)
    assert msgspec.json.decode(msgspec.json.encode(line), type=AnswerLine) == line
    for own, (box, _) in zip(line.objects, found, strict=True):
        assert own.box == pytest.approx(box, abs=6e-5)


def test_an_object_is_in_the_zone_in_which_it_stands() -> None:
    standing = tracked(1, (0.4, 0.1, 0.1, 0.6))  # its upper half is above the zone
    assert detected_frame([standing], view=View(zones=(_BOTTOM, _TOP))).line.zone_counts == {
        "bottom": {"person": 1},
        "top": {},
    }


@given(_boxes())
def test_boxes_in_a_region_are_shares_of_the_whole_picture(box: tuple[float, float, float, float]) -> None:
    line = detected_frame([tracked(1, box)], view=View(region=(0.5, 0.25, 0.5, 0.5))).line
    assert line.objects is not None
    expected = (0.5 + box[0] / 2, 0.25 + box[1] / 2, box[2] / 2, box[3] / 2)
    assert line.objects[0].box == pytest.approx(expected, abs=6e-5)


def test_the_summary_of_objects_has_means_by_frame() -> None:
    counter = report.ObjectCounter()
    assert counter.table() == {"mean": 0.0, "by_label": {}, "empty": 0.0}
    for counts in ({"person": 2, "car": 1}, {}, {"person": 1}, {}):
        counter.add(counts)
    assert counter.table() == {"mean": 1.0, "by_label": {"person": 0.75, "car": 0.25}, "empty": 0.5}


def test_the_report_of_a_run_names_the_most_frequent_labels() -> None:
    counter = report.ObjectCounter()
    assert report.objects_text(counter.table()) == "0.00 objects a frame; 0.0% of the frames empty"
    counter.add({f"label{number}": 9 - number for number in range(7)})
    counter.add({})
    assert report.objects_text(counter.table()) == (
        "21.00 objects a frame (4.50 label0, 4.00 label1, 3.50 label2, 3.00 label3, 2.50 label4, 2 more labels); "
        "50.0% of the frames empty"
    )
