"""Reports of a run: JSON lines, latency histograms, accuracy and audit counters."""

from __future__ import annotations

import errno
import logging
import math
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from cachenet.edge_agent.outputs.line_file import LineFile
from cachenet.edge_agent.zones import Zone
from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.detect.scene_cascade import SceneCascade
from cachenet.shared.cascade.detect.types import SceneAnswer, TrackedObject
from cachenet.shared.cascade.tally import Tally
from cachenet.shared.cascade.types import Answer
from cachenet.shared.command import exit
from cachenet.shared.command.text import printable
from cachenet.shared.inference.image import Region

log = logging.getLogger(__name__)


#: The answer of a classifier or of a detector.
AnyAnswer = Answer | SceneAnswer
#: Digits after the point of shares in a line: a tenth of a pixel of a picture of 1,000 pixels.
_DIGITS = 4
#: Most labels of a detector in the report of a run, most frequent first.
_SHOWN_LABELS = 5
#: Distance from the edge of the picture at which an object that touches it stands, as a share: a zone that reaches to
#: the edge then contains it.
_EDGE = 1e-6


class Object(msgspec.Struct, frozen=True):
    """An object in the answer of a detector.

    Attributes:
        track: Number of the object's track: equal in the frames that show one object.
        confidence: 1 - risk.
        box: Left, top, width and height, as shares of the picture.
        risk: Probability that the full model, asked now, would not find this object here.
    """

    track: int
    label: str
    confidence: float
    box: tuple[float, float, float, float]
    risk: float


