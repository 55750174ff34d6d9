"""ONNX Runtime as it is set up here."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from shared.engine import EngineError, Session
from tests.bundles import tiny_bundle


@pytest.mark.parametrize("threads", [1, 2])
def test_a_session_that_waits_uses_no_processor(tmp_path: Path, threads: int) -> None:
    """Its threads may spin while it runs, but not after."""
    session = Session(tiny_bundle(tmp_path) / "full" / "1" / "model.onnx", "cpu", threads)
    session.run(np.zeros((1, 3, 32, 32), np.float32))
    time.sleep(0.05)
    used = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - used < 0.1


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(EngineError, match=r"model\.onnx: not a model"):
        Session(tmp_path / "model.onnx", "cpu")


def test_a_session_that_plays_a_slower_machine_sleeps_for_the_rest_of_each_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([10.0, 10.25, 20.0, 20.25])
    slept: list[float] = []
    monkeypatch.setattr("shared.engine.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("shared.engine.time.sleep", slept.append)
    path = tiny_bundle(tmp_path) / "full" / "1" / "model.onnx"
    image = np.zeros((1, 3, 32, 32), np.float32)
    slow = Session(path, slowdown=5.0).run(image)
    assert slept == [1.0]
    np.testing.assert_array_equal(Session(path).run(image), slow)
    assert slept == [1.0]
