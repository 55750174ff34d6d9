"""What a comparison found: policies side by side, as a table and as JSON, from the agents' own lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.table import Table

from cachenet.edge_agent.outputs.report import Line
from cachenet.shared.cascade.reference import disagreements
from cachenet.simulator.world.emulator import Counts

HITS = ("frames", "submodels", "base")
CACHENET, SERVER, DEVICE = "cachenet", "server-only", "device-only"
#: Columns of a terminal that ``table`` needs to show every figure whole.
TABLE_WIDTH = 80
#: The largest share of fallbacks of a policy that others are ranked against: a fallback is no answer of its own.
_MOST_FALLBACKS = 0.5


class Incomplete(Exception):
    """A run that does not add up; the text says how."""


class Summary(msgspec.Struct, frozen=True):
    """What only the agent can know of its run; its summary file holds more. ``models_pulled``: the submodels that
    came over the link."""

    frames: int
    models_pulled: tuple[str, ...] = ()


class Outcome(msgspec.Struct, frozen=True):
    """One policy over one stream.

    Latencies in milliseconds, shares 0..1 or None where nobody knows, bytes of TCP payload. ``disagreement`` (see
    ``shared.cascade.reference``) and ``agreement``, the share of answers that are the full model's, are over
    ``compared`` frames: those for which the full model's answer is known.
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
        """Share of the frames that were hits."""
        return sum(self.hits.values()) / self.frames

    @property
    def device_share(self) -> float:
        """Share of the frames that the device answered by itself: hits, and answers of the full model there."""
        return self.local_share + self.full / self.frames

    @property
    def mostly_fallbacks(self) -> bool:
        return self.fallbacks > _MOST_FALLBACKS * self.frames


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


def by_full_model(lines: Iterable[Line], full: str) -> list[Line]:
    """The lines of a device whose base model is the model ``full``: what that model answered is the full model's
    answer, whether or not the device was sure of it."""
    levels = ("base", "fallback")
    return [
        msgspec.structs.replace(line, level="full") if line.level in levels and line.model == full else line
        for line in lines
    ]


def full_answers(lines: Iterable[Line]) -> dict[int, str]:
    """The full model's label by frame, where it answered."""
    return {line.frame: line.label for line in lines if line.level in ("cloud", "full")}


def outcome(lines: list[Line], summary: Summary, counts: Counts, full: Mapping[int, str], frames: int) -> Outcome:
    """Add up one policy's run of ``frames``. ``full``: the full model's label by frame, where it is known. Raises
    ``Incomplete`` unless every frame has exactly one answer."""
    levels = Counter(line.level for line in lines)
    hits = {level: levels[level] for level in HITS}
    on_device, cloud, fallbacks = levels["full"], levels["cloud"], levels["fallback"]
    distinct = len({line.frame for line in lines})
    if not sum(hits.values()) + on_device + cloud + fallbacks == len(lines) == distinct == summary.frames == frames:
        raise Incomplete(
            f"{frames} frames were shown and {distinct} answered in {len(lines)} lines: {sum(hits.values())} hits, "
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


def _disagree(lines: Sequence[Line], full: Mapping[int, str]) -> Iterator[bool]:
    """Whether each answer disagrees, one run of consecutive frames after the other."""
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
    """The whole comparison; at its top what CacheNet did, unless it was ``skipped`` (the reason by policy)."""
    whole: dict[str, Any] = {}
    if (own := outcomes.get(CACHENET)) is not None:
        whole = {
            "frames": own.frames,
            "hits": own.hits,
            "full": own.full,
            "cloud": own.cloud,
            "fallbacks": own.fallbacks,
            "models_pushed": own.models_pushed,
            "local_share": round(own.local_share, 4),
        }
    whole |= {**msgspec.to_builtins(setting), "policies": msgspec.to_builtins(outcomes), "skipped": dict(skipped)}
    return msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n"


def table(outcomes: Mapping[str, Outcome]) -> Table:
    """Policies in the order given, one row each; every figure is in the JSON."""
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


def rivals(outcomes: Mapping[str, Outcome]) -> list[str]:
    """The policies that CacheNet is ranked against: of ``SERVER`` and ``DEVICE`` those that ran and really answered."""
    return [name for name in (SERVER, DEVICE) if name in outcomes and not outcomes[name].mostly_fallbacks]


def sentence(setting: Setting, outcomes: Mapping[str, Outcome]) -> str:
    """The one claim of a comparison, with what it holds for; none where there is nothing to rank CacheNet against."""
    fell_back = [name for name, of in outcomes.items() if of.mostly_fallbacks]
    note = f" {_listed(fell_back)} mostly fell back: answers did not come in time." if fell_back else ""
    compared = rivals(outcomes)
    if CACHENET not in outcomes or CACHENET in fell_back or not compared:
        return f"There is no ranking ({setting}).{note}"
    own = outcomes[CACHENET].latency_ms["mean"]
    rival = min(compared, key=lambda name: outcomes[name].latency_ms["mean"])
    theirs = outcomes[rival].latency_ms["mean"]
    ratio = f"{theirs / own:.1f} times faster" if own <= theirs else f"{own / theirs:.1f} times slower"
    better = f", the better of {SERVER} and {DEVICE}" if len(compared) > 1 else ""
    return (
        f"CacheNet answers {ratio} on average than {rival}{better} "
        f"({own:.1f} against {theirs:.1f} ms; {setting}).{note}"
    )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
