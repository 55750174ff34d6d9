"""``make demo`` is ``simulator live``: real broker, server, link and agents, on what is installed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import pytest

ROOT = Path(__file__).parents[2]
POLICIES = {"cachenet", "server-only", "device-only"}


def command(out: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "cachenet.simulator", "live", "--out", str(out), *flags]


def demo(out: Path, *flags: str) -> dict[str, Any]:
    """Run the demo, check its output and what every report has; return the report."""
    ended = subprocess.run(command(out, *flags), cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:] + ended.stdout[-2000:]
    lines = [line for line in ended.stdout.splitlines() if str(out) not in line]
    assert max(map(len, lines)) <= 80, "every line fits a terminal of 80 columns"
    report: dict[str, Any] = json.loads((out / "demo.json").read_text())
    assert set(report["policies"]) == POLICIES and report["skipped"] == {}
    for policy in report["policies"].values():
        assert policy["frames"] == report["frames"]
        assert sum(policy["hits"].values()) + policy["full"] + policy["cloud"] + policy["fallbacks"] == report["frames"]
        assert policy["latency_ms"]["p50"] <= policy["latency_ms"]["p95"] <= policy["latency_ms"]["p99"]
    assert sum(report["hits"].values()) > 0
    assert report["policies"]["device-only"]["bytes_up"] == 0
    assert report["policies"]["server-only"]["bytes_up"] > report["frames"] * 1000
    assert (out / "demo.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    return report


def test_the_demo_answers_every_frame_with_objects_and_writes_report_picture_and_video(tmp_path: Path) -> None:
    report = demo(tmp_path, "--frames", "20")
    policies = report["policies"]
    assert (report["frames"], report["fps"], report["link"]) == (20, 10.0, "lte")
    assert "campus" in report["versions"]["bundle"]
    assert policies["device-only"]["hits"]["base"] == policies["server-only"]["cloud"] == 20
    assert [policies[name]["asked"] for name in ("server-only", "device-only")] == [1.0, 0.0]
    assert policies["cachenet"]["bytes_up"] < policies["server-only"]["bytes_up"]
    assert all(0 < policy["streaming_f1"] < 1 for policy in policies.values())

    video = cv2.VideoCapture(str(tmp_path / "demo.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    frames = 0
    while video.read()[0]:
        frames += 1
    assert frames == 20


def test_the_demo_of_classifiers_answers_every_frame(tmp_path: Path) -> None:
    report = demo(tmp_path, "--bundle", "cifar10", "--frames", "60")
    policies = report["policies"]
    assert (report["frames"], report["fps"], report["link"]) == (60, 30.0, "wifi")
    assert "cifar10" in report["versions"]["bundle"]
    assert policies["device-only"]["full"] == 60
    assert all(0 <= policy["accuracy"] <= 1 for policy in policies.values())
    assert not (tmp_path / "demo.mp4").exists()


def children(pid: int) -> set[int]:
    """Processes whose parent is ``pid``."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == pid:
            found.add(int(stat.parent.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_ends_all_its_processes(number: signal.Signals, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as out:
        # A shell has a command that it starts in the background ignore Ctrl-C.
        interruptible = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        words = command(tmp_path, "--frames", "40")
        process = subprocess.Popen(words, cwd=ROOT, stdout=out, stderr=out, preexec_fn=interruptible)  # noqa: PLW1509
    started: set[int] = set()
    try:
        deadline = time.monotonic() + 120
        while "cachenet: 10 of 40 frames" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        started = children(process.pid)
        assert len(started) == 4, "broker, server, link and agent"
        process.send_signal(number)
        assert process.wait(60) == 130
    finally:
        process.kill()
    assert not {pid for pid in started if Path(f"/proc/{pid}").exists()}
    assert "Traceback" not in log.read_text()


def test_the_readme_shows_the_policies_that_the_demo_compares() -> None:
    block = (ROOT / "README.md").read_text("utf-8").partition("<!-- demo -->")[2].partition("<!-- /demo -->")[0]
    rows = [line.split("|")[1].strip() for line in block.splitlines() if line.startswith("| ")]
    assert rows[0] == "policy" and set(rows[1:]) == POLICIES
