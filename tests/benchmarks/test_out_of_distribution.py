"""Out of distribution: shares of frames over all videos."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import out_of_distribution
from tests.bundles import tiny_bundle
from tests.videos import clip


def test_shares_are_of_all_frames_of_all_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(out_of_distribution, "VIDEOS", ("a.avi", "b.avi"))
    clip(tmp_path / "a.avi", 20)
    clip(tmp_path / "b.avi", 10)
    bundle = tiny_bundle(tmp_path / "bundle", risk=0.0)
    arguments = ["ood", "--videos", str(tmp_path), "--bundle", str(bundle), "--json"]
    monkeypatch.setattr(sys, "argv", arguments)
    out_of_distribution.main()
    found = json.loads(capsys.readouterr().out)["videos"]
    assert found["all"] == {"frames": 30, "labelled": 0.0, "unknown": 0.0, "asked": 1.0}, "no risk is small enough"


def test_a_missing_video_is_one_line_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    monkeypatch.setattr(sys, "argv", ["ood", "--videos", str(tmp_path), "--bundle", str(bundle)])
    with pytest.raises(SystemExit) as ended:
        out_of_distribution.main()
    assert ended.value.code == 2
    assert "vtest.avi: No such file" in capsys.readouterr().err
