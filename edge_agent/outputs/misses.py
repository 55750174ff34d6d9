"""Hard-example capture: frames that no local level could answer, in a directory of limited size."""

from __future__ import annotations

import contextlib
import logging
import re
from collections import deque
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from cachenet.edge_agent.camera import AnsweredFrame
from cachenet.edge_agent.outputs.frame_worker import FrameWorker
from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.shared.inference.image import Region, cut, encode

log = logging.getLogger(__name__)

#: Names of the files that this module writes.
_FILE_NAME = re.compile(r"\d{8}T\d{6}\.\d{3}Z-.+\.(jpg|png)")
#: Longest label in a file name, characters.
_MAX_LABEL = 40
#: Longest reason in a file name, characters.
_MAX_REASON = 80


class Misses:
    """Saves the classified region of missed frames as pictures, for inspection or training.

    If the directory is full, the oldest pictures are deleted first, those of earlier runs too. Other files are kept.
    """

    def __init__(self, directory: Path, budget: int, live: bool, regions: Mapping[str, Region | None]) -> None:
        """
        Args:
            budget: Largest size of the directory, bytes.
            live: Whether the cameras are live, so that frames are dropped instead of delayed.
            regions: Classified part of the picture, by camera name.

        Raises:
            OSError: The directory cannot be created.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._budget, self._regions = directory, budget, regions
        saved = sorted(path for path in directory.iterdir() if _FILE_NAME.fullmatch(path.name))
        self._saved = deque((path, path.stat().st_size) for path in saved)
        self._bytes = sum(size for _, size in self._saved)
        self._error = ""
        #: Number of pictures that could not be saved, and the last reason.
        self._lost, self._reason = 0, ""
        self._worker = FrameWorker("misses", self._save, blocks=not live)

    def on_frame(self, answered: AnsweredFrame) -> None:
        """Queue a missed frame; called by the hot loop."""
        if not answered.answer.hit:
            self._worker.on_frame(answered)

    def close(self) -> None:
        """Finish the queue."""
        self._worker.close()

    @property
    def failure(self) -> str:
        """Why pictures are missing; empty if none is."""
        lost, reason = self._lost + self._worker.failed, self._reason or "see the log"
        return f"{self._directory}: {lost} pictures were not saved ({reason})" if lost else ""

    def _save(self, answered: AnsweredFrame) -> None:
        region = self._regions[answered.line.camera]
        content, data = encode(answered.picture if region is None else cut(answered.picture, region))
        path = self._directory / (file_name(answered.line) + (".png" if content == "image/png" else ".jpg"))
        try:
            while self._saved and self._bytes + len(data) > self._budget:
                self._delete_oldest()
            if len(data) > self._budget:
                return
            path.write_bytes(data)
        except OSError as error:
            self._lost, self._reason = self._lost + 1, error.strerror or str(error)
            self._set_error(f"{self._directory}: {self._reason}")
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)  # not a partial picture
            return
        self._set_error("")
        self._saved.append((path, len(data)))
        self._bytes += len(data)

    def _delete_oldest(self) -> None:
        path, size = self._saved.popleft()
        self._bytes -= size
        path.unlink(missing_ok=True)

    def _set_error(self, error: str) -> None:
        """Log each new error once."""
        if error and error != self._error:
            log.error("a miss was not saved: %s", error)
        self._error = error


def file_name(line: AnswerLine) -> str:
    """Name of a picture: time, camera, frame, label, level and reason. Names sort by time."""
    at = datetime.fromtimestamp(line.time, timezone.utc)
    when = f"{at:%Y%m%dT%H%M%S}.{at.microsecond // 1000:03d}Z"
    label, reason = _slug(line.label, _MAX_LABEL), _slug(line.reason, _MAX_REASON)
    parts = [when, line.camera, f"{line.frame:06d}", label, line.level, reason]
    return "-".join(filter(None, parts))


def _slug(text: str, length: int) -> str:
    return re.sub(r"[^\w.]+", "-", text, flags=re.ASCII).strip("-.")[:length]
