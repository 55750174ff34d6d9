"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.broker import Mosquitto

# What tests share tells as much of a failure as tests do.
pytest.register_assert_rewrite("tests.e2e", "tests.edge_agent")

# A busy machine is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running broker, this test's own, to be killed and started at will."""
    running = Mosquitto(tmp_path)
    running.start()
    yield running
    running.kill()
