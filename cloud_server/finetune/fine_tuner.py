"""Trains submodels on what devices send, while the server answers.

It runs one ``model-builder fine-tune`` at a time, in a process of lowest priority. That process proves what it trains
or drops it. If the server or the training ends early, the bundle stays as it was.
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

from cachenet.cloud_server.finetune.request_history import RequestHistory
from cachenet.cloud_server.serving.worker import Job
from cachenet.shared.bundle.manifest import Bundle, BundleError
from cachenet.shared.command import signals
from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.transport import recent_frames
from cachenet.shared.transport.protocol import Answer, DetectionAnswer
from cachenet.shared.transport.recent_frames import RecentFrame, RecentFrames

log = logging.getLogger(__name__)

#: Largest total size of the pictures in the history, bytes.
_HISTORY_BYTES = 256 << 20
#: Time between two searches for a device with enough frames, seconds.
_INTERVAL_S = 1.0
#: Exit code of ``model-builder fine-tune`` when no submodel was proven better.
NOT_PROVEN = 3
#: Number of characters of the training's output that are logged, from its end.
_LOGGED_CHARACTERS = 300


@dataclass(frozen=True)
class TrainingConfig:
    """Paths of fine-tuning."""

    #: Directory of the updated bundles.
    work: Path

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
    """Collects answered frames of devices, and publishes bundles with submodels that are proven on them."""

    def __init__(self, configured: Bundle, served: Bundle, config: TrainingConfig) -> None:
        """Create a fine-tuner that is not yet started.

        Args:
            configured: Bundle of the settings; it names the directory of updates.
            served: Bundle that the server serves; see ``latest_update``.
            config: Paths of fine-tuning.
        """
        self._bundle, self._config = served, config
        self._publish: Callable[[Bundle], None] = lambda _bundle: None
        self._out = config.updated(configured)
        self._history = RequestHistory(time.monotonic, _HISTORY_BYTES)
        self._lock = threading.Lock()
        self._thread = SupervisedThread("fine-tuner", self._work, give_up=_give_up)

    def start(self, publish: Callable[[Bundle], None]) -> None:
        """Start the thread, which calls ``publish`` with each updated bundle."""
        self._publish = publish
        self._thread.start()

    def stop(self) -> None:
        """End the thread and a running training."""
        self._thread.stop(1.0)

    def add(self, job: Job, answer: Answer | DetectionAnswer) -> None:
        """Add a request with the full model's answer. Callable from any thread."""
        with self._lock:
            self._history.add(RecentFrame(job.device, job.picture, answer))

    def _work(self) -> None:
        if not self._thread.stopping.wait(_INTERVAL_S):
            with self._lock:
                recent = self._history.due()
            if recent is not None:
                try:
                    self._train(recent)
                except (OSError, BundleError) as error:
                    log.error("an update is dropped: %s", error)

    def _train(self, recent: RecentFrames) -> None:
        names = ", ".join(recent.devices)
        log.info("training for %s on %d frames", names, len(recent.frames))
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="cachenet-") as directory:
            path = Path(directory) / "recent.msgpack"
            recent_frames.write(path, recent)
            code = self._run(path)
        if code == 0:
            self._bundle = Bundle(self._out)
            self._publish(self._bundle)
            log.info("an update for %s after %.0f s: %s", names, time.monotonic() - started, self._bundle.version[:12])
        elif code == NOT_PROVEN:
            log.info("no update for %s", names)
        elif code is not None:
            log.error("no update for %s: its training has failed", names)

    def _run(self, recent: Path) -> int | None:
        """Run ``model-builder fine-tune`` on this file. Its exit code, or None if ``stop`` ended it."""
        command = [sys.executable, "-m", "cachenet.models", "fine-tune", str(self._bundle.directory)]
        # One thread: two that wait for each other on a busy machine take many times as long.
        command += ["--recent", str(recent), "--out", str(self._out), "--threads", "1"]
        with tempfile.TemporaryFile() as output:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
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
                log.log(logging.INFO if child.returncode in (0, NOT_PROVEN) else logging.ERROR, "%s", text)
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
