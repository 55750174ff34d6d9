"""Files that cannot be written: the run goes on, and its end says what is missing."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from cachenet.shared.bundle.manifest import Bundle
from tests.bundles import tiny_bundle

_BOUND_S = 120.0
#: Bytes that a file may have where a disk is to be full.
_ROOM = 3000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One whose local models are never sure: every frame is a miss."""
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle"), risk=0.0))


def run(
    frames: Path, bundle: Bundle, *flags: str, room: int | None = None, out: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the agent on the frames; ``room``: largest size of a file, bytes."""
    command = [
        *(sys.executable, "-m", "cachenet.edge_agent", "run", str(frames), "--bundle", str(bundle.directory)),
        *("--provider", "cpu", "--no-view", "--mode", "offline", "--frames", "30", "--json", *flags),
    ]
    limit = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))) if room is not None else None
    with Path(out or "/dev/null").open("w") as stdout:
        return subprocess.run(
            command, stdout=stdout if out else subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=_BOUND_S,
            check=False, preexec_fn=limit,
        )  # fmt: skip


def named(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that names what was not written."""
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("edge-agent: "))
    return line


def test_a_full_disk_under_any_file_ends_with_one_and_names_each(frames: Path, bundle: Bundle, tmp_path: Path) -> None:
    """``/dev/full`` opens, and every write to it fails, as on a full disk."""
    (tmp_path / "video.mp4").symlink_to("/dev/full")
    full = ("--output", "/dev/full", "--set", "decision_log=/dev/full", "--set", "summary=/dev/full")
    done = run(frames, bundle, *full, "--save", str(tmp_path / "video.mp4"))
    assert done.returncode == 1
    assert json.loads(done.stdout)["frames"] == 30, "the run went on"
    last = named(done)
    for option in ("--output", "decision_log", "summary"):
        assert f"{option} /dev/full: No space left on device" in last
    assert f"--save {tmp_path / 'video.mp4'}: " in last
    assert "Traceback" not in done.stderr


def test_files_that_cannot_grow_exit_with_one_and_keep_what_fits(frames: Path, bundle: Bundle, tmp_path: Path) -> None:
    answers, recorded, misses = tmp_path / "answers", tmp_path / "recorded", tmp_path / "misses"
    flags = ("--output", str(answers), "--set", f"record={recorded}", "--set", f"misses={misses}")
    done = run(frames, bundle, *flags, room=_ROOM)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["frames"] == 30
    last = named(done)
    assert f"--output {answers}: File too large" in last
    whole = answers.read_bytes().split(b"\n")[:-1]
    assert whole and all(json.loads(line) for line in whole)
    for option, directory in (("record", recorded), ("misses", misses)):
        if f"{option} {directory}" not in last:
            assert all(file.stat().st_size < _ROOM for file in directory.iterdir())


def test_all_that_is_written_ends_with_nought_and_a_second_run_appends(
    frames: Path, bundle: Bundle, tmp_path: Path
) -> None:
    answers = tmp_path / "answers"
    for runs in (1, 2):
        done = run(frames, bundle, "--output", str(answers), "--set", f"summary={tmp_path / 'summary'}")
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line)["frame"] for line in answers.read_text().splitlines()]
        assert lines == list(range(30)) * runs


def test_standard_output_on_a_full_disk_is_one_line_and_one(frames: Path, bundle: Bundle) -> None:
    done = run(frames, bundle, "--output", "-", out="/dev/full")
    assert done.returncode == 1
    assert named(done) == "edge-agent: not written: --output standard output: No space left on device"


def test_a_closed_standard_output_is_a_clean_end(frames: Path, bundle: Bundle) -> None:
    command = [
        *(
            sys.executable,
            "-m",
            "cachenet.edge_agent",
            "run",
            str(frames),
            "--bundle",
            str(bundle.directory),
            "--no-view",
        ),
        *("--mode", "offline", "--output", "-", "--fps", "50", "--frames", "100"),
    ]
    agent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert agent.stdout is not None and agent.stderr is not None
    with agent.stdout, agent.stderr:
        assert agent.stdout.readline().startswith(b"{")
        agent.stdout.close()
        stderr = agent.stderr.read()
    assert agent.wait(_BOUND_S) == 0, stderr
    assert b"ERROR" not in stderr and b"not written" not in stderr and b"Traceback" not in stderr
