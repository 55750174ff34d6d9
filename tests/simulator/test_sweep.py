"""Sweeps: only the named quantity varies."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachenet.simulator.report.comparison import Setup
from cachenet.simulator.report.sweep import BadSweep, parse
from cachenet.simulator.world import link_profiles


def test_a_range_is_split_in_equal_ratios() -> None:
    sweep = parse("link.rtt=5..160")
    assert sweep.values == (5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
    assert parse("link.up=0.5,8,2").values == (0.5, 2.0, 8.0)
    assert parse("stream.dwell=1..4").values == (1.0, 2.0, 3.0, 4.0)


def test_a_value_changes_only_the_named_quantity() -> None:
    setup = Setup(link="lte")
    other, profile = parse("link.rtt=7,9").at(setup, 9.0)
    assert other == setup
    assert profile.rtt_ms == 9.0
    assert profile.jitter_ms == link_profiles.load("lte").jitter_ms
    other, profile = parse("stream.dwell=1..100").at(setup, 40.0)
    assert other.dwell == 40
    assert profile == link_profiles.load("lte")


@pytest.mark.parametrize(
    "text", ["", "link.rtt", "link.rtt=", "x=1..2", "link.rtt=9..5", "link.rtt=0..5", "link.rtt=a,b", "link.rtt=0,1"]
)
def test_an_invalid_sweep_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadSweep, match="link"):
        parse(text)


def test_an_invalid_value_of_the_link_is_refused() -> None:
    with pytest.raises(BadSweep, match=r"link.loss=5: Expected `float` <= 0.5"):
        parse("link.loss=0.1,5").at(Setup(), 5.0)


def test_recordings_cannot_be_varied(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("time_s,rtt_ms,up_mbit,down_mbit\n0,50,8,16\n")
    with pytest.raises(BadSweep, match=r"train.csv is a recording: link.rtt cannot vary"):
        parse("link.rtt=5,9").at(Setup(link=str(tmp_path / "train.csv")), 5.0)
    with pytest.raises(BadSweep, match=r"build/door is a recording"):
        parse("stream.dwell=5,9").at(Setup(stream="build/door"), 5.0)
