"""A camera before and after its server has trained a submodel for it: real broker, server and agents, one video.

The camera plays the first part of the video, and the server collects what it asks about. While the server trains, a
second camera of another name plays the last part: it is not proven for, so it shows the device without the update, and
how fast the server answers meanwhile. Then the camera plays the last part with the update.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from cachenet.cloud_server.finetune.request_history import MIN_DETECTOR_FRAMES
from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.detect.detections import Detections, object_errors, pooled_f1
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Picture, encode, wire_picture
from cachenet.simulator.live.answer_times import AnswerTimes
from cachenet.simulator.live.compare import start_cloud, start_link
from cachenet.simulator.live.detection import counts_of, open_video
from cachenet.simulator.live.outcome import Summary, read_lines
from cachenet.simulator.live.task import Options
from cachenet.simulator.world import link_profiles
from cachenet.simulator.world.processes import Failed, Process, Processes

#: Share of the video that the server may learn from.
_FIRST = 0.48
#: Frames between the two parts, seconds.
_GAP_S = 2.5
#: Frames before the measured ones, in which the camera takes the update, seconds.
_WARM_UP_S = 8.0
#: Least number of frames of a video.
_LEAST = 200
#: Longest training, seconds.
_TRAINING_S = 3600.0
#: Window of the share asked over time, seconds.
_WINDOW_S = 5.0
#: Answer times without a training, for the comparison, seconds.
_QUIET_S = 20.0
CAMERA, CONTROL = "camera", "control"
#: Lines of the server's log that end a training.
_PUBLISHED, _NOT_PROVEN, _FAILED = "an update for", "no update for", "an update is dropped"


class Phase(msgspec.Struct, frozen=True):
    """Measures of an agent's run.

    Attributes:
        asked: Share of the measured frames that the agent asked about without an audit.
        object_error: Mean object error of the measured frames against the full model on every frame.
    """

    name: str
    frames: int
    asked: float
    streaming_f1: float
    object_error: float
    submodels: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A part of the video, as a file for an agent, with the full model's objects; measured from frame ``first`` on."""

    clip: Path
    reference: list[Detections]
    first: int = 0


def learn(options: Options, console: Console) -> dict[str, Any]:
    """Run both cameras, print the table, and write ``learning.json`` and ``learning.png``.

    Raises:
        UserError: Link, bundle or video cannot be used.
        Failed: A process has ended.
        NoMatplotlib: The picture cannot be drawn.
    """
    bundle = Bundle(options.bundle)
    if bundle.manifest.task != "detection" or not options.stream:
        raise UserError("--fine-tune needs a bundle of detectors and a video: give --bundle and --stream")
    link = options.link or "lte"
    link_profiles.load(link)
    video = open_video(Path(options.stream).resolve())
    fps = options.fps or video.fps
    work = options.out / "demo"
    with tempfile.TemporaryDirectory(prefix="cachenet-demo-") as directory, Processes(work / "logs") as processes:
        scratch = Path(directory)
        console.print("Finding the objects of the full model in all frames.")
        first, last, sample = parts(bundle, options, fps, scratch)
        flags = ("--fine-tune", "--work", str(scratch / "updates"))
        broker, server = start_cloud(processes, bundle, *flags)
        world = _World(processes, broker, link, options.seed, fps, scratch, work)
        console.print(f"1. {CAMERA}: the first {len(first.reference)} frames, over {link}.")
        before = world.play(CAMERA, first)
        shutil.copytree(scratch / CAMERA, scratch / CONTROL)
        begun = time.monotonic()
        if not _until(server, ("training for", _PUBLISHED, _FAILED), 30.0):
            raise Failed(f"the camera has asked about fewer than {MIN_DETECTOR_FRAMES} frames; give a longer video")
        console.print(f"2. {CONTROL}: the last {len(last.reference)} frames, while the server trains.")
        with AnswerTimes(broker, bundle, sample) as busy:
            control = world.play(CONTROL, last)
            ended = _until(server, (_PUBLISHED, _NOT_PROVEN, _FAILED), _TRAINING_S)
        minutes = (time.monotonic() - begun) / 60
        with AnswerTimes(broker, bundle, sample) as quiet:
            time.sleep(_QUIET_S)
        runs = {"before": (before, first), CONTROL: (control, last)}
        if _PUBLISHED in ended:
            console.print(f"3. {CAMERA}: the same frames, with the update.")
            runs["after"] = (world.play(CAMERA, last), last)
        labels = bundle.manifest.labels
        phases = [phase(name, *run, part, labels, fps) for name, (run, part) in runs.items()]
        result = {
            "video": Path(options.stream).name,
            "bundle": f"{bundle.manifest.name} {bundle.version}",
            "link": link,
            "fps": fps,
            "training": ended.split("INFO ")[-1].strip() or f"not ended after {minutes:.0f} minutes",
            "minutes": round(minutes, 2),
            "answer_ms": {"training": busy.measures, "quiet": quiet.measures},
            "phases": msgspec.to_builtins(phases),
        }
        console.print(_table(phases))
        console.print(f"Training, {minutes:.1f} minutes: {result['training']}")
        console.print(
            f"Answers of the server, p99: {busy.measures['p99']:.0f} ms while it trained, "
            f"{quiet.measures['p99']:.0f} ms after."
        )
        (options.out / "learning.json").write_text(json.dumps(result, indent=1) + "\n")
        _draw(options.out / "learning.png", runs, labels, fps, result)
        console.print(f"Written: {options.out / 'learning.json'} and {options.out / 'learning.png'}")
    return result


