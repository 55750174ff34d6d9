"""What a comparison found: policies side by side, as a table and as JSON, from the agents' own lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.table import Table

from edge_agent.report import Line
from simulator.emulator import Counts

HITS = ("frames", "submodels", "base")
OURS, SERVER, DEVICE = "ours", "server-only", "device-only"
#: Columns that ``table`` needs to show every figure whole.
TABLE_WIDTH = 124


class Incomplete(Exception):
    """A run that does not add up; the text says how."""


class Summary(msgspec.Struct, frozen=True):
    """What only the agent can know of its run; its summary file holds more. ``models_pulled``: the submodels that
    came over the link."""

    frames: int
    models_pulled: tuple[str, ...] = ()


class Outcome(msgspec.Struct, frozen=True):
    """One policy over one stream. Latencies in milliseconds, shares 0..1 or None where nobody knows, bytes of TCP
    payload. ``agreement`` is over ``compared`` frames: those for which the full model's bare answer is known."""

    frames: int
    hits: dict[str, int]
    full: int
    cloud: int
    fallbacks: int
    latency_ms: dict[str, float]
    accuracy: float | None
    agreement: float | None
    compared: int
    bytes_up: int
    bytes_down: int
    models_pushed: int

    @property
    def local_share(self) -> float:
        return sum(self.hits.values()) / self.frames


class Setting(msgspec.Struct, frozen=True):
    """What the numbers hold for; a claim without it is no claim."""

    stream: str
    seed: int
    link: str
    fps: float
    versions: dict[str, str]
    slowdown: float = 1.0

    def __str__(self) -> str:
        slow = f", models {self.slowdown:g} times slower on the device" if self.slowdown > 1 else ""
        return f"link {self.link}, stream {self.stream}, seed {self.seed}, {self.fps:g} frames a second{slow}"


def read_lines(path: Path) -> list[Line]:
    """The answers in a JSON-lines file, without later corrections. Raises ``Incomplete`` for a line that is none."""
    try:
        lines = [msgspec.json.decode(line, type=Line) for line in path.read_bytes().splitlines()]
        return [line for line in lines if not line.correction]
    except msgspec.DecodeError as error:
        raise Incomplete(f"{path}: {error}") from None


def bare_answers(lines: Iterable[Line]) -> dict[int, str]:
    """The full model's first label by frame, where it answered."""
    return {line.frame: line.cloud for line in lines if line.cloud is not None}


def outcome(lines: list[Line], summary: Summary, counts: Counts, reference: Mapping[int, str], frames: int) -> Outcome:
    """Add up one policy's run of ``frames``. Raises ``Incomplete`` unless every frame has exactly one answer."""
    levels = Counter(line.level for line in lines)
    hits = {level: levels[level] for level in HITS}
    full, cloud, fallbacks = levels["full"], levels["cloud"], levels["fallback"]
    distinct = len({line.frame for line in lines})
    if not sum(hits.values()) + full + cloud + fallbacks == len(lines) == distinct == summary.frames == frames:
        raise Incomplete(
            f"{frames} frames were shown and {distinct} answered in {len(lines)} lines: {sum(hits.values())} hits, "
            f"{full} by the full model here, {cloud} by the cloud, {fallbacks} fallbacks; the agent counted "
            f"{summary.frames}"
        )
    latencies = np.array([line.latency_ms for line in lines])
    p50, p95, p99 = np.percentile(latencies, (50, 95, 99))
    compared = [line for line in lines if line.frame in reference]
    return Outcome(
        frames=frames,
        hits=hits,
        full=full,
        cloud=cloud,
        fallbacks=fallbacks,
        latency_ms={
            name: round(float(ms), 3)
            for name, ms in {"mean": latencies.mean(), "p50": p50, "p95": p95, "p99": p99}.items()
        },
        accuracy=_share(line.label == line.truth for line in lines if line.truth is not None),
        agreement=_share(line.label == reference[line.frame] for line in compared),
        compared=len(compared),
        bytes_up=counts.bytes_up,
        bytes_down=counts.bytes_down,
        models_pushed=len(summary.models_pulled),
    )


def _share(of: Iterable[bool]) -> float | None:
    values = list(of)
    return round(sum(values) / len(values), 4) if values else None


def to_json(setting: Setting, outcomes: Mapping[str, Outcome]) -> bytes:
    """The whole comparison; at its top what ours did."""
    ours = outcomes[OURS]
    whole: dict[str, Any] = {
        "frames": ours.frames,
        "hits": ours.hits,
        "full": ours.full,
        "cloud": ours.cloud,
        "fallbacks": ours.fallbacks,
        "models_pushed": ours.models_pushed,
        "local_share": round(ours.local_share, 4),
        **msgspec.to_builtins(setting),
        "policies": msgspec.to_builtins(outcomes),
    }
    return msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n"


def table(outcomes: Mapping[str, Outcome]) -> Table:
    """Policies in the order given, one row each."""
    grid = Table(box=None, header_style="bold", pad_edge=False)
    grid.add_column("policy", no_wrap=True)
    for column in ("frames", "hits:\nframes", "sub-\nmodels", "\nbase", "full,\nhere", "cloud", "fall-\nbacks"):
        grid.add_column(column, justify="right", vertical="bottom")
    for column in ("mean\nms", "p50\nms", "p95\nms", "p99\nms", "accu-\nracy %", "agree-\nment %"):
        grid.add_column(column, justify="right", vertical="bottom")
    for column in ("KB\nup", "KB\ndown", "models\npushed"):
        grid.add_column(column, justify="right", vertical="bottom")
    for name, of in outcomes.items():
        counted = (of.frames, *(of.hits[level] for level in HITS), of.full, of.cloud, of.fallbacks)
        grid.add_row(
            name,
            *map(str, counted),
            *(f"{of.latency_ms[key]:.1f}" for key in ("mean", "p50", "p95", "p99")),
            *("-" if share is None else f"{share:.1%}"[:-1] for share in (of.accuracy, of.agreement)),
            *(f"{nbytes / 1000:,.0f}" for nbytes in (of.bytes_up, of.bytes_down)),
            str(of.models_pushed),
            style="bold green" if name == OURS else None,
        )
    return grid


def sentence(setting: Setting, outcomes: Mapping[str, Outcome]) -> str:
    """The one claim of a comparison, with what it holds for."""
    ours = outcomes[OURS].latency_ms["mean"]
    rival = min((SERVER, DEVICE), key=lambda name: outcomes[name].latency_ms["mean"])
    theirs = outcomes[rival].latency_ms["mean"]
    ratio = f"{theirs / ours:.1f} times faster" if ours <= theirs else f"{ours / theirs:.1f} times slower"
    left_out = outcomes[SERVER].frames - outcomes[SERVER].compared
    plural = "s" if left_out > 1 else ""
    note = f" Agreement leaves out {left_out} frame{plural} on which {SERVER} fell back." if left_out else ""
    return (
        f"Ours answers {ratio} on average than {rival}, the better of {SERVER} and {DEVICE} "
        f"({ours:.1f} against {theirs:.1f} ms; {setting}).{note}"
    )
