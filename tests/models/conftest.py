"""Fixtures of several test modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachenet.shared.bundle.manifest import Bundle
from tests.hampered import hampered_bundle, pictures


@pytest.fixture(scope="session")
def hampered(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with the shipped full model and a bad base model; tests must not change its files."""
    return Bundle(hampered_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="session")
def sample_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 unrelated pictures, in a directory for each label."""
    return pictures(tmp_path_factory.mktemp("frames"), 0, 300)