Answered = tuple[list[AnswerLine], Summary]


@dataclass(frozen=True)
class _World:
    """Where the agents run."""

    processes: Processes
    broker: int
    link: str
    seed: int
    fps: float
    scratch: Path
    work: Path

    def play(self, device: str, part: Part) -> Answered:
        """Run an agent over a part of the video; its store stays."""
        directory = self.work / device
        directory.mkdir(parents=True, exist_ok=True)
        answers, summary = directory / f"{part.clip.stem}.jsonl", directory / f"{part.clip.stem}.json"
        answers.unlink(missing_ok=True)
        link, port = start_link(device, self.link, self.seed, self.broker, self.processes)
        agent = self.processes.start(
            f"agent-{device}-{part.clip.stem}",
            "edge_agent",
            *("run", str(part.clip), "--fps", str(self.fps), "--frames", str(len(part.reference))),
            *("--device", device, "--store", str(self.scratch / device), "--output", str(answers)),
            *("--broker", f"mqtt://127.0.0.1:{port}"),
            environment={"CACHENET_SUMMARY": str(summary)},
        )
        while agent.running:
            self.processes.check(but=agent)
            time.sleep(0.1)
        if not agent.succeeded:
            raise agent.failed("failed", f"its log is {agent.log}")
        self.processes.stop(agent)
        self.processes.stop(link)
        return read_lines(answers), msgspec.json.decode(summary.read_bytes(), type=Summary)


def parts(bundle: Bundle, options: Options, fps: float, scratch: Path) -> tuple[Part, Part, bytes]:
    """The first and the last part of the video, and one frame as a device sends it."""
    manifest = bundle.manifest
    name = manifest.only("full")
    model = manifest.models[name]
    assert model.decoder is not None
    session = Session(bundle.path(name), "cpu", len(os.sched_getaffinity(0)))
    detect = Detector(session.run_all, model.input, model.decoder)
    path = Path(options.stream).resolve()
    reference = [detect(frame.picture) for frame in islice(open_video(path).frames(), options.frames)]
    count = len(reference)
    if count < _LEAST:
        raise UserError(f"{path.name} has {count} frames; a training needs {_LEAST} or more")
    end = round(_FIRST * count)
    start = end + round(_GAP_S * fps)
    begin = max(0, start - round(_WARM_UP_S * fps))
    first = Part(_clip(path, range(end), fps, scratch / "first.avi"), reference[:end])
    last = Part(_clip(path, range(begin, count), fps, scratch / "last.avi"), reference[begin:], start - begin)
    picture: Picture = next(iter(open_video(path).frames())).picture
    return first, last, encode(wire_picture(picture, model.input))[1]


def _clip(path: Path, frames: range, fps: float, out: Path) -> Path:
    """Some frames of a video as a file, without loss."""
    writer: cv2.VideoWriter | None = None
    for frame in islice(open_video(path).frames(), frames.start, frames.stop):
        height, width = frame.picture.shape[:2]
        writer = writer or cv2.VideoWriter(str(out), cv2.VideoWriter.fourcc(*"FFV1"), fps, (width, height))
        writer.write(frame.picture)
    assert writer is not None
    writer.release()
    return out


