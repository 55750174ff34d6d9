"""What the tests of the builder share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import pytest
import torch

from cachenet.models.commands import stages
from cachenet.shared.bundle.manifest import Bundle
from tests.hampered import hampered_bundle, pictures
from tests.recordings import REAL_SESSION, RecordedOptions, RecordedSession


@pytest.fixture(scope="package", autouse=True)
def recorded_outputs() -> Iterator[None]:
    """Record the outputs of models, and reuse them for pictures seen before: see ``tests.recordings``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "InferenceSession", RecordedSession)
        patch.setattr(onnxruntime, "SessionOptions", RecordedOptions)
        # Commands set one thread for each processor: see ``tests.conftest``.
        patch.setattr(torch, "set_num_threads", lambda _: None)
        yield


@pytest.fixture(scope="package", autouse=True)
def quiet_stages() -> Iterator[None]:
    """Print no line for a long stage: a slow machine would print one where a test counts lines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "_SHORTEST_S", math.inf)
        yield


@pytest.fixture
def no_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every model in this test: recorded outputs would hide a resumed run that gives others."""
    monkeypatch.setattr(onnxruntime, "InferenceSession", REAL_SESSION)


@pytest.fixture(scope="session")
def hampered(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with the shipped full model and a bad base model; tests must not change its files."""
    return Bundle(hampered_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="session")
def sample_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 unrelated pictures, in a directory for each label."""
    return pictures(tmp_path_factory.mktemp("frames"), 0, 300)
