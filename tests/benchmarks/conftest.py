"""The synthetic task of the tests of ``benchmarks.real``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.real import drawn


@pytest.fixture(scope="module")
def lamp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn.task(tmp_path_factory.mktemp("lamp"))
