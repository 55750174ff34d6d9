"""The agent's command line: memory budget and piped answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cachenet.shared.bundle.manifest import Bundle
from tests.e2e.agents import AgentProcess, agents, bundle

__all__ = ["agents", "bundle"]


def test_a_memory_budget_is_held_or_refused(frames: Path, bundle: Bundle, agents: Callable[..., AgentProcess]) -> None:
    refused = subprocess.run(
        [
            *(sys.executable, "-m", "cachenet.edge_agent", "run", str(frames), "--bundle", str(bundle.directory)),
            *("--set", "memory_budget=20MB"),
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "memory budget 20MB is under the" in refused.stderr
    assert refused.stderr.count("\n") == 1, refused.stderr

    def peak(*flags: str) -> int:
        agent = agents(str(frames), "--bundle", str(bundle.directory), "--fps", "500", *flags)
        agent.wait_for(500)
        found = agent.resident_peak()
        assert agent.stop()[0]["frames"] >= 500
        return found

    budget = round(peak() * 1.1)
    assert peak("--set", f"memory_budget={budget}") <= budget


def test_answers_on_standard_output_can_be_piped_and_the_reader_may_go(bundle: Bundle, frames: Path) -> None:
    agent = subprocess.Popen(
        [
            *(sys.executable, "-m", "cachenet.edge_agent", "run", str(frames), "--bundle", str(bundle.directory)),
            *("--output", "-", "--no-view", "--frames", "500"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert agent.stdout is not None
    assert agent.stderr is not None
    assert json.loads(agent.stdout.readline())["frame"] == 0
    agent.stdout.close()
    stderr = agent.stderr.read().decode()
    agent.wait(timeout=60)
    assert "500 frames answered" in stderr, stderr
    assert "Traceback" not in stderr
    assert stderr.count("no longer written") == 1
