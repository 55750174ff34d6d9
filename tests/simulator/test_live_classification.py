"""Live runs of classifiers: from agents' lines to the measures, the JSON, the table and the ranking."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.simulator.live.classification import (
    LabelOutcome,
    full_answers,
    label_outcome,
    ranked_baselines,
    ranking,
    table,
)
from cachenet.simulator.live.outcome import Incomplete, Run, Setting, Summary, read_lines, to_json, with_level
from cachenet.simulator.world.emulator import Counts

_SETTING = Setting("camera", 4, 3, "wifi", 30.0, {"cachenet": "0"})


def _line(frame: int, level: str, label: str, ms: float, truth: str | None = None) -> AnswerLine:
    return AnswerLine(
        frame=frame,
        time=0.0,
        label=label,
        confidence=0.9,
        risk=0.1,
        level=level,
        model="m",
        latency_ms=ms,
        truth=truth,
    )


def _outcomes() -> dict[str, LabelOutcome]:
    own = [
        _line(0, "cloud", "cat", 20, "cat"),
        _line(1, "submodels", "cat", 2, "cat"),
        _line(2, "frames", "cat", 1, "dog"),
        _line(3, "fallback", "dog", 250, "dog"),
    ]
    server = [
        _line(0, "cloud", "cat", 20, "cat"),
        _line(1, "cloud", "dog", 20, "cat"),
        _line(2, "fallback", "cat", 250, "dog"),
        _line(3, "cloud", "dog", 30, "dog"),
    ]
    device = [_line(frame, "base", "cat", 150) for frame in range(4)]
    reference = full_answers(server)
    return {
        "cachenet": label_outcome(Run(own, Summary(4, 0.5, ("pets",)), Counts(1000, 2000)), reference, 4),
        "server-only": label_outcome(Run(server, Summary(4), Counts(4000, 500)), reference, 4),
        "device-only": label_outcome(Run(device, Summary(4), Counts(0, 0)), reference, 4),
    }


def test_the_measures_of_a_run() -> None:
    own = _outcomes()["cachenet"]
    assert (own.hits, own.cloud, own.fallbacks) == ({"frames": 1, "tracks": 0, "submodels": 1, "base": 0}, 1, 1)
    assert own.latency_ms["mean"] == pytest.approx(68.25)
    assert own.latency_ms["p50"] == pytest.approx(11)
    assert own.accuracy == 0.75
    assert own.local_share == 0.5
    assert (own.bytes_up, own.bytes_down, own.models_pushed) == (1000, 2000, 1)


def test_agreement_is_over_the_known_answers_of_the_full_model() -> None:
    outcomes = _outcomes()
    assert outcomes["cachenet"].compared == 3
    assert outcomes["cachenet"].agreement == pytest.approx(2 / 3, abs=1e-4)
    assert outcomes["server-only"].agreement == 1.0
    assert outcomes["device-only"].accuracy is None


def test_disagreement_uses_the_majority_of_consecutive_frames_only() -> None:
    """The full model's label flickers at frame 6; a frame with an unknown label is a gap."""
    labels = ["cat"] * 6 + ["dog"] + ["cat"] * 7
    lines = [_line(frame, "base", "cat", 1) for frame in range(14)]
    full = dict(enumerate(labels))
    outcome = label_outcome(Run(lines, Summary(14), Counts(0, 0)), full, 14)
    assert (outcome.disagreement, outcome.agreement) == (0.0, pytest.approx(13 / 14, abs=1e-4))
    del full[4]
    with_gap = label_outcome(Run(lines, Summary(14), Counts(0, 0)), full, 14)
    assert with_gap.disagreement == pytest.approx(1 / 13, abs=1e-4)


@pytest.mark.parametrize(
    "lines",
    [
        [_line(0, "base", "cat", 1)],
        [_line(0, "base", "cat", 1), _line(0, "base", "cat", 1)],
        [_line(0, "base", "cat", 1), _line(1, "nowhere", "cat", 1)],
    ],
    ids=["one missing", "one twice", "one at no level"],
)
def test_lines_that_do_not_account_for_every_frame_are_refused(lines: list[AnswerLine]) -> None:
    with pytest.raises(Incomplete, match="2 frames were expected"):
        label_outcome(Run(lines, Summary(2), Counts(0, 0)), {}, 2)


