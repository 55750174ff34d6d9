"""The link vocabulary is fixed: these are the design's numbers."""

from __future__ import annotations

import pytest

from simulator import links


def test_the_vocabulary() -> None:
    assert list(links.profiles()) == ["lan", "wifi", "lte", "3g", "sat", "lossy"]
    assert links.load("wifi") == links.LinkProfile(8, 3, 30, 60, 0.001, 0)
    assert links.load("lossy") == links.LinkProfile(8, 3, 30, 60, 0.05, 2)
    assert links.load("sat").rtt_ms == 600


def test_an_unknown_link_names_the_known() -> None:
    with pytest.raises(links.UnknownLink, match="no link 'wlan'; known are lan, wifi, lte, 3g, sat, lossy"):
        links.load("wlan")
