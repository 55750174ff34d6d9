"""Outcome of a live comparison, from the agents' answers: table, JSON and ranking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.table import Table

from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.shared.cascade.reference import disagreements
from cachenet.simulator.world.emulator import Counts

#: Levels of a hit.
HITS = ("frames", "submodels", "base")
#: The policies.
CACHENET, SERVER, DEVICE = "cachenet", "server-only", "device-only"
#: Columns of a terminal that ``table`` needs.
TABLE_WIDTH = 80
#: Share of fallbacks above which a policy is not ranked: a fallback is no answer of a model.
_MOST_FALLBACKS = 0.5


class Incomplete(Exception):
    """The lines of a run do not account for every frame. The message gives the counts."""


class Summary(msgspec.Struct, frozen=True):
    """The agent's summary file, in part; ``models_pulled``: downloaded submodels."""

    frames: int
    models_pulled: tuple[str, ...] = ()


class Outcome(msgspec.Struct, frozen=True):
    """Measures of one policy on one stream.

    Attributes:
        frames: Frames answered.
        hits: Hits by level.
        full, cloud: Answers of the full model on the device and on the server.
        fallbacks: Frames without an answer in time.
        latency_ms: Mean and percentiles, milliseconds.
        accuracy: Share of answers that are true; None: the truth is unknown.
        disagreement: See ``shared.cascade.reference``; over the ``compared`` frames, None without any.
        agreement: Share of answers that are the full model's; over the ``compared`` frames, None without any.
        compared: Frames for which the full model's answer is known.
        bytes_up, bytes_down: TCP payload, bytes.
        models_pushed: Number of downloaded submodels.
    """

    frames: int
    hits: dict[str, int]
    full: int
    cloud: int
    fallbacks: int
    latency_ms: dict[str, float]
    accuracy: float | None
    disagreement: float | None
    agreement: float | None
    compared: int
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

    @property
    def mostly_fallbacks(self) -> bool:
        """Whether the policy is not ranked."""
        return self.fallbacks > _MOST_FALLBACKS * self.frames


class Setting(msgspec.Struct, frozen=True):
    """Settings of a live comparison."""

    stream: str
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


def by_full_model(lines: Iterable[AnswerLine], full: str) -> list[AnswerLine]:
    """The lines of a device whose base model is the model ``full``, with the level ``full`` for that model's answers.

    The base model's answers are the full model's there, at any confidence.
    """
    levels = ("base", "fallback")
    return [
        msgspec.structs.replace(line, level="full") if line.level in levels and line.model == full else line
        for line in lines
    ]


def full_answers(lines: Iterable[AnswerLine]) -> dict[int, str]:
    """Label of the full model by frame, where it answered."""
    return {line.frame: line.label for line in lines if line.level in ("cloud", "full")}


def outcome(lines: list[AnswerLine], summary: Summary, counts: Counts, full: Mapping[int, str], frames: int) -> Outcome:
    """Measures of one policy's run.

    Args:
        lines: The answers.
        summary: The agent's summary.
        counts: Bytes of the link.
        full: Label of the full model by frame, where it is known.
        frames: Frames that the stream has.

    Raises:
        Incomplete: Not every frame has exactly one answer.
    """
    levels = Counter(line.level for line in lines)
    hits = {level: levels[level] for level in HITS}
    on_device, cloud, fallbacks = levels["full"], levels["cloud"], levels["fallback"]
    distinct = len({line.frame for line in lines})
    if not sum(hits.values()) + on_device + cloud + fallbacks == len(lines) == distinct == summary.frames == frames:
        raise Incomplete(
            f"{frames} frames were expected and {distinct} answered in {len(lines)} lines: {sum(hits.values())} hits, "
            f"{on_device} by the full model on the device, {cloud} by the cloud, {fallbacks} fallbacks; the agent "
            f"counted {summary.frames}"
        )
    latencies = np.array([line.latency_ms for line in lines])
    p50, p95, p99 = np.percentile(latencies, (50, 95, 99))
    compared = [line for line in lines if line.frame in full]
    return Outcome(
        frames=frames,
        hits=hits,
        full=on_device,
        cloud=cloud,
        fallbacks=fallbacks,
        latency_ms={
            name: round(float(ms), 3)
            for name, ms in {"mean": latencies.mean(), "p50": p50, "p95": p95, "p99": p99}.items()
        },
        accuracy=_share(line.label == line.truth for line in lines if line.truth is not None),
        disagreement=_share(_disagree(compared, full)),
        agreement=_share(line.label == full[line.frame] for line in compared),
        compared=len(compared),
        bytes_up=counts.bytes_up,
        bytes_down=counts.bytes_down,
        models_pushed=len(summary.models_pulled),
    )