class AnswerLine(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One line of ``--output``: the answer to a frame. It has either a ``label`` or ``objects``.

    Attributes:
        time: Seconds since the epoch.
        label: Label of a classifier; ``unknown`` for a picture out of the bundle's distribution. Empty, and left out of
            the JSON, for a detector.
        objects: Objects of a detector, by track; empty for nothing. None, and left out, for a classifier.
        counts: Number of a detector's objects by label, without labels of no object; None for a classifier.
        zone_counts: The same for each zone; None without zones.
        confidence: Probability of the label, or expected F1 of the objects against the full model's.
        risk: Probability that the full model would give another label, or 1 - the expected F1.
        truth: True label, if the source knows it.
        correction: Whether the line corrects an earlier fallback; ``latency_ms`` is then 0.
        camera: Name of the camera; empty for the only one.
        zone: Name of the zone whose picture was classified; empty for the whole picture.
    """

    frame: int
    time: float
    label: str = ""
    objects: tuple[Object, ...] | None = None
    counts: dict[str, int] | None = None
    zone_counts: dict[str, dict[str, int]] | None = None
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
        """The sum of both histograms. Other threads may add to them meanwhile."""
        both = LatencyHistogram()
        both._bins = Counter(dict(self._bins)) + Counter(dict(other._bins))
        both.total, both.count = self.total + other.total, self.count + other.count
        both.longest = max(self.longest, other.longest)
        return both

    def since(self, earlier: LatencyHistogram) -> LatencyHistogram:
        """The latencies that were added after this histogram was ``earlier``; ``longest`` is that of all."""
        later = LatencyHistogram()
        later._bins = self._bins - earlier._bins
        later.total, later.count, later.longest = self.total - earlier.total, later._bins.total(), self.longest
        return later

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


def counts_text(counts: Mapping[str, int]) -> str:
    """Numbers of objects by label as text, such as ``1 car, 2 person``."""
    return ", ".join(f"{number} {label}" for label, number in counts.items()) or "nothing"


def objects_text(table: Mapping[str, Any]) -> str:
    """``ObjectCounter.table()`` as one line of text."""
    means = [f"{mean:.2f} {printable(label)}" for label, mean in table["by_label"].items()]
    if (more := len(means) - _SHOWN_LABELS) > 0:
        means[_SHOWN_LABELS:] = [f"{more} more labels"]
    shown = f" ({', '.join(means)})" if means else ""
    return f"{table['mean']:.2f} objects a frame{shown}; {table['empty']:.1%} of the frames empty"


class ObjectCounter:
    """Objects of a detector's answers.

    Example:
        >>> counter = ObjectCounter()
        >>> counter.add({"person": 2})
        >>> counter.add({})
        >>> counter.table()
        {'mean': 1.0, 'by_label': {'person': 1.0}, 'empty': 0.5}
    """

    def __init__(self) -> None:
        self.frames = self.empty = 0
        self.labels: Counter[str] = Counter()

    def add(self, counts: Mapping[str, int]) -> None:
        """Count the objects of one frame, by label."""
        self.frames += 1
        self.empty += not counts
        self.labels.update(counts)

    def table(self) -> dict[str, Any]:
        """Mean number of objects of a frame, the same by label, most frequent first, and the share of empty frames."""
        frames = max(1, self.frames)
        means = {label: round(total / frames, _DIGITS) for label, total in self.labels.most_common()}
        mean = round(self.labels.total() / frames, _DIGITS)
        return {"mean": mean, "by_label": means, "empty": round(self.empty / frames, _DIGITS)}


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


def audits(cascade: Cascade | SceneCascade | None) -> dict[str, Any] | None:
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


@dataclass(frozen=True, slots=True)
class View:
    """What the answers of a camera are about.

    Attributes:
        camera: Name of the camera; empty for the only one.
        zone: Name of the zone whose picture is classified; empty for the whole picture or the region.
        region: The part of the picture that the models are given; None for all of it.
        zones: Zones of the camera.
    """

    camera: str = ""
    zone: str = ""
    region: Region | None = None
    zones: tuple[Zone, ...] = ()

    def region_of(self, zone: str) -> Region | None:
        """The part of the picture that is classified for a zone; of no zone, ``region``."""
        return next((own.region for own in self.zones if own.name == zone), self.region)


#: The view of an only camera without region and zones.
WHOLE_PICTURE = View()


def line(
    answer: AnyAnswer,
    manifest: Manifest,
    time: float,
    latency_ms: float = 0.0,
    truth: str | None = None,
    correction: bool = False,
    view: View = WHOLE_PICTURE,
) -> AnswerLine:
    """The output line of an answer. ``time``: seconds since the epoch; ``correction``: see ``AnswerLine``."""
    label, objects, counts, zone_counts = "", None, None, None
    if isinstance(answer, SceneAnswer):
        objects = tuple(_object(own, manifest, view.region) for own in answer.objects)
        counts = count(objects)
        if view.zones:
            zone_counts = count_by_zone(objects, view.zones)
    else:
        label = manifest.label(answer.label)
    return AnswerLine(
        frame=answer.frame,
        time=round(time, 6),
        label=label,
        objects=objects,
        counts=counts,
        zone_counts=zone_counts,
        confidence=round(answer.confidence, _DIGITS),
        risk=round(answer.risk, _DIGITS),
        level=answer.level,
        model=answer.model,
        latency_ms=round(latency_ms, 3),
        reason=answer.reason,
        truth=truth if objects is None else None,
        correction=correction,
        camera=view.camera,
        zone=view.zone,
    )


def _object(own: TrackedObject, manifest: Manifest, region: Region | None) -> Object:
    left, top, width, height = region or (0.0, 0.0, 1.0, 1.0)
    x, y, w, h = own.box
    box = (left + x * width, top + y * height, w * width, h * height)
    rounded = tuple(round(side, _DIGITS) for side in box)
    confidence, risk = round(own.confidence, _DIGITS), round(own.risk, _DIGITS)
    return Object(own.track, manifest.labels[own.label], confidence, rounded, risk)  # type: ignore[arg-type]


def count(objects: Iterable[Object]) -> dict[str, int]:
    """Number of objects by label, in the order of the labels' names."""
    return dict(sorted(Counter(own.label for own in objects).items()))


def count_by_zone(objects: Sequence[Object], zones: Sequence[Zone]) -> dict[str, dict[str, int]]:
    """Number of objects by label for each zone. An object is where it stands: at the middle of its lower edge."""
    boxes = np.array([own.box for own in objects]).reshape(-1, 4)
    feet = np.clip(boxes[:, :2] + boxes[:, 2:] * (0.5, 1.0), _EDGE, 1.0 - _EDGE)
    return {zone.name: count(compress(objects, zone.contains(feet))) for zone in zones}
