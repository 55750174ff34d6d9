"""What all tests share."""

from __future__ import annotations

import os

# Several processes of tests share the processors. Threads of one that wait for another's in a loop cost ten times the
# work, so each process computes on one thread. Set before NumPy and PyTorch are loaded; processes of tests inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.broker import Mosquitto

# What tests share tells as much of a failure as tests do.
pytest.register_assert_rewrite("tests.e2e", "tests.edge_agent")

# A busy machine is no failure. With CI set, the same examples are tried at every run.
settings.register_profile("local", deadline=None, max_examples=50)
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")

#: Parts of the names of fixtures that start a broker, a server or a whole installation.
_PROCESSES = ("broker", "mosquitto", "deployed", "fresh_install", "agents", "server")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as ``e2e`` what runs processes of the project or a broker, and put the long modules first.

    A worker takes whole modules: one that lasts a minute and begins last would keep a single worker busy at the end.
    """
    ranks: dict[Path, int] = {}
    for item in items:
        fixtures = " ".join(getattr(item, "fixturenames", ()))
        if "e2e" in item.path.parts or any(name in fixtures for name in _PROCESSES):
            item.add_marker("e2e")
        marks = {mark.name for mark in item.iter_markers()}
        rank = (
            0 if "fresh_install" in fixtures else 1 if "e2e" in item.path.parts else 3 - bool(marks & {"slow", "e2e"})
        )
        ranks[item.path] = min(rank, ranks.get(item.path, rank))
    items.sort(key=lambda item: ranks[item.path])


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running broker, this test's own, to be killed and started at will."""
    running = Mosquitto(tmp_path)
    running.start()
    yield running
    running.kill()
