"""The link vocabulary is fixed: these are the design's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachenet.simulator.world import links


def test_the_vocabulary() -> None:
    assert list(links.profiles()) == ["lan", "wifi", "lte", "3g", "sat", "lossy"]
    assert links.load("wifi") == links.LinkProfile(8, 3, 30, 60, 0.001, 0)
    assert links.load("lossy") == links.LinkProfile(8, 3, 30, 60, 0.05, 2)
    assert links.load("sat").rtt_ms == 600


def test_an_unknown_link_names_the_known() -> None:
    with pytest.raises(
        links.UnknownLink, match=r"no link 'wlan'; known are lan, wifi, lte, 3g, sat, lossy, or a file NAME\.csv"
    ):
        links.load("wlan")


HEAD = "time_s,rtt_ms,up_mbit,down_mbit\n"


def test_a_recorded_link_is_read_and_its_means_are_weighed_by_time(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(HEAD + "0,50,8,16\n1,80,0,0\n4,20,4,8\n")
    profile = links.load(str(tmp_path / "train.csv"))
    assert [one.rtt_ms for one in profile.trace] == [50, 80, 20]
    assert profile.rtt_ms == pytest.approx((50 + 3 * 80 + 3 * 20) / 7)
    assert profile.up_mbit == pytest.approx((8 + 3 * 4) / 7)
    assert profile.jitter_ms == profile.loss == profile.outage_s == 0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "its times must begin at 0 and rise"),
        (HEAD, "its times must begin at 0 and rise"),
        (HEAD + "1,50,8,16\n", "its times must begin at 0 and rise"),
        (HEAD + "0,50,8,16\n0,50,8,16\n", "its times must begin at 0 and rise"),
        (HEAD + "0,50,0,16\n", "nothing ever gets through"),
        (HEAD + "0,-1,8,16\n", "Expected `float` >= 0.0"),
        (HEAD + "0,fast,8,16\n", "Expected `float`"),
        (HEAD + "0,nan,8,16\n", ""),
        (HEAD + "0,50,8\n", "Expected `float`"),
        ("time,rtt\n0,50\n", "its first line must be time_s,rtt_ms,up_mbit,down_mbit"),
    ],
)
def test_a_file_that_is_no_recorded_link_is_told_by_what_is_wrong(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "link.csv").write_text(text)
    with pytest.raises(links.UnknownLink, match=f"link.csv: .*{why}"):
        links.load(str(tmp_path / "link.csv"))


def test_a_recorded_link_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "link.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("none.csv", "link.csv"):
        with pytest.raises(links.UnknownLink, match=name):
            links.load(str(tmp_path / name))