def test_the_json_has_every_measure() -> None:
    found = msgspec.json.decode(to_json(_SETTING, _outcomes(), {"another": "too slow"}))
    assert found["frames"] == sum(found["hits"].values()) + found["cloud"] + found["fallbacks"] == 4
    assert found["models_pushed"] == 1
    assert found["local_share"] == 0.5
    assert (found["stream"], found["seed"], found["link"], found["fps"]) == ("camera", 3, "wifi", 30.0)
    assert set(found["policies"]) == {"cachenet", "server-only", "device-only"}
    assert set(found["policies"]["cachenet"]["latency_ms"]) == {"mean", "p50", "p95", "p99"}
    assert found["policies"]["server-only"]["bytes_up"] == 4000
    assert found["skipped"] == {"another": "too slow"}


def test_the_json_lists_cachenet_among_skipped_policies() -> None:
    outcomes = {name: outcome for name, outcome in _outcomes().items() if name != "cachenet"}
    found = msgspec.json.decode(to_json(_SETTING, outcomes, {"cachenet": "too slow"}))
    assert set(found["policies"]) == {"server-only", "device-only"} and "cachenet" in found["skipped"]


def test_answers_of_the_only_model_of_a_device_have_its_level() -> None:
    lines = [_line(0, "base", "cat", 9), _line(1, "fallback", "dog", 9)]
    assert [line.level for line in with_level(lines, "m", "full")] == ["full", "full"]
    assert with_level(lines, "other", "full") == lines


def test_the_ranking_names_the_better_baseline_and_the_settings() -> None:
    text = ranking(_SETTING, _outcomes())
    assert text.startswith("CacheNet answers 1.2 times faster on average than server-only, the better of")
    assert "(68.2 against 80.0 ms; link wifi, stream camera, seed 3, 30 frames a second)" in text


def _falling_back(outcome: LabelOutcome) -> LabelOutcome:
    return msgspec.structs.replace(outcome, hits={}, cloud=1, fallbacks=3)


def test_cachenet_is_not_ranked_against_fallbacks() -> None:
    outcomes = _outcomes()
    outcomes["server-only"] = _falling_back(outcomes["server-only"])
    text = ranking(_SETTING, outcomes)
    assert text.startswith("CacheNet answers 2.2 times faster on average than device-only (68.2 against 150.0 ms")
    assert text.endswith("server-only mostly fell back: answers were late.")
    assert ranked_baselines(outcomes) == ["device-only"]


@pytest.mark.parametrize("missing", [("server-only", "device-only"), ("cachenet",)])
def test_without_cachenet_or_a_baseline_there_is_no_ranking(missing: tuple[str, ...]) -> None:
    outcomes = {name: outcome for name, outcome in _outcomes().items() if name not in missing}
    assert ranking(_SETTING, outcomes).startswith("There is no ranking (link wifi")
    fell_back = {name: _falling_back(outcome) for name, outcome in _outcomes().items()}
    assert "There is no ranking" in ranking(_SETTING, fell_back)


def test_the_table_has_eight_measures_a_policy_and_fits_eighty_columns() -> None:
    out = io.StringIO()
    wide = msgspec.structs.replace(
        _outcomes()["cachenet"], latency_ms=dict.fromkeys(("mean", "p50", "p95", "p99"), 25000.0), bytes_up=10**10
    )
    Console(file=out, width=80).print(table({**_outcomes(), "another": wide}))
    rows = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert "cachenet 50% 25% 68.2 11.0 215.5 33.3% 75.0% 1" in rows
    assert "device-only 100% 0% 150.0 150.0 150.0 66.7% - 0" in rows
    assert "another 50% 25% 25000.0 25000.0 25000.0 33.3% 75.0% 10,000,000" in rows
    assert "…" not in out.getvalue() and max(map(len, out.getvalue().splitlines())) <= 80


def test_lines_are_read_as_the_agent_writes_them(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    lines = [_line(0, "cloud", "cat", 1.5), _line(1, "base", "dog", 2.5)]
    file.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    assert read_lines(file) == lines
    file.write_bytes(b'{"frame": 0')
    with pytest.raises(Incomplete, match=r"answers\.jsonl"):
        read_lines(file)
