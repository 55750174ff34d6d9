"""File of the learned state of a camera's risk models, across restarts.

Saving is best effort: a disk that is full, read-only or hangs loses the last changes, and never delays a frame.
"""

from __future__ import annotations

import logging
import operator
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cachenet.edge_agent import learner_state
from cachenet.edge_agent.learner_state import BadLearnerState, LearnerState
from cachenet.shared.cascade.detect.scene_estimator import SceneEstimator
from cachenet.shared.cascade.detect.scene_features import SCENE_FEATURE_COUNT
from cachenet.shared.cascade.features import FEATURE_COUNT
from cachenet.shared.cascade.risk_estimator import RiskEstimator
from cachenet.shared.command import atomic_files

log = logging.getLogger(__name__)

#: The estimator of a classifier or of a detector.
Estimator = RiskEstimator | SceneEstimator

#: Time between two saves, seconds.
SAVE_EVERY_S = 60.0
#: Longest wait for a save at the end of the run, seconds.
_CLOSE_TIMEOUT_S = 5.0


class LearnerFile:
    """The state of one camera in ``<store>/learned/``. A background thread writes the file, one save at a time."""

    def __init__(self, store: Path, camera: str, clock: Callable[[], float] = time.monotonic, zone: str = "") -> None:
        """
        Args:
            store: Directory of the device's store.
            camera: Name of the camera; empty for the only one.
            zone: Name of the zone of a classifier; empty for the whole picture.
        """
        assert re.fullmatch(r"[A-Za-z0-9._-]*", camera) and re.fullmatch(r"[A-Za-z0-9._-]*", zone)
        name = "-".join(filter(None, ["camera", camera]))
        #: Path of the file. No name has a ``+``, so that no camera has the file of a zone.
        self.path = store / "learned" / ("+".join(filter(None, [name, zone])) + ".msgpack")
        self._clock = clock
        self._due = clock() + SAVE_EVERY_S
        #: Precision arrays at the last save. A risk model makes a new array whenever it learns, so an identical array
        #: means no change.
        self._saved: tuple[object, ...] = ()
        self._writer: threading.Thread | None = None

    def read(self) -> bytes:
        """The saved bytes; empty if there are none or the file cannot be read."""
        try:
            with self.path.open("rb") as file:
                return file.read(learner_state.MAX_BYTES + 1)
        except FileNotFoundError:
            return b""
        except OSError as error:
            log.debug("%s: %s; the risk models start from the bundle's priors", self.path, error.strerror)
            return b""

    def begin(self, estimator: Estimator) -> None:
        """Take the present state of ``estimator`` as saved."""
        self._saved = _precisions(estimator)

    def save(self, estimator: Estimator, bundle_version: str) -> None:
        """Save the state of ``estimator`` if the last save is ``SAVE_EVERY_S`` ago. Call after every frame."""
        if self._clock() < self._due:
            return
        self._due = self._clock() + SAVE_EVERY_S
        self._save(estimator, bundle_version)

    def close(self, estimator: Estimator | None, bundle_version: str) -> None:
        """Save the state of ``estimator``, if there is one. Waits until the file is written, some seconds at most."""
        if self._writer is not None:
            self._writer.join(_CLOSE_TIMEOUT_S)
        if estimator is not None:
            self._save(estimator, bundle_version)
        if self._writer is not None:
            self._writer.join(_CLOSE_TIMEOUT_S)

    def _save(self, estimator: Estimator, bundle_version: str) -> None:
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
            log.debug("%s: %s; the learned state is not saved", self.path, error.strerror)


def _precisions(estimator: Estimator) -> tuple[object, ...]:
    return tuple(precision for _, precision in estimator.state.values())


def restore(estimator: Estimator, data: bytes, bundle_version: str) -> None:
    """Restore the state of ``estimator`` from bytes of a ``LearnerFile``; invalid bytes leave the bundle's priors."""
    if not data:
        return
    try:
        features: Mapping[Any, int] = SCENE_FEATURE_COUNT if isinstance(estimator, SceneEstimator) else FEATURE_COUNT
        state = learner_state.decode(data, bundle_version, features)
        own: Any = estimator
        if state.fitted and not own.ready:
            own.adopt(state.fitted)
        if own.restore(state.stages):
            return
        reason = "it does not fit the bundle's risk models"
    except BadLearnerState as error:
        reason = str(error)
    log.debug("the learned state is not used (%s); the risk models start from the bundle's priors", reason)
