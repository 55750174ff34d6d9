"""What the tests of the builder share."""

from __future__ import annotations

from collections.abc import Iterator

import onnxruntime
import pytest
import torch

from tests.recordings import RecordedSession


@pytest.fixture(scope="package", autouse=True)
def recorded_outputs() -> Iterator[None]:
    """Outputs of models over pictures are recorded, and taken from there the next time: see ``tests.recordings``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "InferenceSession", RecordedSession)
        # Commands set as many threads as there are processors: see ``tests.conftest``.
        patch.setattr(torch, "set_num_threads", lambda _: None)
        yield
