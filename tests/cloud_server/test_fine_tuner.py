"""Fine-tuning while the server answers: a failed training is logged, and the server goes on."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import pytest

from cachenet.cloud_server.finetune.fine_tuner import FineTuner, TrainingConfig
from cachenet.shared.bundle.manifest import Bundle
from tests.bundles import tiny_bundle


@pytest.mark.parametrize(("signal_name", "advice"), [("SEGV", "ONEDNN_MAX_CPU_ISA=AVX2"), ("KILL", "memory")])
def test_a_training_that_a_signal_ends_is_logged_with_advice(
    signal_name: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dying = tmp_path / "python"
    dying.write_text(f"#!/bin/sh\nkill -{signal_name} $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    bundle = Bundle(tiny_bundle(tmp_path / "bundle"))
    fine_tuner = FineTuner(bundle, bundle, TrainingConfig(tmp_path, None, None, tmp_path))
    with caplog.at_level(logging.ERROR):
        fine_tuner.start(lambda _bundle: None)
        deadline = time.monotonic() + 60
        while fine_tuner._thread.alive and time.monotonic() < deadline:
            time.sleep(0.02)
    assert not fine_tuner._thread.alive
    messages = [record.getMessage() for record in caplog.records]
    assert (
        messages[0].startswith(f"the training of a submodel was ended by SIG{signal_name}: ") and advice in messages[0]
    )
    assert messages[1] == "the server trains no submodels"
