"""Training beside the server: however it ends, the server says so and goes on."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import pytest

from cachenet.cloud_server.finetune.fine_tuner import FineTuner, Means
from cachenet.shared.bundle.manifest import Bundle
from tests.bundles import tiny_bundle

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("signal_name", "advice"), [("SEGV", "ONEDNN_MAX_CPU_ISA=AVX2"), ("KILL", "memory")])
def test_a_training_that_a_signal_ends_is_logged_with_what_to_do(
    signal_name: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dying = tmp_path / "python"
    dying.write_text(f"#!/bin/sh\nkill -{signal_name} $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    bundle = Bundle(tiny_bundle(tmp_path / "bundle"))
    specialiser = FineTuner(bundle, bundle, Means(tmp_path, None, None, tmp_path), lambda _bundle: None)
    with caplog.at_level(logging.ERROR):
        specialiser.start()
        deadline = time.monotonic() + 60
        while specialiser._thread.alive and time.monotonic() < deadline:
            time.sleep(0.02)
    assert not specialiser._thread.alive
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(f"the training of a submodel was ended by SIG{signal_name}: ") and advice in said[0]
    assert said[1] == "no submodels will be trained for what devices see"