def _until(server: Process, texts: Sequence[str], timeout_s: float) -> str:
    """The first line of the server's log with one of ``texts``; empty after ``timeout_s``."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        for line in server.log.read_text(errors="replace").splitlines():
            if any(text in line for text in texts):
                return line
        if not server.running:
            raise server.failed("ended by itself", f"its log is {server.log}")
        time.sleep(0.2)
    return ""


def asks(line: AnswerLine) -> bool:
    """Whether the agent asked about a frame, or had to wait with the question."""
    return line.level in ("cloud", "fallback")


def phase(
    name: str, lines: Sequence[AnswerLine], summary: Summary, part: Part, labels: Sequence[str], fps: float
) -> Phase:
    counts = counts_of(lines, part.reference, labels, fps)[part.first :]
    measured = sorted(lines, key=lambda line: line.frame)[part.first :]
    return Phase(
        name,
        len(measured),
        round(float(np.mean([asks(line) for line in measured])), 4),
        round(pooled_f1(counts), 4),
        round(float(object_errors(counts).mean()), 4),
        summary.models_pulled,
    )


def _table(phases: Sequence[Phase]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("camera")
    for column in ("frames", "asked", "streaming F1", "object error"):
        table.add_column(column, justify="right")
    titles = {"before": "first part", CONTROL: "last part, without", "after": "last part, with the update"}
    for one in phases:
        cells = (str(one.frames), f"{one.asked:.1%}", f"{one.streaming_f1:.3f}", f"{one.object_error:.3f}")
        table.add_row(titles[one.name], *cells)
    return table


def share_over_time(flags: Sequence[bool], fps: float) -> npt.NDArray[np.float64]:
    """Share of true flags in the last ``_WINDOW_S`` seconds, for each frame ``(n,)``."""
    window = max(1, round(_WINDOW_S * fps))
    sums = np.concatenate([[0], np.cumsum(np.asarray(flags, float))])
    ends = np.arange(1, len(flags) + 1)
    starts = np.maximum(0, ends - window)
    shares: npt.NDArray[np.float64] = (sums[ends] - sums[starts]) / (ends - starts)
    return shares


def _draw(path: Path, runs: dict[str, tuple[Answered, Part]], labels: Sequence[str], fps: float, result: Any) -> None:
    """Write the share asked and F1 over time, before and after the update. Raises ``NoMatplotlib``."""
    from cachenet.edge_agent.outputs.drawing import COLOURS
    from cachenet.simulator.live import picture

    figure = picture.canvas()
    title = "Share of frames asked, before and after the server has trained for this camera"
    figure.text(picture.LEFT, 0.95, title, fontsize=19, fontweight="bold", color=picture.INK)
    figure.text(picture.LEFT, 0.92, str(result["training"])[:150], fontsize=12, color=picture.FAINT)
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"left": 0.065, "right": 0.84, "hspace": 0.12})
    end, ends = 0.0, dict[str, tuple[float, float]]()
    colours = {"before": picture.INK, CONTROL: COLOURS["base"], "after": picture.INK}
    names = {"before": "", CONTROL: "without the update", "after": "with the update"}
    shift = len(runs["before"][1].reference) / fps
    for name, ((lines, _), part) in runs.items():
        ordered = sorted(lines, key=lambda line: line.frame)
        at = np.arange(len(ordered)) / fps + (0.0 if name == "before" else shift)
        shares = share_over_time([asks(line) for line in ordered], fps)
        counts = counts_of(ordered, part.reference, labels, fps)
        window = max(1, round(_WINDOW_S * fps))
        f1 = [pooled_f1(counts[max(0, frame + 1 - window) : frame + 1]) for frame in range(len(counts))]
        for axes, values in ((top, 100 * shares), (bottom, np.array(f1))):
            axes.plot(at, values, color=colours[name], lw=2.2 if name != CONTROL else 1.6)
        ends[name] = (float(shares[-1]) * 100, f1[-1])
        end = max(end, float(at[-1]))
    for place, axes in enumerate((top, bottom)):
        low, high = axes.get_ylim()
        placed = picture.spread({name: both[place] for name, both in ends.items() if names[name]}, 0.08 * (high - low))
        for name, y in placed.items():
            axes.text(
                picture.NAME, y, names[name], transform=axes.get_yaxis_transform(), va="center", fontsize=picture.SMALL,
                color=colours[name],
            )  # fmt: skip
    for axes, label in ((top, f"asked, last {_WINDOW_S:g} s, %"), (bottom, f"F1, last {_WINDOW_S:g} s")):
        axes.axvline(shift, color=picture.FAINT, lw=1, ls="--")
        axes.grid(axis="y", color=picture.GRID)
        axes.set_ylabel(label, fontsize=12, color=picture.INK)
    bottom.set_xlabel("time on camera, s; the training was at the dashed line", fontsize=12, color=picture.INK)
    picture.save(figure, path, (top, bottom), end)
