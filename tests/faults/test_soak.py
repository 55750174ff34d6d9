"""Ten faults in real processes break no invariant. ``make soak`` injects hundreds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.soak import episode


@pytest.mark.e2e
@pytest.mark.slow
def test_ten_faults_break_no_invariant(tmp_path: Path) -> None:
    lines: list[str] = []
    done = episode(tmp_path, "short", faults=10, every_s=0.5, count=2, longest_s=2.0, say=lines.append)
    assert not done.violations, "\n".join([*done.violations, *lines])
    assert sum(done.faults.values()) == 10
    assert done.cloud and done.answers > done.cloud