def _disagree(lines: Sequence[AnswerLine], full: Mapping[int, str]) -> Iterator[bool]:
    """Whether each answer disagrees; runs of consecutive frames are judged separately."""
    ordered = sorted(lines, key=lambda line: line.frame)
    number = {label: place for place, label in enumerate(sorted(set(full.values())))}
    for _, run in groupby(enumerate(ordered), key=lambda pair: pair[1].frame - pair[0]):
        own = [line for _, line in run]
        answers = np.array([number.get(line.label, -1) for line in own], np.int64)
        yield from disagreements(answers, np.array([number[full[line.frame]] for line in own], np.int64)).tolist()


def _share(of: Iterable[bool]) -> float | None:
    values = list(of)
    return round(sum(values) / len(values), 4) if values else None


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
    result |= {**msgspec.to_builtins(setting), "policies": msgspec.to_builtins(outcomes), "skipped": dict(skipped)}
    return msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"


def table(outcomes: Mapping[str, Outcome]) -> Table:
    """The table, one row a policy."""
    grid = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("policy", no_wrap=True, vertical="bottom")
    for column in (
        "on the\ndevice",
        "fall-\nbacks",
        "mean\nms",
        "p50\nms",
        "p95\nms",
        "disag-\nreed",
        "truth",
        "KB\nup",
    ):
        grid.add_column(column, justify="right", vertical="bottom", no_wrap=True)
    for name, of in outcomes.items():
        grid.add_row(
            name,
            f"{of.device_share:.0%}",
            f"{of.fallbacks / of.frames:.0%}",
            *(f"{of.latency_ms[key]:.1f}" for key in ("mean", "p50", "p95")),
            *("-" if share is None else f"{share:.1%}" for share in (of.disagreement, of.accuracy)),
            f"{of.bytes_up / 1000:,.0f}",
            style="bold green" if name == CACHENET else None,
        )
    return grid


def ranked_baselines(outcomes: Mapping[str, Outcome]) -> list[str]:
    """The baselines that CacheNet is ranked against: those that ran and did not mostly fall back."""
    return [name for name in (SERVER, DEVICE) if name in outcomes and not outcomes[name].mostly_fallbacks]


def ranking(setting: Setting, outcomes: Mapping[str, Outcome]) -> str:
    """The ranking of CacheNet with the settings, in a sentence."""
    fell_back = [name for name, of in outcomes.items() if of.mostly_fallbacks]
    note = f" {_listed(fell_back)} mostly fell back: answers were late." if fell_back else ""
    compared = ranked_baselines(outcomes)
    if CACHENET not in outcomes or CACHENET in fell_back or not compared:
        return f"There is no ranking ({setting}).{note}"
    own = outcomes[CACHENET].latency_ms["mean"]
    baseline = min(compared, key=lambda name: outcomes[name].latency_ms["mean"])
    baseline_ms = outcomes[baseline].latency_ms["mean"]
    ratio = f"{baseline_ms / own:.1f} times faster" if own <= baseline_ms else f"{own / baseline_ms:.1f} times slower"
    better = f", the better of {SERVER} and {DEVICE}" if len(compared) > 1 else ""
    return (
        f"CacheNet answers {ratio} on average than {baseline}{better} "
        f"({own:.1f} against {baseline_ms:.1f} ms; {setting}).{note}"
    )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
