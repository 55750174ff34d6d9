"""``make demo`` is ``simulator live``: real broker, server, link and agents, on the shipped bundle and sample."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FRAMES = 100
POLICIES = {"cachenet", "server-only", "device-only"}


def test_the_demo_answers_every_frame_and_writes_its_report(tmp_path: Path) -> None:
    """Every policy answers every frame once, local levels answer some, and JSON and picture are complete."""
    command = [sys.executable, "-m", "cachenet.simulator", "live", "--frames", str(FRAMES), "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:] + ended.stdout[-2000:]

    lines = [line for line in ended.stdout.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 80, "every line fits a terminal of 80 columns"

    report = json.loads((tmp_path / "demo.json").read_text())
    assert report["frames"] == FRAMES
    assert sum(report["hits"].values()) + report["full"] + report["cloud"] + report["fallbacks"] == FRAMES
    assert sum(report["hits"].values()) > 0
    assert set(report["policies"]) == POLICIES
    for policy in report["policies"].values():
        assert policy["latency_ms"]["p50"] <= policy["latency_ms"]["p95"] <= policy["latency_ms"]["p99"]
        assert 0 <= policy["accuracy"] <= 1
    assert report["policies"]["device-only"]["bytes_up"] == 0
    assert report["policies"]["server-only"]["bytes_up"] > FRAMES * 1000
    assert report["policies"]["device-only"]["full"] == FRAMES
    assert report["skipped"] == {}
    assert "cifar10" in json.dumps(report)
    assert (tmp_path / "demo.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_readme_shows_the_policies_that_the_demo_compares() -> None:
    block = (ROOT / "README.md").read_text("utf-8").partition("<!-- demo -->")[2].partition("<!-- /demo -->")[0]
    rows = [line.split("|")[1].strip() for line in block.splitlines() if line.startswith("| ")]
    assert rows[0] == "policy" and set(rows[1:]) == POLICIES
