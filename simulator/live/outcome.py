"""Runs of a live comparison and their measures, whatever the task: counts of levels, latencies, bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.shared.cascade.types import LOCAL_LEVELS
from cachenet.simulator.world.emulator import Counts

#: The policies, in the order in which they run.
POLICIES = CACHENET, SERVER, DEVICE = "cachenet", "server-only", "device-only"
#: Columns of a terminal that a table needs.
TABLE_WIDTH = 80


class Incomplete(Exception):
    """The lines of a run do not account for every frame. The message gives the counts."""


class Summary(msgspec.Struct, frozen=True):
    """The agent's summary file, in part.

    Attributes:
        asked: Share of frames that needed the full model.
        models_pulled: Downloaded submodels.
    """

    frames: int
    asked: float = 0.0
    models_pulled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """Results of one policy's agent, and the bytes of its link."""

    lines: list[AnswerLine]
    summary: Summary
    counts: Counts


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Measures of one policy on one stream.

    Attributes:
        frames: Frames answered.
        hits: Hits by level.
        full, cloud: Answers of the full model on the device and on the server.
        fallbacks: Frames without an answer of the full model in time.
        latency_ms: Mean and percentiles, milliseconds.
        bytes_up, bytes_down: TCP payload, bytes.
        models_pushed: Number of downloaded submodels.
    """

    frames: int
    hits: dict[str, int]
    full: int
    cloud: int
    fallbacks: int
    latency_ms: dict[str, float]
    bytes_up: int
    bytes_down: int
    models_pushed: int

    @property
    def local_share(self) -> float:
        """Share of hits."""
        return sum(self.hits.values()) / self.frames

    @property
    def device_share(self) -> float:
        """Share of answers of the device: hits, and answers of the full model there."""
        return self.local_share + self.full / self.frames


class Setting(msgspec.Struct, frozen=True):
    """Settings of a live comparison."""

    stream: str
    frames: int
    seed: int
    link: str
    fps: float
    versions: dict[str, str]
    slowdown: float = 1.0

    def __str__(self) -> str:
        slow = f", models {self.slowdown:g} times slower on the device" if self.slowdown > 1 else ""
        return f"link {self.link}, stream {self.stream}, seed {self.seed}, {self.fps:g} frames a second{slow}"


def read_lines(path: Path) -> list[AnswerLine]:
    """The answers in a JSON-lines file, without corrections. Raises ``Incomplete`` for an invalid line."""
    try:
        lines = [msgspec.json.decode(line, type=AnswerLine) for line in path.read_bytes().splitlines()]
        return [line for line in lines if not line.correction]
    except msgspec.DecodeError as error:
        raise Incomplete(f"{path}: {error}") from None


def with_level(lines: Sequence[AnswerLine], model: str, level: str) -> list[AnswerLine]:
    """The lines of a device that only has the model ``model``, with ``level`` for its answers at any confidence."""
    levels = ("base", "fallback")
    return [
        msgspec.structs.replace(line, level=level) if line.level in levels and line.model == model else line
        for line in lines
    ]


def measures(run: Run, frames: int) -> dict[str, Any]:
    """The fields of ``Outcome`` of one policy's run over ``frames`` frames.

    Raises:
        Incomplete: Not every frame has exactly one answer.
    """
    lines = run.lines
    levels = Counter(line.level for line in lines)
    hits = {level: levels[level] for level in LOCAL_LEVELS}
    on_device, cloud, fallbacks = levels["full"], levels["cloud"], levels["fallback"]
    distinct = len({line.frame for line in lines})
    counted = run.summary.frames
    if not sum(hits.values()) + on_device + cloud + fallbacks == len(lines) == distinct == counted == frames:
        raise Incomplete(
            f"{frames} frames were expected and {distinct} answered in {len(lines)} lines: {sum(hits.values())} hits, "
            f"{on_device} by the full model on the device, {cloud} by the cloud, {fallbacks} fallbacks; the agent "
            f"counted {counted}"
        )
    latencies = np.array([line.latency_ms for line in lines])
    p50, p95, p99 = np.percentile(latencies, (50, 95, 99))
    return {
        "frames": frames,
        "hits": hits,
        "full": on_device,
        "cloud": cloud,
        "fallbacks": fallbacks,
        "latency_ms": {
            name: round(float(ms), 3)
            for name, ms in {"mean": latencies.mean(), "p50": p50, "p95": p95, "p99": p99}.items()
        },
        "bytes_up": run.counts.bytes_up,
        "bytes_down": run.counts.bytes_down,
        "models_pushed": len(run.summary.models_pulled),
    }


def to_json(setting: Setting, outcomes: Mapping[str, Outcome], skipped: Mapping[str, str]) -> bytes:
    """The comparison, with CacheNet's counts at the top; ``skipped``: reason by skipped policy."""
    result: dict[str, Any] = {}
    if (own := outcomes.get(CACHENET)) is not None:
        result = {
            "frames": own.frames,
            "hits": own.hits,
            "full": own.full,
            "cloud": own.cloud,
            "fallbacks": own.fallbacks,
            "models_pushed": own.models_pushed,
            "local_share": round(own.local_share, 4),
        }
    result |= msgspec.to_builtins(setting)
    result["policies"] = {name: msgspec.to_builtins(outcome) for name, outcome in outcomes.items()}
    result["skipped"] = dict(skipped)
    return msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"
