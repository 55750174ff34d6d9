"""The task file: a video, a region, a full model, a base model, and ranges of frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from cachenet.shared.command import config
from cachenet.shared.command.errors import UserError

#: First frame and end of a range of frames, end excluded.
Range = tuple[int, int]


class TaskError(UserError):
    """The task cannot be measured. The message, one line, names the file and the reason."""


class _Keys(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of a task file. Paths are relative to the file."""

    video: str
    full: str
    base: str
    preprocessing: str
    held_out: Range
    play: Range
    tune: Range | None = None
    region: tuple[int, int, int, int] | None = None
    labels: str | None = None
    truth: str | None = None


@dataclass(frozen=True)
class Task:
    """One task. Video and models are not checked yet.

    Attributes:
        name: The task file's name without its suffix.
        file: The task file.
        video: A video file.
        region: Left, top, width and height of the models' part of a frame, pixels; None: the whole frame.
        full: The full model, ONNX.
        base: The base model (the student), ONNX.
        preprocessing: A preset of ``models.export.classifier``, or JSON.
        labels: Names of the labels in the order of the scores; empty if the task file has none.
        truth: True label index of each play frame ``(n,)``, or None.
        held_out: The user's footage, disjoint from ``play``, from which the base model and the risk model were learned.
        tune: Frames on which the thresholds of the trivial policies are chosen.
        play: Frames of the measurement.
    """

    name: str
    file: Path
    video: Path
    region: tuple[int, int, int, int] | None
    full: Path
    base: Path
    preprocessing: str
    labels: tuple[str, ...]
    truth: npt.NDArray[np.int64] | None
    held_out: Range
    tune: Range
    play: Range


def load(file: Path) -> Task:
    """Read a task file. Raises ``TaskError``."""
    try:
        keys = config.load(_Keys, {}, file, environment={})
    except config.ConfigError as error:
        why = str(error)
        if why.startswith("--"):  # a required setting: here a key of the file, not a flag
            why = why.removeprefix("--").replace("-", "_")
        raise TaskError(why if why.startswith(str(file)) else f"{file}: {why}") from None
    try:
        return _checked(file, keys)
    except TaskError as error:
        raise TaskError(f"{file}: {error}") from None


def _checked(file: Path, keys: _Keys) -> Task:
    first, end = keys.held_out
    tune = keys.tune or (end - max(1, (end - first) // 3), end)
    ranges = {"held_out": keys.held_out, "tune": tune, "play": keys.play}
    for key, (first, end) in ranges.items():
        if not 0 <= first < end:
            raise TaskError(f"{key} = [{first}, {end}] is no range of frames; give [first, end] with 0 <= first < end")
    for key in ("held_out", "tune"):
        if max(ranges[key][0], keys.play[0]) < min(ranges[key][1], keys.play[1]):
            raise TaskError(f"{key} {list(ranges[key])} and play {list(keys.play)} overlap")
    if keys.region is not None and (min(keys.region[:2]) < 0 or min(keys.region[2:]) < 1):
        raise TaskError(f"region = {list(keys.region)} is no region; give [x, y, width, height] in pixels")
    paths = {key: _existing(file, key, getattr(keys, key)) for key in ("video", "full", "base")}
    labels: tuple[str, ...] = ()
    if keys.labels is not None:
        labels = tuple(line.strip() for line in _lines(_existing(file, "labels", keys.labels), "labels"))
    return Task(
        name=file.stem,
        file=file,
        region=keys.region,
        preprocessing=keys.preprocessing,
        labels=labels,
        truth=None if keys.truth is None else _truth(_existing(file, "truth", keys.truth), keys.play, len(labels)),
        held_out=keys.held_out,
        tune=tune,
        play=keys.play,
        **paths,
    )


def _existing(file: Path, key: str, name: str) -> Path:
    path = file.parent / name
    if not path.is_file():
        raise TaskError(f"{key}: {path} is {'no file' if path.exists() else 'not there'}")
    return path


def _lines(path: Path, key: str) -> list[str]:
    try:
        return path.read_text("utf-8").strip().splitlines()
    except OSError as error:
        raise TaskError(f"{key}: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TaskError(f"{key}: {path} is no text file") from None


def _truth(path: Path, play: Range, labels: int) -> npt.NDArray[np.int64]:
    """True labels of the play frames; ``labels``: number of labels, 0 if unknown."""
    found = []
    for number, line in enumerate(_lines(path, "truth"), 1):
        if not line.strip().isdecimal() or (labels and int(line) >= labels):
            raise TaskError(f"truth: {path}, line {number}: {line[:40]!r} is no label index")
        found.append(int(line))
    if len(found) != play[1] - play[0]:
        raise TaskError(f"truth: {path} has {len(found)} lines for {play[1] - play[0]} play frames")
    return np.array(found, np.int64)
