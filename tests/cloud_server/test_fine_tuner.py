"""Fine-tuning while the server answers: a failed training is logged, and the server goes on."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest

from cachenet.cloud_server.finetune import fine_tuner as fine_tuner_module
from cachenet.cloud_server.finetune.fine_tuner import FineTuner, TrainingConfig
from cachenet.cloud_server.finetune.request_history import MIN_FRAMES
from cachenet.cloud_server.serving.worker import Job
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.transport.protocol import Request
from tests.bundles import tiny_bundle
from tests.e2e.servers import GOOD

pytestmark = pytest.mark.slow


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


def test_an_update_for_an_uncovered_working_set_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer is a script that copies the bundle, and the file of frames that it receives."""
    trainer = tmp_path / "python"
    trainer.write_text(
        f"""#!/bin/sh
[ "$3" = fine-tune ] || exit 1
[ "$5" = --recent ] || exit 0
cp "$6" "{tmp_path}/recent.npz" && mkdir -p "{tmp_path}/work" && cp -r "$4" "$8"
"""
    )
    trainer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(trainer))
    monkeypatch.setattr(fine_tuner_module, "_INTERVAL_S", 0.01)
    bundle = Bundle(tiny_bundle(tmp_path / "bundle"))
    config = TrainingConfig(tmp_path, None, None, tmp_path / "work")
    fine_tuner, published = FineTuner(bundle, bundle, config), SimpleQueue[Bundle]()
    recent = (0, 1, 3, 5) * 4  # no submodel of the bundle covers these labels
    for _ in range(MIN_FRAMES):
        request = Request("full", "image/png", b"1", 60_000, recent)
        fine_tuner.add(Job("cam", request, GOOD), np.zeros(10, np.float32))
    fine_tuner.start(published.put)
    try:
        assert published.get(timeout=60).directory == config.updated(bundle)
    finally:
        fine_tuner.stop()
    frames = np.load(tmp_path / "recent.npz")
    assert (len(frames["pictures"]), frames["scores"].shape) == (MIN_FRAMES, (MIN_FRAMES, 10))
    assert np.flatnonzero(frames["frequencies"]).tolist() == [0, 1, 3, 5]
