"""The streams: zones of real clips, and CIFAR-10."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import real_tasks
from benchmarks.literature.learned_offloading.answers import FRAMES, Answers, Stream, record, stream
from benchmarks.literature.row import Inputs
from benchmarks.real import task
from cachenet.models.data import cifar10, streams
from cachenet.models.export import metadata
from cachenet.models.export.classifier import load_classifier, parse_preprocessing
from cachenet.models.export.onnx_file import load, properties
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command import atomic_files
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.engine import Session
from cachenet.shared.media.video import Video

#: Side of the picture in a question about a zone, pixels; that of the stand-in for the full model.
_SIDE = 224
#: Streams of CIFAR-10.
_CIFAR: tuple[streams.StreamName, ...] = ("dwell", "camera")
#: Frames of such a stream in a smoke run.
_FEW = 60
_DIRECTORIES = (Path("videos"), real_tasks._DEBIAN)


def zone(name: str, inputs: Inputs) -> Stream:
    """The stream of a task of ``benchmarks.real_tasks``; its models are trained if they are not there."""
    made = task.load(_task_file(name, inputs))
    first, last = made.held_out[0], made.play[1]
    path = inputs.work / "answers" / f"{name}.npz"
    if (answers := _cached(path)) is None:
        inputs.say(f"{name}: the models run over {last - first} frames")
        x, y, width, height = made.region or (0, 0, 10**6, 10**6)
        pictures = [
            frame.picture[y : y + height, x : x + width].copy()
            for number, frame in enumerate(Video(made.video).frames())
            if first <= number < last
        ]
        full = load_classifier(made.full, parse_preprocessing(made.preprocessing)).input
        base = metadata.read_preprocessing(made.base.name, properties(load(made.base))) or full
        sessions = Session(made.full, "cpu"), Session(made.base, "cpu")
        answers = record(pictures, (sessions[0], full), (sessions[1], base), _SIDE)
        _save(path, answers)
    parts = [answers.part(begin - first, end - first) for begin, end in (made.held_out, made.tune, made.play)]
    return stream(name, *parts)


def cifar(inputs: Inputs, measured: bool, seed: int) -> list[Stream]:
    """Streams of CIFAR-10: of one half of the test images for training, of the other half if ``measured``. The risk
    models are fitted to a stream of the training half."""
    bundle, found = Bundle(Path("models/zoo/cifar10")), []
    frames = _FEW if inputs.smoke else FRAMES
    for kind in _CIFAR[: 1 if inputs.smoke else None]:
        fitted = _cifar_answers(inputs, bundle, kind, half=0, seed=10_000, frames=frames)
        play = _cifar_answers(inputs, bundle, kind, half=int(measured), seed=seed, frames=frames)
        found.append(stream(f"cifar10 {kind}", fitted, fitted, play))
    return found


def _cifar_answers(
    inputs: Inputs, bundle: Bundle, kind: streams.StreamName, half: int, seed: int, frames: int
) -> Answers:
    path = inputs.work / "answers" / f"cifar10-{kind}-{half}-{seed}-{frames}.npz"
    if (answers := _cached(path)) is not None:
        return answers
    inputs.say(f"cifar10 {kind}: the models run over {frames} frames")
    test = cifar10.load().test
    split = test.take(np.arange(half, len(test), 2))
    draw = streams.renderer(streams.schedule(kind, split.labels, seed, frames), split.images)
    models = bundle.manifest.models
    full, base = (bundle.manifest.only("full"), bundle.manifest.only("base"))
    sessions = [(Session(bundle.path(name), "cpu"), models[name].input) for name in (full, base)]
    answers = record([draw(number) for number in range(frames)], sessions[0], sessions[1], models[full].input.side)
    _save(path, answers)
    return answers


def _task_file(name: str, inputs: Inputs) -> Path:
    out = (inputs.work / "tasks").resolve()
    file = out / f"{name}.toml"
    if file.exists():
        return file
    torch.set_num_threads(1)
    make: Callable[[Path], real_tasks.Task]
    if name in real_tasks.EXISTING:
        clip, make = real_tasks.ONE, partial(real_tasks.existing_task, name, state=inputs.data.resolve() / "state")
    else:
        [own] = [one for one in real_tasks.ZONES if one.name == name]
        inputs.say(f"{name}: the full and the base model are trained")
        clip, make = own.clip, partial(real_tasks.zone_task, own, out=out, threads=1)
    videos = [inputs.data.resolve() / directory / clip.video for directory in _DIRECTORIES]
    video = next((path for path in videos if path.exists()), None)
    if video is None:
        raise UserError(f"{clip.video} is in none of {', '.join(str(path.parent) for path in videos)}")
    atomic_files.write(file, real_tasks.toml(make(video), out).encode())
    return file


def _cached(path: Path) -> Answers | None:
    if not path.exists():
        return None
    with np.load(path) as arrays:
        return Answers(**arrays)


def _save(path: Path, answers: Answers) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{name: getattr(answers, name) for name in Answers.__dataclass_fields__})
