"""The live comparison of classifiers: a stream of sample images, and answers compared by their labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.models.data import cifar10, sample, streams
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.reference import disagreements
from cachenet.simulator.live.outcome import CACHENET, DEVICE, SERVER, Outcome, Run, Setting, measures, with_level
from cachenet.simulator.live.policy_table import policy_table
from cachenet.simulator.live.task import LiveTask, Options

#: Share of fallbacks above which a policy is not ranked: a fallback is no answer of a model.
_MOST_FALLBACKS = 0.5


class LabelOutcome(Outcome, frozen=True, kw_only=True):
    """Measures of one policy for labels.

    Attributes:
        accuracy: Share of answers that are true; None: the truth is unknown.
        disagreement: See ``shared.cascade.reference``; over the ``compared`` frames, None without any.
        agreement: Share of answers that are the full model's; over the ``compared`` frames, None without any.
        compared: Frames for which the full model's answer is known.
    """

    accuracy: float | None
    disagreement: float | None
    agreement: float | None
    compared: int

    @property
    def mostly_fallbacks(self) -> bool:
        """Whether the policy is not ranked."""
        return self.fallbacks > _MOST_FALLBACKS * self.frames


class Classification(LiveTask):
    """Comparison of classifiers on a named stream. The reference is what ``server-only`` answered."""

    link = "wifi"
    files = ("demo.png",)

    def __init__(self, options: Options, bundle: Bundle) -> None:
        super().__init__(options, bundle)
        self._stream = streams.named(options.stream or "camera")
        self._full = bundle.manifest.only("full")

    def prepare(self, scratch: Path, console: Console) -> tuple[Path, Setting]:
        """Write the stream."""
        options, frames, images = self.options, self.options.frames or 600, sample.load()
        plan = streams.schedule(self._stream, images.labels, options.seed, frames)
        console.print(f"Recording {frames} frames of stream {self._stream}, seed {options.seed}.")
        streams.record_stream(plan, images.images, scratch / "stream", cifar10.LABELS)
        return scratch / "stream", self.setting(self._stream, frames, options.fps or streams.FPS)

    def environment(self, policy: str) -> dict[str, str]:
        return {
            CACHENET: {},
            SERVER: {"CACHENET_LEVELS": "cloud"},
            DEVICE: {"CACHENET_LEVELS": "base", "CACHENET_BASE": self._full},
        }[policy]

    def lines(self, policy: str, lines: list[AnswerLine]) -> list[AnswerLine]:
        # The full model is the base model of ``device-only``.
        return with_level(lines, self._full, "full") if policy == DEVICE else lines

    def outcome(self, policy: str, runs: Mapping[str, Run], setting: Setting) -> LabelOutcome:
        full = full_answers(runs[SERVER].lines) if SERVER in runs else {}
        return label_outcome(runs[policy], full, setting.frames)

    def table(self, outcomes: Mapping[str, Outcome]) -> Table:
        return table(_labels(outcomes))

    def ranking(self, outcomes: Mapping[str, Outcome], setting: Setting) -> str:
        return ranking(setting, _labels(outcomes))

    def draw(self, path: Path, runs: Mapping[str, Run], outcomes: Mapping[str, Outcome], setting: Setting) -> None:
        from cachenet.simulator.live import classification_picture

        medians = {name: outcomes[name].latency_ms["p50"] for name in ranked_baselines(_labels(outcomes))}
        classification_picture.draw(path, runs[CACHENET].lines, outcomes[CACHENET], medians, setting)


def _labels(outcomes: Mapping[str, Outcome]) -> dict[str, LabelOutcome]:
    return {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, LabelOutcome)}


def full_answers(lines: Iterable[AnswerLine]) -> dict[int, str]:
    """Label of the full model by frame, where it answered."""
    return {line.frame: line.label for line in lines if line.level in ("cloud", "full")}


def label_outcome(run: Run, full: Mapping[int, str], frames: int) -> LabelOutcome:
    """Measures of one policy's run.

    Args:
        full: Label of the full model by frame, where it is known.
        frames: Frames that the stream has.

    Raises:
        Incomplete: Not every frame has exactly one answer.
    """
    compared = [line for line in run.lines if line.frame in full]
    return LabelOutcome(
        **measures(run, frames),
        accuracy=_share(line.label == line.truth for line in run.lines if line.truth is not None),
        disagreement=_share(_disagree(compared, full)),
        agreement=_share(line.label == full[line.frame] for line in compared),
        compared=len(compared),
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


def table(outcomes: Mapping[str, LabelOutcome]) -> Table:
    """The table, one row a policy."""
    columns = ("on the\ndevice", "fall-\nbacks", "mean\nms", "p50\nms", "p95\nms", "disag-\nreed", "truth", "KB\nup")
    rows = {
        name: (
            f"{of.device_share:.0%}",
            f"{of.fallbacks / of.frames:.0%}",
            *(f"{of.latency_ms[key]:.1f}" for key in ("mean", "p50", "p95")),
            *("-" if share is None else f"{share:.1%}" for share in (of.disagreement, of.accuracy)),
            f"{of.bytes_up / 1000:,.0f}",
        )
        for name, of in outcomes.items()
    }
    return policy_table(columns, rows)


def ranked_baselines(outcomes: Mapping[str, LabelOutcome]) -> list[str]:
    """The baselines that CacheNet is ranked against: those that ran and did not mostly fall back."""
    return [name for name in (SERVER, DEVICE) if name in outcomes and not outcomes[name].mostly_fallbacks]


def ranking(setting: Setting, outcomes: Mapping[str, LabelOutcome]) -> str:
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
