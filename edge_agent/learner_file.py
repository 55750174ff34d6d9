"""The file in which a camera keeps what its risk models have learned, across restarts.

Saving is best effort: a disk that is full, read-only or hangs costs what was learned since, and never a frame.
"""

from __future__ import annotations

import logging
import operator
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cachenet.edge_agent import learner_state
from cachenet.edge_agent.learner_state import BadLearnerState, LearnerState
from cachenet.shared.cascade.risk_estimator import RiskEstimator
from cachenet.shared.command import atomic_files

log = logging.getLogger(__name__)

#: Seconds between two saves.
SAVE_EVERY_S = 60.0
#: Seconds that the last save may take, when the run ends.
_LAST_SAVE_S = 5.0


class LearnerFile:
    """Keeps the state of one camera in ``<store>/learned/``.

    The disk is written from a thread of its own, one save at a time.
    """

    def __init__(self, store: Path, camera: str, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            store: Directory of the device's store.
            camera: Name of the camera; empty for the only one.
        """
        assert not camera or re.fullmatch(r"[A-Za-z0-9._-]+", camera)
        #: Where the state is kept.
        self.path = store / "learned" / ("-".join(filter(None, ["camera", camera])) + ".msgpack")
        self._clock = clock
        self._due = clock() + SAVE_EVERY_S
        #: The precisions that need not be saved, to tell whether anything was learned since. A risk model takes a new
        #: array whenever it learns.
        self._saved: tuple[object, ...] = ()
        self._writer: threading.Thread | None = None

    def read(self) -> bytes:
        """What was saved last; empty where nothing was or it cannot be read."""
        try:
            with self.path.open("rb") as file:
                return file.read(learner_state.MAX_BYTES + 1)
        except FileNotFoundError:
            return b""
        except OSError as error:
            log.debug("%s: %s; the risk models start from the bundle's priors", self.path, error.strerror)
            return b""

    def begin(self, estimator: RiskEstimator) -> None:
        """What ``estimator`` holds now need not be saved."""
        self._saved = _precisions(estimator)

    def save(self, estimator: RiskEstimator, bundle_version: str) -> None:
        """Save the state of ``estimator`` if a minute has passed since the last save. Call after every frame."""
        if self._clock() < self._due:
            return
        self._due = self._clock() + SAVE_EVERY_S
        self._save(estimator, bundle_version)

    def close(self, estimator: RiskEstimator | None, bundle_version: str) -> None:
        """Save the state of ``estimator``, if there is one, and wait some seconds at most until it is on the disk."""
        if self._writer is not None:
            self._writer.join(_LAST_SAVE_S)
        if estimator is not None:
            self._save(estimator, bundle_version)
        if self._writer is not None:
            self._writer.join(_LAST_SAVE_S)

    def _save(self, estimator: RiskEstimator, bundle_version: str) -> None:
        precisions = _precisions(estimator)
        unchanged = len(precisions) == len(self._saved) and all(map(operator.is_, precisions, self._saved))
        if unchanged or (self._writer is not None and self._writer.is_alive()):
            return
        self._saved = precisions
        data = learner_state.encode(LearnerState(estimator.state, estimator.fitted), bundle_version)
        self._writer = threading.Thread(target=self._write, args=(data,), name="learner file", daemon=True)
        self._writer.start()

    def _write(self, data: bytes) -> None:
        try:
            atomic_files.write(self.path, data)
        except OSError as error:
            log.debug("%s: %s; what was learned is not kept", self.path, error.strerror)


def _precisions(estimator: RiskEstimator) -> tuple[object, ...]:
    return tuple(precision for _, precision in estimator.state.values())


def restore(estimator: RiskEstimator, data: bytes, bundle_version: str) -> None:
    """Have ``estimator`` go on from ``data``, what a ``LearnerFile`` has read; where that does not fit it keeps the
    bundle's priors."""
    if not data:
        return
    try:
        state = learner_state.decode(data, bundle_version)
        if state.fitted and not estimator.ready:
            estimator.adopt(state.fitted)
        if estimator.restore(state.stages):
            return
        reason = "not all of it fits the bundle's risk models"
    except BadLearnerState as error:
        reason = str(error)
    log.debug("what was learned before is not used (%s); the risk models start from the bundle's priors", reason)
