"""``--misses``: the frames that no local level was sure of, as pictures in a directory of bounded size."""

from __future__ import annotations

import contextlib
import logging
import re
from collections import deque
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from cachenet.edge_agent.camera import Answered
from cachenet.edge_agent.outputs.frame_worker import FrameWorker
from cachenet.edge_agent.outputs.report import Line
from cachenet.shared.inference.image import Region, cut, encode

log = logging.getLogger(__name__)

_OURS = re.compile(r"\d{8}T\d{6}\.\d{3}Z-.+\.(jpg|png)")
#: Letters of a label, and of a reason, in a file's name.
_WORD, _WHY = 40, 80


class Misses:
    """Keeps the frames as they were looked at, nothing drawn: to look at, or to build from. When the directory has no
    room for another, the oldest go first, those of earlier runs too; what else lies there is left alone."""

    def __init__(self, directory: Path, budget: int, live: bool, regions: Mapping[str, Region | None]) -> None:
        """``budget`` in bytes. ``regions``: what each camera looks at, by its name. Raises ``OSError`` if there can be
        no such directory."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._budget, self._regions = directory, budget, regions
        ours = sorted(path for path in directory.iterdir() if _OURS.fullmatch(path.name))
        self._kept = deque((path, path.stat().st_size) for path in ours)
        self._bytes = sum(size for _, size in self._kept)
        self._error = ""
        #: How many pictures were not kept, and why the last one was not.
        self._lost, self._why = 0, ""
        self._worker = FrameWorker("misses", self._keep, waits=not live)

    def on_frame(self, answered: Answered) -> None:
        """From the hot loop."""
        if not answered.answer.hit:
            self._worker.on_frame(answered)

    def close(self) -> None:
        """Finish what waits."""
        self._worker.close()

    @property
    def failure(self) -> str:
        """What was not kept, and why; empty where all was."""
        lost, why = self._lost + self._worker.failed, self._why or "see the log"
        return f"{self._directory}: {lost} pictures were not kept ({why})" if lost else ""

    def _keep(self, answered: Answered) -> None:
        region = self._regions[answered.line.camera]
        content, data = encode(answered.picture if region is None else cut(answered.picture, region))
        path = self._directory / (file_name(answered.line) + (".png" if content == "image/png" else ".jpg"))
        try:
            while self._kept and self._bytes + len(data) > self._budget:
                self._drop()
            if len(data) > self._budget:
                return
            path.write_bytes(data)
        except OSError as error:
            self._lost, self._why = self._lost + 1, error.strerror or str(error)
            self._say(f"{self._directory}: {self._why}")
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)  # half a picture is none
            return
        self._say("")
        self._kept.append((path, len(data)))
        self._bytes += len(data)

    def _drop(self) -> None:
        path, size = self._kept.popleft()
        self._bytes -= size
        path.unlink(missing_ok=True)

    def _say(self, error: str) -> None:
        """Once for each trouble: a disk that is full may have room again."""
        if error and error != self._error:
            log.error("a miss was not kept: %s", error)
        self._error = error


def file_name(line: Line) -> str:
    """When, which frame, what it was answered with, by whom and why by no local level; names sort by time."""
    at = datetime.fromtimestamp(line.time, timezone.utc)
    when = f"{at:%Y%m%dT%H%M%S}.{at.microsecond // 1000:03d}Z"
    words = [when, line.camera, f"{line.frame:06d}", _slug(line.label, _WORD), line.level, _slug(line.reason, _WHY)]
    return "-".join(filter(None, words))


def _slug(text: str, most: int) -> str:
    return re.sub(r"[^\w.]+", "-", text, flags=re.ASCII).strip("-.")[:most]
