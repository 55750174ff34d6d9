"""Reports of a run: JSON lines, latency histograms, accuracy and audit counters."""

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


class AnswerLine(msgspec.Struct, omit_defaults=True):
    """One line of ``--output``: the answer to a frame.

    Attributes:
        time: Seconds since the epoch.
        label: Label; ``unknown`` for a picture out of the bundle's distribution.
        truth: True label, if the source knows it.
        correction: Whether the line corrects an earlier fallback; ``latency_ms`` is then 0.
        camera: Name of the camera; empty for the only one.
        zone: Name of the zone whose picture was classified; empty for the whole picture.
    """

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
    zone: str = ""


class JsonLinesWriter:
    """Writes JSON lines to a file, to standard output (``-``) or nowhere; thread-safe.

    An error such as a full disk ends the writing, not the run.
    """

    def __init__(self, target: str, append: bool = False, max_bytes: int | None = None, what: str = "answers") -> None:
        """
        Args:
            target: Path of the file, ``-`` or an empty string.
            append: Whether existing lines are kept.
            max_bytes: Largest size of the file; see ``LineFile``.
            what: Content of the lines, for messages.

        Raises:
            OSError: The file cannot be opened.
        """
        #: Why lines are missing; empty if none is.
        self.failure = ""
        self._encoder, self._target, self._what = msgspec.json.Encoder(), target, what
        self._file = LineFile(Path(target), append, max_bytes) if target not in ("", "-") else None
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
        reason = f"{self._target if self._file is not None else 'standard output'}: {error.strerror}"
        if self._file is None and error.errno == errno.EPIPE:  # the reader has closed the pipe
            log.warning("%s; %s are no longer written", reason, self._what)
            return
        self.failure = reason
        advice = "; make room and start again" if error.errno == errno.ENOSPC else ""
        log.error("%s; %s are no longer written%s", reason, self._what, advice)


class LatencyHistogram:
    """A histogram of latencies: bins of 1 % width from 1 us to 1000 s. ``total`` and ``longest`` in milliseconds.

    Example:
        >>> latencies = LatencyHistogram()
        >>> latencies.add(2.0)
        >>> latencies.mean, latencies.percentile(0.5)
        (2.0, 2.0)
    """

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

    def with_(self, other: LatencyHistogram) -> LatencyHistogram:
        """The sum of both histograms."""
        both = LatencyHistogram()
        both._bins = self._bins + other._bins
        both.total, both.count = self.total + other.total, self.count + other.count
        both.longest = max(self.longest, other.longest)
        return both

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    def percentile(self, share: float) -> float:
        """Latency that a ``share`` (0 to 1) of the frames does not exceed, milliseconds, to 1 %."""
        required, count = share * self.count, 0
        for bin_ in sorted(self._bins):
            count += self._bins[bin_]
            if count >= required:
                return min(float(self._STEP ** (bin_ + 1)), self.longest)
        return 0.0

    def curve(self) -> tuple[list[float], list[float]]:
        """Latencies in ascending order, milliseconds, and the share of frames that does not exceed each."""
        bins = sorted(self._bins)
        shares = [count / self.count for count in accumulate(self._bins[bin_] for bin_ in bins)]
        return [self._STEP ** (bin_ + 1) for bin_ in bins], shares

    def table(self) -> dict[str, float]:
        values = {"mean": self.mean} | {f"p{int(100 * p)}": self.percentile(p) for p in (0.5, 0.95, 0.99)}
        return {name: round(value, 3) for name, value in (values | {"max": self.longest}).items()}


class AccuracyCounter:
    """Accuracy over the frames with a known true label."""

    def __init__(self) -> None:
        self.known = self.correct = 0

    def add(self, label: str, truth: str | None) -> None:
        if truth is not None:
            self.known += 1
            self.correct += label == truth

    @property
    def value(self) -> float | None:
        """Share of correct labels; None without true labels."""
        return self.correct / self.known if self.known else None


def counters(tally: Tally, audited: int) -> dict[str, Any]:
    """Counters of a camera's answers, for the summary.

    Args:
        audited: Hits that were sent to be audited.

    Returns:
        ``overruled``: answers that differ from the full model's label of the same frame. ``asked``: share of frames
        that needed the full model, whether it could be reached or not: misses and audited hits. ``unknown``: answers
        without a label.
    """
    return {
        "overruled": tally.overruled,
        "asked": asked(tally, audited) / max(1, tally.frames),
        "audited": audited,
        "unknown": tally.unknown,
        "scene_changes": tally.scene_changes,
    }


def asked(tally: Tally, audited: int) -> int:
    """Number of frames that needed the full model, whether it could be reached or not: misses and audited hits."""
    return tally.frames - sum(tally.hits.values()) + audited


def audits(cascade: Cascade | None) -> dict[str, Any] | None:
    """Audit results of the active bundle, for the summary; None without audits.

    Returns:
        ``sent``, ``judged``, ``wrong``, ``alarms``, ``rate`` and ``scale`` as in ``Audits``. ``agreement``: estimated
        share of all answers that agree with the full model, and the 95 % interval ``low`` to ``high``; None before the
        first audit. ``threshold``: highest risk of a hit.
    """
    if cascade is None or cascade.audits is None:
        return None
    results = cascade.audits
    agreement = results.agreement()
    return {
        "sent": results.sent,
        "judged": results.judged,
        "wrong": results.wrong,
        "alarms": results.alarms,
        "rate": results.rate,
        "scale": results.scale,
        "agreement": None if agreement is None else dict(zip(("estimate", "low", "high"), agreement, strict=True)),
        "threshold": cascade.threshold,
    }


def agreement(audits: dict[str, Any] | None) -> str:
    """The measured agreement and its interval as text; empty before the first audit."""
    if audits is None or audits["agreement"] is None:
        return ""
    interval = audits["agreement"]
    low, high = interval["low"], interval["high"]
    return f"{interval['estimate']:.1%} agree with the full model (95 %: {low:.1%} to {high:.1%})"


def line(
    answer: Answer,
    manifest: Manifest,
    time: float,
    latency_ms: float = 0.0,
    truth: str | None = None,
    correction: bool = False,
    camera: str = "",
    zone: str = "",
) -> AnswerLine:
    """The output line of an answer. ``time``: seconds since the epoch; ``correction``: see ``AnswerLine``."""
    return AnswerLine(
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
        zone=zone,
    )
