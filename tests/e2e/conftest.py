"""What tests of running processes share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cachenet.shared.media import recording
from tests.broker import Mosquitto
from tests.bundles import LABELS
from tests.e2e.agents import picture


@pytest.fixture(scope="package")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A running broker for tests that do not mind the catalogues that others have left there. Who does mind imports
    that of ``tests.broker``, a module's own."""
    broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"))
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(scope="package")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded stream of 2000 frames."""
    directory = tmp_path_factory.mktemp("frames")
    described = recording.Recording(
        name="blocks", seed=0, frames=2000, fps=50.0, labels=LABELS, truth=None, files="%06d.png"
    )
    recording.write(directory, described, (picture(seed) for seed in range(2000)))
    return directory
