"""Trains submodels for what devices see, beside the answering: one ``model-builder specialise`` at a time, in a process
of its own that gets what processor time nobody else wants.

What it makes is proven there or dropped; a server that dies, and a training that does, leave the bundle as it was.
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

import numpy as np

from cachenet.cloud_server.finetune.request_history import RequestHistory, Sighting, UncoveredSet
from cachenet.shared.bundle.manifest import Bundle, BundleError
from cachenet.shared.command import signals
from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.inference.engine import Logits
from cachenet.shared.inference.image import BadPicture, Input, crop
from cachenet.shared.media.pictures import decode

log = logging.getLogger(__name__)

#: Bytes of pictures that are kept.
_ROOM = 64 << 20
_LOOK_S = 1.0
#: How ``model-builder specialise`` ends where what it made was not proven.
UNPROVEN = 3
_LAST_WORDS = 300


@dataclass(frozen=True)
class Means:
    """With what is trained: frames beside those that devices send, the key to sign with, and where updates are kept."""

    data: Path
    held_out: Path | None
    key: Path | None
    work: Path

    def flags(self) -> list[str]:
        flags = ["--data", str(self.data), "--work", str(self.work / "lessons")]
        if self.held_out is not None:
            flags += ["--held-out", str(self.held_out)]
        return flags + (["--key", str(self.key)] if self.key is not None else [])


def newest(bundle: Bundle, means: Means) -> Bundle:
    """What became of ``bundle`` in earlier runs; itself if nothing did, or what there is cannot be used."""
    path = _kept(bundle, means)
    if path.exists():
        try:
            return Bundle(path)
        except BundleError as error:
            log.warning("earlier updates are not used: %s", error)
    return bundle


def _kept(bundle: Bundle, means: Means) -> Path:
    return means.work / bundle.version[:16]


class FineTuner:
    """Hears every answer, on the worker's thread, and calls ``publish`` with the bundle that has a new submodel, on its
    own."""

    def __init__(self, given: Bundle, bundle: Bundle, means: Means, publish: Callable[[Bundle], None]) -> None:
        """``given``: the bundle that the server was started with; ``bundle``: what it serves (see ``newest``)."""
        manifest = bundle.manifest
        self._bundle, self._means, self._publish = bundle, means, publish
        self._out = _kept(given, means)
        self._input: Input = manifest.models[manifest.only("full")].input
        self._sightings = RequestHistory(time.monotonic, len(manifest.labels), _ROOM)
        self._lock = threading.Lock()
        self._prepared = False
        self._thread = SupervisedThread("specialiser", self._work, give_up=_give_up)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End it, and a training in hand with it."""
        self._thread.stop(1.0)

    def saw(self, device: str, picture: bytes, logits: Logits, recent: tuple[int, ...]) -> None:
        """The full model was asked about this picture."""
        with self._lock:
            self._sightings.add(Sighting(device, picture, logits, recent))

    def _work(self) -> None:
        if not self._prepared:
            self._prepare()
        elif not self._thread.stopping.wait(_LOOK_S):
            with self._lock:
                found = self._sightings.uncovered(self._bundle.manifest)
            if found is not None:
                try:
                    self._train(found)
                except (OSError, BundleError) as error:
                    log.error("an update is dropped: %s", error)

    def _prepare(self) -> None:
        """Look at the frames to train with once, ahead of need."""
        if self._run("--prepare") != 0:
            log.error("no submodels will be trained for what devices see")
            self._thread.stopping.set()
            return
        self._prepared = True
        log.info("ready to train submodels for what devices see")

    def _train(self, found: UncoveredSet) -> None:
        named = ", ".join(self._bundle.manifest.labels[label] for label in sorted(found.labels))
        log.info("training for %s, with %d frames that devices sent", named, len(found.sightings))
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="cachenet-") as directory:
            path = Path(directory) / "recent.npz"
            self._write(found, path)
            code = self._run("--recent", str(path), "--out", str(self._out))
        if code == 0:
            self._bundle = Bundle(self._out)
            self._publish(self._bundle)
            log.info("an update for %s after %.0f s: %s", named, time.monotonic() - begun, self._bundle.version[:12])
        elif code == UNPROVEN:
            log.info("no update for %s", named)

    def _write(self, found: UncoveredSet, path: Path) -> None:
        pictures, scores = [], []
        for sighting in found.sightings:
            with contextlib.suppress(BadPicture):
                pictures.append(crop(decode(sighting.picture), self._input))
                scores.append(sighting.logits)
        np.savez(path, pictures=np.stack(pictures), scores=np.stack(scores).astype(np.float32), seen=found.seen)

    def _run(self, *flags: str) -> int | None:
        """``model-builder specialise`` with these flags; how it ended, None if it was ended from here."""
        command = [sys.executable, "-m", "cachenet.models", "specialise", str(self._bundle.directory), *flags]
        with tempfile.TemporaryFile() as words:
            child = subprocess.Popen(
                [*command, *self._means.flags()], stdin=subprocess.DEVNULL, stdout=words, stderr=words
            )
            _yield_to_all(child.pid)
            try:
                while child.poll() is None:
                    if self._thread.stopping.wait(0.1):
                        return None
            finally:
                if child.poll() is None:
                    child.kill()
                    child.wait()
            words.seek(0)
            if last := words.read().decode(errors="replace").strip()[-_LAST_WORDS:]:
                log.log(logging.INFO if child.returncode in (0, UNPROVEN) else logging.ERROR, "%s", last)
            if child.returncode < 0:
                log.error("the training of a submodel was %s", signals.report(-child.returncode))
        return child.returncode


def _yield_to_all(pid: int) -> None:
    """Let a process run only while a processor has nothing else to do; its threads are like it."""
    with contextlib.suppress(OSError, AttributeError):  # another system, or it has ended already
        os.setpriority(os.PRIO_PROCESS, pid, 19)
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))


def _give_up(why: str) -> None:
    """The server answers without this thread, so that the process goes on."""
    log.error("%s; no more submodels are trained until the server is started again", why)
