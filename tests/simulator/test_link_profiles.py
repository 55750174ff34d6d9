"""Link profiles: the named ones are fixed, and recorded ones are read from CSV."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachenet.simulator.world import link_profiles


def test_the_named_links() -> None:
    assert list(link_profiles.profiles()) == ["lan", "wifi", "lte", "3g", "sat", "lossy"]
    assert link_profiles.load("wifi") == link_profiles.LinkProfile(8, 3, 30, 60, 0.001, 0)
    assert link_profiles.load("lossy") == link_profiles.LinkProfile(8, 3, 30, 60, 0.05, 2)
    assert link_profiles.load("sat").rtt_ms == 600


def test_an_unknown_link_is_refused_with_the_known_names() -> None:
    with pytest.raises(
        link_profiles.UnknownLink,
        match=r"no link 'wlan'; known are lan, wifi, lte, 3g, sat, lossy, or a file NAME\.csv",
    ):
        link_profiles.load("wlan")


HEAD = "time_s,rtt_ms,up_mbit,down_mbit\n"


def test_the_means_of_a_recorded_link_are_weighted_by_time(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(HEAD + "0,50,8,16\n1,80,0,0\n4,20,4,8\n")
    profile = link_profiles.load(str(tmp_path / "train.csv"))
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
def test_an_invalid_recorded_link_is_refused_with_the_reason(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "link.csv").write_text(text)
    with pytest.raises(link_profiles.UnknownLink, match=f"link.csv: .*{why}"):
        link_profiles.load(str(tmp_path / "link.csv"))


def test_a_missing_or_binary_link_file_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "link.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("none.csv", "link.csv"):
        with pytest.raises(link_profiles.UnknownLink, match=name):
            link_profiles.load(str(tmp_path / name))
