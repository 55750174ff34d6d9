"""Hard-example capture: frames that no local level could answer, in a directory of limited size."""

from __future__ import annotations

import contextlib
import logging
import re
from collections import deque
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from cachenet.edge_agent.camera import AnsweredFrame
from cachenet.edge_agent.outputs.frame_worker import FrameWorker
from cachenet.edge_agent.outputs.report import AnswerLine, View, counts_text
from cachenet.shared.inference.image import cut, encode

log = logging.getLogger(__name__)

#: Names of the files that this module writes.
_FILE_NAME = re.compile(r"\d{8}T\d{6}\.\d{3}Z-.+\.(jpg|png|json)")
#: Longest label in a file name, characters.
_MAX_LABEL = 40
#: Longest reason in a file name, characters.
_MAX_REASON = 80


class Misses:
    """Saves what the models were given of missed frames as pictures, for inspection or training.

    Beside the picture of a detector is a JSON file of the same name with its line of ``--output``: the objects of the
    answer. If the directory is full, the oldest pictures are deleted first, those of earlier runs too. Other files are
    kept.
    """

    def __init__(self, directory: Path, budget: int, live: bool, views: Mapping[str, View]) -> None:
        """
        Args:
            budget: Largest size of the directory, bytes.
            live: Whether the cameras are live, so that frames are dropped instead of delayed.
            views: Region and zones by camera name.

        Raises:
            OSError: The directory cannot be created.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._budget, self._views = directory, budget, views
        saved = sorted(path for path in directory.iterdir() if _FILE_NAME.fullmatch(path.name))
        self._saved = deque((path, path.stat().st_size) for path in saved)
        self._bytes = sum(size for _, size in self._saved)
        self._encode = msgspec.json.Encoder().encode
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
        line = answered.line
        region = self._views[line.camera].region_of(line.zone)
        content, data = encode(answered.picture if region is None else cut(answered.picture, region))
        name = file_name(line)
        files = {self._directory / (name + (".png" if content == "image/png" else ".jpg")): data}
        if line.objects is not None:
            files[self._directory / f"{name}.json"] = self._encode(line)
        size = sum(map(len, files.values()))
        try:
            while self._saved and self._bytes + size > self._budget:
                self._delete_oldest()
            if size > self._budget:
                return
            for path, content_ in files.items():
                path.write_bytes(content_)
        except OSError as error:
            self._lost, self._reason = self._lost + 1, error.strerror or str(error)
            self._set_error(f"{self._directory}: {self._reason}")
            for path in files:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)  # not a partial picture
            return
        self._set_error("")
        self._saved.extend((path, len(own)) for path, own in files.items())
        self._bytes += size

    def _delete_oldest(self) -> None:
        """Delete the oldest picture and the file beside it."""
        name = self._saved[0][0].stem
        while self._saved and self._saved[0][0].stem == name:
            path, size = self._saved.popleft()
            self._bytes -= size
            path.unlink(missing_ok=True)

    def _set_error(self, error: str) -> None:
        """Log each new error once."""
        if error and error != self._error:
            log.error("a miss was not saved: %s", error)
        self._error = error


def file_name(line: AnswerLine) -> str:
    """Name of a picture: time, camera, zone, frame, label or counts, level and reason. Names sort by time."""
    at = datetime.fromtimestamp(line.time, timezone.utc)
    when = f"{at:%Y%m%dT%H%M%S}.{at.microsecond // 1000:03d}Z"
    label = line.label if line.counts is None else counts_text(line.counts)
    label, reason = _slug(label, _MAX_LABEL), _slug(line.reason, _MAX_REASON)
    parts = [when, line.camera, line.zone, f"{line.frame:06d}", label, line.level, reason]
    return "-".join(filter(None, parts))


def _slug(text: str, length: int) -> str:
    return re.sub(r"[^\w.]+", "-", text, flags=re.ASCII).strip("-.")[:length]
