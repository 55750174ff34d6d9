"""A short run of a row."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.literature import __main__ as command

ROOT = Path(__file__).parents[3]
CLIP = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")


@pytest.fixture
def smoke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], dict[str, Any]]:
    """Runs a row with ``--smoke`` in this process, where its modules are loaded already; returns what it prints."""
    if not (ROOT / "../shared/data/state").is_dir() or not CLIP.exists():
        pytest.skip("needs ../shared/data and the clip of opencv-doc")

    def run(row: str) -> dict[str, Any]:
        monkeypatch.chdir(ROOT)
        flags = ["--row", row, "--smoke", "--json", "--work", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["literature", *flags])
        command.main()
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert found["smoke"] and found["row"] == row
        return found

    return run
