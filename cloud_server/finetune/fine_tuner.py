"""Trains submodels for the working sets of devices while the server answers.

It runs one ``model-builder fine-tune`` at a time, in a process of lowest priority. That process certifies what it
trains or drops it. If the server or the training ends early, the bundle stays as it was.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cachenet.cloud_server.finetune.request_history import AnsweredRequest, RequestHistory, UncoveredSet
from cachenet.cloud_server.serving.worker import Job
from cachenet.shared.bundle.manifest import Bundle, BundleError
from cachenet.shared.command import signals
from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.inference.engine import Logits
from cachenet.shared.inference.image import BadPicture, Input, crop
from cachenet.shared.media.pictures import decode

log = logging.getLogger(__name__)

#: Largest total size of the pictures in the history, bytes.
_HISTORY_BYTES = 64 << 20
#: Time between two searches for an uncovered working set, seconds.
_INTERVAL_S = 1.0
#: Exit code of ``model-builder fine-tune`` when the new submodel was not certified.
NOT_CERTIFIED = 3
#: Number of characters of the training's output that are logged, from its end.
_LOGGED_CHARACTERS = 300


@dataclass(frozen=True)
class TrainingConfig:
    """Paths of fine-tuning."""

    #: Frames to train with.
    data: Path
    #: Frames to certify with; None for a part of ``data``.
    held_out: Path | None
    #: Private key that signs updates; None for unsigned updates.
    key: Path | None
    #: Directory of the updated bundles.
    work: Path

    def flags(self) -> list[str]:
        """The paths as flags of ``model-builder fine-tune``."""
        flags = ["--data", str(self.data), "--work", str(self.work / "teacher")]
        if self.held_out is not None:
            flags += ["--held-out", str(self.held_out)]
        return flags + (["--key", str(self.key)] if self.key is not None else [])

    def updated(self, bundle: Bundle) -> Path:
        """Directory of the updates of ``bundle``."""
        return self.work / bundle.version[:16]


def latest_update(bundle: Bundle, config: TrainingConfig) -> Bundle:
    """The update of ``bundle`` from earlier runs; ``bundle`` itself if there is none that can be used."""
    path = config.updated(bundle)
    if path.exists():
        try:
            return Bundle(path)
        except BundleError as error:
            log.warning("earlier updates are not used: %s", error)
    return bundle


class FineTuner:
    """Collects answered requests, and publishes a bundle with a new submodel for an uncovered working set."""

    def __init__(self, configured: Bundle, served: Bundle, config: TrainingConfig) -> None:
        """Create a fine-tuner that is not yet started.

        Args:
            configured: Bundle of the settings; it names the directory of updates.
            served: Bundle that the server serves; see ``latest_update``.
            config: Paths of fine-tuning.
        """
        manifest = served.manifest
        self._bundle, self._config = served, config
        self._publish: Callable[[Bundle], None] = lambda _bundle: None
        self._out = config.updated(configured)
        self._input: Input = manifest.models[manifest.only("full")].input
        self._history = RequestHistory(time.monotonic, len(manifest.labels), _HISTORY_BYTES)
        self._lock = threading.Lock()
        self._prepared = False
        self._thread = SupervisedThread("fine-tuner", self._work, give_up=_give_up)

    def start(self, publish: Callable[[Bundle], None]) -> None:
        """Start the thread, which calls ``publish`` with each updated bundle."""
        self._publish = publish
        self._thread.start()

    def stop(self) -> None:
        """End the thread and a running training."""
        self._thread.stop(1.0)

    def add(self, job: Job, logits: Logits) -> None:
        """Add a request with the logits of the full model, ``(classes,)``. Callable from any thread."""
        with self._lock:
            self._history.add(AnsweredRequest(job.device, job.picture, logits, job.request.recent))

    def _work(self) -> None:
        if not self._prepared:
            self._prepare()
        elif not self._thread.stopping.wait(_INTERVAL_S):
            with self._lock:
                found = self._history.uncovered(self._bundle.manifest)
            if found is not None:
                try:
                    self._train(found)
                except (OSError, BundleError) as error:
                    log.error("an update is dropped: %s", error)

    def _prepare(self) -> None:
        """Run the full model on the training frames once, before the first training."""
        if self._run("--prepare") != 0:
            log.error("the server trains no submodels")
            self._thread.stopping.set()
            return
        self._prepared = True
        log.info("ready to train submodels")

    def _train(self, found: UncoveredSet) -> None:
        names = ", ".join(self._bundle.manifest.labels[label] for label in sorted(found.labels))
        log.info("training for %s, with %d frames from devices", names, len(found.requests))
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="cachenet-") as directory:
            path = Path(directory) / "recent.npz"
            self._write(found, path)
            code = self._run("--recent", str(path), "--out", str(self._out))
        if code == 0:
            self._bundle = Bundle(self._out)
            self._publish(self._bundle)
            log.info("an update for %s after %.0f s: %s", names, time.monotonic() - started, self._bundle.version[:12])
        elif code == NOT_CERTIFIED:
            log.info("no update for %s", names)

    def _write(self, found: UncoveredSet, path: Path) -> None:
        pictures, scores = [], []
        for request in found.requests:
            with contextlib.suppress(BadPicture):
                pictures.append(crop(decode(request.picture), self._input))
                scores.append(request.logits)
        logits = np.stack(scores).astype(np.float32)
        arrays: dict[str, Any] = {"pictures": np.stack(pictures), "scores": logits, "frequencies": found.distribution}
        np.savez(path, **arrays)

    def _run(self, *flags: str) -> int | None:
        """Run ``model-builder fine-tune`` with these flags. Its exit code, or None if ``stop`` ended it."""
        command = [sys.executable, "-m", "cachenet.models", "fine-tune", str(self._bundle.directory), *flags]
        with tempfile.TemporaryFile() as output:
            child = subprocess.Popen(
                [*command, *self._config.flags()], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            _lower_priority(child.pid)
            try:
                while child.poll() is None:
                    if self._thread.stopping.wait(0.1):
                        return None
            finally:
                if child.poll() is None:
                    child.kill()
                    child.wait()
            output.seek(0)
            if text := output.read().decode(errors="replace").strip()[-_LOGGED_CHARACTERS:]:
                log.log(logging.INFO if child.returncode in (0, NOT_CERTIFIED) else logging.ERROR, "%s", text)
            if child.returncode < 0:
                log.error("the training of a submodel was %s", signals.report(-child.returncode))
        return child.returncode


def _lower_priority(pid: int) -> None:
    """Let a process and its later threads run only on idle processors."""
    with contextlib.suppress(OSError, AttributeError):  # another operating system, or the process has ended
        os.setpriority(os.PRIO_PROCESS, pid, 19)
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))


def _give_up(why: str) -> None:
    """Log the failure. The server answers without this thread, so the process goes on."""
    log.error("%s; no more submodels are trained until the server is started again", why)
