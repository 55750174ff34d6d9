"""Fine-tuning while the server answers: what the training process receives, and what becomes of its result."""

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
from cachenet.shared.transport import recent_frames
from cachenet.shared.transport.protocol import Answer, Request, Timing
from tests.bundles import tiny_bundle
from tests.e2e.servers import GOOD

pytestmark = pytest.mark.slow

SCORES = np.arange(10, dtype="<f4")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tiny_bundle(tmp_path / "bundle"))


def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let a shell script take the place of Python, and so of the training."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(fine_tuner_module, "_INTERVAL_S", 0.01)


def with_frames(bundle: Bundle, config: TrainingConfig, device: str = "cam") -> FineTuner:
    """A fine-tuner with as many frames of ``device`` as a training needs."""
    fine_tuner = FineTuner(bundle, bundle, config)
    full = bundle.manifest.models["full"].sha256
    for number in range(MIN_FRAMES):
        job = Job(device, Request("full", "image/png", b"1", 60_000, audit=number == 0), GOOD + b"%d" % number)
        fine_tuner.add(job, Answer(SCORES.tobytes(), full, None, Timing(0, 0, 0, 1)))
    return fine_tuner


def logged(caplog: pytest.LogCaptureFixture, start: str) -> str:
    """The first message that starts so."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := [text for text in (record.getMessage() for record in caplog.records) if text.startswith(start)]:
            return found[0]
        time.sleep(0.02)
    raise AssertionError([record.getMessage() for record in caplog.records])


def test_a_proven_update_is_published(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f'[ "$3 $5 $7" = "fine-tune --recent --out" ] && cp "$6" "{tmp_path}/recent" && mkdir -p "{tmp_path}/work"'
    trainer(tmp_path, monkeypatch, f'{script} && cp -r "$4" "$8"')
    config = TrainingConfig(tmp_path / "work")
    fine_tuner, published = with_frames(bundle, config), SimpleQueue[Bundle]()
    fine_tuner.start(published.put)
    try:
        assert published.get(timeout=60).directory == config.updated(bundle)
    finally:
        fine_tuner.stop()
    recent = recent_frames.read(tmp_path / "recent", bundle.manifest)
    assert recent.devices == ("cam",)
    assert len(recent.frames) == MIN_FRAMES
    assert all(frame.picture.startswith(GOOD) for frame in recent.frames)
    answer = recent.frames[0].answer
    assert isinstance(answer, Answer) and answer.logits(10).tolist() == SCORES.tolist()


def test_what_is_not_proven_is_not_published(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(tmp_path, monkeypatch, 'echo "not proven: no gain"; exit 3')
    fine_tuner, published = with_frames(bundle, TrainingConfig(tmp_path / "work")), SimpleQueue[Bundle]()
    with caplog.at_level(logging.INFO):
        fine_tuner.start(published.put)
        try:
            assert logged(caplog, "no update") == "no update for cam"
        finally:
            fine_tuner.stop()
    assert published.empty() and not (tmp_path / "work").exists()
    assert logged(caplog, "not proven") == "not proven: no gain"


@pytest.mark.parametrize(("signal_name", "advice"), [("SEGV", "ONEDNN_MAX_CPU_ISA=AVX2"), ("KILL", "memory")])
def test_a_training_that_a_signal_ends_is_logged_with_advice(
    signal_name: str,
    advice: str,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer(tmp_path, monkeypatch, f"kill -{signal_name} $$")
    fine_tuner = with_frames(bundle, TrainingConfig(tmp_path / "work"))
    with caplog.at_level(logging.ERROR):
        fine_tuner.start(lambda _bundle: None)
        try:
            assert advice in logged(caplog, f"the training of a submodel was ended by SIG{signal_name}: ")
            assert fine_tuner._thread.alive, "the next device gets its training"
        finally:
            fine_tuner.stop()
