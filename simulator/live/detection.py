"""The live comparison of detectors: a video, and answers compared by their streaming F1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.detect.detections import Detections, checked, corners, pooled_f1
from cachenet.shared.command.errors import UserError
from cachenet.shared.command.file_names import shown
from cachenet.shared.command.threads import default_threads
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.engine import Session
from cachenet.shared.media.video import BadVideo, Video
from cachenet.simulator.live.outcome import CACHENET, DEVICE, SERVER, Outcome, Run, Setting, measures, with_level
from cachenet.simulator.live.policy_table import policy_table
from cachenet.simulator.live.streaming import StreamingCounts, streaming_counts
from cachenet.simulator.live.task import LiveTask, Options

#: The installed clip.
CLIP = zoo.DIRECTORY / "campus-clip" / "campus.mp4"
#: Default number of frames: with the clip's 10 a second, all policies together take about a minute on two cores.
_FRAMES = 150
#: Longest wait of ``server-only`` for a reply, milliseconds. A late answer is worth more to it than none.
_DEADLINE_MS = 2000


class ObjectOutcome(Outcome, frozen=True, kw_only=True):
    """Measures of one policy for objects.

    Attributes:
        streaming_f1: See ``streaming``; against the full model on every frame.
        asked: Share of frames that needed the full model, audits included.
    """

    streaming_f1: float
    asked: float


class Detection(LiveTask):
    """Comparison of detectors on a video. The reference is the full model, run by this process on every frame.

    ``server-only`` asks about every frame and waits for the reply, so its answers are as late as link and server are.
    ``device-only`` runs the base model on every frame.
    """

    link = "lte"
    files = ("demo.png", "demo.mp4")

    def __init__(self, options: Options, bundle: Bundle) -> None:
        super().__init__(options, bundle)
        self._clip = Path(options.stream).resolve() if options.stream else CLIP
        self._reference: list[Detections] = []

    def prepare(self, scratch: Path, console: Console) -> tuple[Path, Setting]:  # noqa: ARG002
        """Run the full model on every frame of the video."""
        manifest, video = self.bundle.manifest, open_video(self._clip)
        name = manifest.only("full")
        model = manifest.models[name]
        assert model.decoder is not None  # the manifest was checked
        session = Session(self.bundle.path(name), "cpu", default_threads())
        detect = Detector(session.run_all, model.input, model.decoder)
        console.print(f"Finding the objects of the full model in {self._clip.name}.")
        pictures = (frame.picture for frame in video.frames())
        self._reference = [detect(picture) for picture in islice(pictures, self.options.frames or _FRAMES)]
        found = len(self._reference)
        if found < max(2, self.options.frames or 0):
            raise UserError(f"{shown(self._clip)} has {found} frames; give a longer video, or fewer --frames")
        return self._clip, self.setting(self._clip.name, found, self.options.fps or video.fps)

    def environment(self, policy: str) -> dict[str, str]:
        return {
            CACHENET: {"CACHENET_SAVE": str(self.options.out / "demo.mp4")},
            SERVER: {"CACHENET_LEVELS": "cloud", "CACHENET_MODE": "wait", "CACHENET_DEADLINE_MS": str(_DEADLINE_MS)},
            DEVICE: {"CACHENET_LEVELS": "base"},
        }[policy]

    def lines(self, policy: str, lines: list[AnswerLine]) -> list[AnswerLine]:
        # ``device-only`` cannot ask, so the base model answers whatever its risk is.
        return with_level(lines, self.bundle.manifest.only("base"), "base") if policy == DEVICE else lines

    def outcome(self, policy: str, runs: Mapping[str, Run], setting: Setting) -> ObjectOutcome:
        run = runs[policy]
        return ObjectOutcome(
            **measures(run, setting.frames),
            streaming_f1=pooled_f1(self._counts(run, setting)),
            asked=0.0 if policy == DEVICE else round(run.summary.asked, 4),
        )

    def table(self, outcomes: Mapping[str, Outcome]) -> Table:
        return table(_objects(outcomes))

    def ranking(self, outcomes: Mapping[str, Outcome], setting: Setting) -> str:
        return ranking(setting, _objects(outcomes))

    def draw(self, path: Path, runs: Mapping[str, Run], outcomes: Mapping[str, Outcome], setting: Setting) -> None:
        from cachenet.simulator.live import detection_picture

        counts = {policy: self._counts(runs[policy], setting) for policy in outcomes}
        chosen = detection_picture.shown_frames(setting.frames)
        frames = enumerate(islice(open_video(self._clip).frames(), chosen[-1] + 1))
        pictures = {number: frame.picture for number, frame in frames if number in chosen}
        own = _objects(outcomes)[CACHENET]
        text = (
            f"Streaming F1 {own.streaming_f1:.2f} with {own.asked:.0%} of {own.frames} frames asked; "
            f"{own.latency_ms['mean']:.1f} ms a frame on the device"
        )
        detection_picture.draw(path, runs[CACHENET].lines, text, own, counts, pictures, setting)

    def _counts(self, run: Run, setting: Setting) -> StreamingCounts:
        """Counts of a run against the full model."""
        return counts_of(run.lines, self._reference, self.bundle.manifest.labels, setting.fps)


def open_video(path: Path) -> Video:
    """Open a video. Raises ``UserError``."""
    try:
        return Video(path)
    except (OSError, BadVideo) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{shown(path)}: {reason}; a detector needs a video") from None


def _objects(outcomes: Mapping[str, Outcome]) -> dict[str, ObjectOutcome]:
    return {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, ObjectOutcome)}


def counts_of(
    lines: Sequence[AnswerLine], reference: Sequence[Detections], labels: Sequence[str], fps: float
) -> StreamingCounts:
    """Counts of an agent's answers, one for each frame, each as late as its latency; see ``streaming_counts``.

    Args:
        reference: The full model's objects of each frame.
        labels: Labels of the bundle.
    """
    ordered = sorted(lines, key=lambda line: line.frame)
    delays_s = np.array([line.latency_ms for line in ordered]) / 1000
    return streaming_counts([_detections(line, labels) for line in ordered], delays_s, reference, 1 / fps)


def _detections(line: AnswerLine, labels: Sequence[str]) -> Detections:
    objects = line.objects or ()
    boxes = corners([own.box for own in objects])
    numbers = [labels.index(own.label) for own in objects]
    return checked(boxes, numbers, [own.confidence for own in objects], len(labels))


def table(outcomes: Mapping[str, ObjectOutcome]) -> Table:
    """The table, one row a policy."""
    columns = ("streaming\nF1", "frames\nasked", "kB\nup", "mean ms\na frame", "p95 ms\na frame")
    rows = {
        name: (
            f"{of.streaming_f1:.3f}",
            f"{of.asked:.0%}",
            f"{of.bytes_up / 1000:,.0f}",
            *(f"{of.latency_ms[key]:.1f}" for key in ("mean", "p95")),
        )
        for name, of in outcomes.items()
    }
    return policy_table(columns, rows)


def ranking(setting: Setting, outcomes: Mapping[str, ObjectOutcome]) -> str:
    """The ranking of CacheNet with the settings, in a sentence."""
    compared = [name for name in (SERVER, DEVICE) if name in outcomes]
    if CACHENET not in outcomes or not compared:
        return f"There is no ranking ({setting})."
    own, best = outcomes[CACHENET], max(compared, key=lambda name: outcomes[name].streaming_f1)
    better = f"the better of {SERVER} and {DEVICE} is {best}, with" if len(compared) > 1 else f"that of {best} is"
    return (
        f"CacheNet asks about {own.asked:.0%} of the frames, and its streaming F1 is {own.streaming_f1:.3f}; "
        f"{better} {outcomes[best].streaming_f1:.3f} ({setting})."
    )
