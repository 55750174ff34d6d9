"""What a run leaves behind: a JSON line per frame, and a summary."""

from __future__ import annotations

import errno
import logging
import math
import sys
import threading
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec

from cachenet.edge_agent.outputs.line_file import LineFile
from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.cascade import Cascade, Tally
from cachenet.shared.cascade.types import Answer
from cachenet.shared.command import exit

log = logging.getLogger(__name__)


class Line(msgspec.Struct, omit_defaults=True):
    """One frame's answer. ``time``: seconds since the epoch. ``label``: ``unknown`` for a picture that the bundle was
    not made for. ``truth``: where the source knows it. ``correction``: the frame has been answered already, by a
    fallback that was wrong; ``latency_ms`` is then 0. ``camera``: which of several."""

    frame: int
    time: float
    label: str
    confidence: float
    risk: float
    level: str
    model: str
    latency_ms: float
    reason: str = ""
    truth: str | None = None
    correction: bool = False
    camera: str = ""


class Sink:
    """Writes lines to a file, to stdout (``-``) or nowhere, from any thread. A disk that is full ends the writing, not
    the run."""

    def __init__(self, target: str, append: bool = False, most: int | None = None, what: str = "answers") -> None:
        """``append``: keep the lines that are in the file, and see ``LineFile`` for ``most``. ``what`` the lines are,
        for a person. Raises ``OSError`` if the file cannot be opened."""
        #: What was not written, and why; empty while all was.
        self.failure = ""
        self._encoder, self._target, self._what = msgspec.json.Encoder(), target, what
        self._file = LineFile(Path(target), append, most) if target not in ("", "-") else None
        self._ended = not target
        self._lock = threading.Lock()

    def write(self, line: msgspec.Struct) -> None:
        with self._lock:
            if self._ended:
                return
            data = self._encoder.encode(line) + b"\n"
            try:
                if self._file is not None:
                    self._file.write(data)
                else:
                    sys.stdout.buffer.write(data)
                    sys.stdout.buffer.flush()
            except OSError as error:
                self._end(error)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _end(self, error: OSError) -> None:
        self._ended = True
        if self._file is None:
            exit.close_stdout()
        why = f"{self._target if self._file is not None else 'standard output'}: {error.strerror}"
        if self._file is None and error.errno == errno.EPIPE:  # whoever reads may stop
            log.warning("%s; %s are no longer written", why, self._what)
            return
        self.failure = why
        advice = "; make room and start again" if error.errno == errno.ENOSPC else ""
        log.error("%s; %s are no longer written%s", why, self._what, advice)


class Latencies:
    """A histogram of latencies in bounded memory: 1 % wide bins from 1 us to 1000 s. ``total`` and ``longest`` in
    milliseconds."""

    _STEP = 1.01
    _LOG_STEP = math.log(_STEP)

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self.total = 0.0
        self.count = 0
        self.longest = 0.0

    def add(self, ms: float) -> None:
        self.count += 1
        self.total += ms
        self.longest = max(self.longest, ms)
        self._bins[math.floor(math.log(min(max(ms, 1e-3), 1e6)) / self._LOG_STEP)] += 1

    def with_(self, other: Latencies) -> Latencies:
        """Both together."""
        both = Latencies()
        both._bins = self._bins + other._bins
        both.total, both.count = self.total + other.total, self.count + other.count
        both.longest = max(self.longest, other.longest)
        return both

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    def percentile(self, share: float) -> float:
        """The latency that ``share`` of the frames stayed within, to 1 %."""
        wanted, seen = share * self.count, 0
        for place in sorted(self._bins):
            seen += self._bins[place]
            if seen >= wanted:
                return min(float(self._STEP ** (place + 1)), self.longest)
        return 0.0

    def curve(self) -> tuple[list[float], list[float]]:
        """Latencies in milliseconds, rising, and the share of frames that stayed within each."""
        places = sorted(self._bins)
        shares = [seen / self.count for seen in accumulate(self._bins[place] for place in places)]
        return [self._STEP ** (place + 1) for place in places], shares

    def table(self) -> dict[str, float]:
        figures = {"mean": self.mean} | {f"p{int(100 * p)}": self.percentile(p) for p in (0.5, 0.95, 0.99)}
        return {name: round(value, 3) for name, value in (figures | {"max": self.longest}).items()}


class AccuracyCounter:
    """Accuracy against the truth, where the source knows it."""

    def __init__(self) -> None:
        self.known = self.right = 0

    def add(self, label: str, truth: str | None) -> None:
        if truth is not None:
            self.known += 1
            self.right += label == truth

    @property
    def accuracy(self) -> float | None:
        return self.right / self.known if self.known else None


def counters(tally: Tally, audited: int) -> dict[str, Any]:
    """Counters that tell what the answers of a camera are worth.

    Args:
        audited: Hits that were sent to be audited.

    Returns:
        ``overruled``: answers that differ from what the full model has said of their frame. ``asked``: share of frames
        that needed the full model, audited hits included. ``audited``. ``unknown``: answers without a label.
        ``scene_changes``: alarms of the picture.
    """
    return {
        "overruled": tally.overruled,
        "asked": asked(tally, audited) / max(1, tally.frames),
        "audited": audited,
        "unknown": tally.unknown,
        "scene_changes": tally.scene_changes,
    }


def asked(tally: Tally, audited: int) -> int:
    """Frames that needed the full model: misses and audited hits."""
    return tally.frames - sum(tally.hits.values()) + audited


def audits(cascade: Cascade | None) -> dict[str, Any] | None:
    """What the audits of the present bundle have found; None without audits.

    Returns:
        ``sent``, ``judged``, ``wrong``, ``alarms``, ``rate`` and ``scale`` as in ``Audits``; ``agreement``: estimated
        share of all answers that agree with the full model, with the ``low`` and ``high`` end of its 95 % interval,
        None before an audit; ``threshold``: the risk at or under which a label is a hit now.
    """
    if cascade is None or cascade.audits is None:
        return None
    found = cascade.audits
    agreement = found.agreement()
    return {
        "sent": found.sent,
        "judged": found.judged,
        "wrong": found.wrong,
        "alarms": found.alarms,
        "rate": found.rate,
        "scale": found.scale,
        "agreement": None if agreement is None else dict(zip(("estimate", "low", "high"), agreement, strict=True)),
        "threshold": cascade.threshold,
    }


def agreement(audits: dict[str, Any] | None) -> str:
    """The measured agreement and its interval, for a person; empty where nothing is measured yet."""
    if audits is None or audits["agreement"] is None:
        return ""
    found = audits["agreement"]
    return f"{found['estimate']:.1%} agree with the full model (95 %: {found['low']:.1%} to {found['high']:.1%})"


def line(
    answer: Answer,
    manifest: Manifest,
    time: float,
    latency_ms: float = 0.0,
    truth: str | None = None,
    correction: bool = False,
    camera: str = "",
) -> Line:
    return Line(
        frame=answer.frame,
        time=round(time, 6),
        label=manifest.label(answer.label),
        confidence=round(answer.confidence, 4),
        risk=round(answer.risk, 4),
        level=answer.level,
        model=answer.model,
        latency_ms=round(latency_ms, 3),
        reason=answer.reason,
        truth=truth,
        correction=correction,
        camera=camera,
    )
