"""Make classification tasks on real camera clips for ``python -m benchmarks.real``.

    python -m benchmarks.real_tasks --out build/tasks

A zone task is a square region of a static clip. Background subtraction labels every frame. The full model is a small
network, trained on the first part of the clip. The builder's code distils the base model from the full model, on the
first two thirds of the user's footage; the last third is for tuning. The play frames are used for nothing.

An ImageNet task is a complete clip with EfficientNet-Lite2 as the full model and Lite0 as the base model; nothing is
trained. The models of ``ob`` and ``o2`` come from ``--data``. A task whose file exists in ``--out`` is skipped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import torch
from rich.console import Console
from rich.progress import Progress

from cachenet.models.build_config import BuildConfig, key
from cachenet.models.certify import traces
from cachenet.models.data import imagenet
from cachenet.models.data.dataset import Dataset, LabelledFrames
from cachenet.models.export.classifier import PRESETS, Classifier, load_classifier
from cachenet.models.export.export import export
from cachenet.models.export.metadata import format_labels
from cachenet.models.train import label as labelling
from cachenet.models.train import local_networks
from cachenet.models.train.candidates import TrainedModel
from cachenet.models.train.networks import ResNet, Shape
from cachenet.models.train.training import Batch, Epoch, Recipe, fit, label_loss
from cachenet.shared.command import atomic_files
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Picture, crop
from cachenet.shared.media.video import Video

Range = tuple[int, int]  # first frame, end frame (excluded)
Region = tuple[int, int, int, int]  # left, top, width, height in pixels

#: Input of the models that are trained here, without a crop of the region.
INPUT = msgspec.structs.replace(PRESETS["imagenet"], side=96, crop=1.0)
#: Networks: 0.2 million parameters and 8 million multiply-adds, and a twelfth of these multiply-adds.
FULL, BASE = ((16, 32, 64, 96), (1, 1, 1, 1)), ((4, 10, 20), (1, 1, 1))
#: Side of the stem's patches, pixels.
STEM = 4
#: Training of the full model.
RECIPE = Recipe(phases=((40, INPUT.side),), rate=0.05, batch=32, smoothing=0.05)
#: Optimiser steps in an epoch of the full model.
STEPS = 24
_BUILD = BuildConfig("real", views=8, epochs=60, batch=32)
#: Largest shift of the augmentation, pixels.
_SHIFT = 6
#: Largest change of a channel's brightness by the augmentation, as a share.
_BRIGHTNESS = 0.2
#: Noise of the augmentation, grey levels.
_NOISE = 3.0
#: Frames between the base model's training frames and the tuning frames.
_GUARD = 10
#: Difference from the background, in any channel, above which a pixel is foreground, grey levels.
_FOREGROUND = 30
#: Accuracy of a full model on the play frames below which the task is left out.
_MIN_ACCURACY = 0.75
#: Share of foreground pixels below which a region has no position.
_MIN_FOREGROUND = 0.005


@dataclass(frozen=True)
class Clip:
    """A static clip and its ranges of frames.

    Attributes:
        video: File name.
        empty: Frames without people, whose median is the background; without any, all frames.
        train: Training frames of the full model.
        held_out: The user's footage.
        play: Frames of the measurement.
    """

    video: str
    empty: tuple[Range, ...]
    train: Range
    held_out: Range
    play: Range

    @property
    def learn(self) -> Range:
        """Training frames of the base model."""
        first, end = self.held_out
        return first, first + (end - first) * 2 // 3

    @property
    def tune(self) -> Range:
        """Tuning frames."""
        return self.learn[1] + _GUARD, self.held_out[1]


@dataclass(frozen=True)
class Zone:
    """A zone task. The label of a frame is the number of ``thresholds`` that its measure exceeds.

    ``measure``: ``share`` of the region's pixels that are foreground; or ``x`` or ``bottom``, the horizontal centre or
    the lower edge of the largest foreground blob as a share of the region, -1 without foreground.
    """

    name: str
    clip: Clip
    region: Region
    labels: tuple[str, ...]
    measure: Literal["share", "x", "bottom"]
    thresholds: tuple[float, ...]


@dataclass(frozen=True)
class ImageNet:
    """An ImageNet task on complete pictures of a video."""

    name: str
    video: str
    held_out: Range
    play: Range


ONE = Clip(
    "one_by_one_person.mp4",
    ((0, 50), (216, 224), (470, 500), (705, 745), (880, 918), (1210, 1232), (1372, 1394)),
    train=(0, 520),
    held_out=(520, 960),
    play=(960, 1394),
)
WALKERS = Clip("vtest.avi", (), train=(0, 190), held_out=(200, 385), play=(395, 795))
TRAFFIC = Clip("traffic_sequence.mp4", (), train=(0, 110), held_out=(115, 205), play=(215, 350))

ZONES = (
    Zone("ob_table", ONE, (380, 60, 160, 160), ("free", "covered"), "share", (0.2,)),
    Zone("vt_cross", WALKERS, (336, 240, 176, 176), ("none", "some"), "share", (0.015,)),
    Zone("vt_kerb", WALKERS, (560, 320, 176, 176), ("none", "some"), "share", (0.02,)),
    Zone("ob_side", ONE, (336, 0, 432, 432), ("none", "left", "right"), "x", (-0.5, 0.5)),
    Zone("vt_right", WALKERS, (560, 240, 128, 128), ("none", "some"), "share", (0.02,)),
    Zone("ob_path", ONE, (250, 0, 432, 432), ("none", "coming", "at_table", "leaving"), "x", (-0.5, 0.35, 0.62)),
    Zone("vt_centre", WALKERS, (448, 160, 128, 128), ("none", "one", "several"), "share", (0.02, 0.12)),
    Zone("ob_depth", ONE, (168, 0, 432, 432), ("none", "far", "near"), "bottom", (-0.5, 0.97)),
    Zone("vt_path", WALKERS, (112, 160, 176, 176), ("none", "some"), "share", (0.02,)),
    Zone("ob_exit", ONE, (552, 216, 216, 216), ("none", "someone"), "share", (0.05,)),
    Zone("vt_lamp", WALKERS, (224, 80, 128, 128), ("none", "some"), "share", (0.015,)),
    Zone("ob_feet", ONE, (380, 300, 132, 132), ("none", "someone"), "share", (0.05,)),
    Zone("vt_far", WALKERS, (448, 80, 128, 128), ("none", "some"), "share", (0.015,)),
    Zone("traffic_road", TRAFFIC, (64, 256, 128, 128), ("none", "some"), "share", (0.03,)),
)
IMAGENET = (
    ImageNet("vt_imagenet", "vtest.avi", (0, 385), (395, 795)),
    ImageNet("ob_imagenet", "one_by_one_person.mp4", (0, 950), (960, 1394)),
    ImageNet("traffic_imagenet", "traffic_sequence.mp4", (0, 120), (130, 350)),
    ImageNet("bikes_imagenet", "bikes.mp4", (0, 100), (110, 250)),
    ImageNet("carphone_imagenet", "carphone_pristine.mp4", (0, 50), (55, 120)),
    ImageNet("megamind_imagenet", "Megamind.avi", (0, 100), (110, 270)),
)
#: Tasks with existing models: prefix of their files in ``state/``. The base models were trained on held-out frames.
EXISTING = ("ob", "o2")
#: Region of these tasks.
EXISTING_REGION: Region = (168, 0, 432, 432)
#: Clips of Debian's package opencv-doc.
DEBIAN = Path("/usr/share/doc/opencv-doc/examples/data")


def background(pictures: Sequence[Picture], empty: Sequence[Range]) -> Picture:
    """The median of the frames in ``empty``; without any, of all frames."""
    numbers = np.concatenate([np.arange(*one) for one in empty]) if empty else np.arange(0, len(pictures), 5)
    median: Picture = np.median([pictures[number] for number in numbers], axis=0).astype(np.uint8)
    return median


def foreground(picture: Picture, background: Picture) -> npt.NDArray[np.uint8]:
    """1 where ``picture`` differs from ``background``, ``(height, width)``; specks are removed and gaps closed."""
    first, second = (cv2.GaussianBlur(one, (5, 5), 0) for one in (picture, background))
    mask = (cv2.absdiff(first, second).max(2) > _FOREGROUND).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)).astype(np.uint8)
    return cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8)).astype(np.uint8)


def label(mask: npt.NDArray[np.uint8], measure: Literal["share", "x", "bottom"], thresholds: tuple[float, ...]) -> int:
    """The label of a region with the foreground ``mask`` ``(height, width)``; see ``Zone``."""
    height, width = mask.shape
    value = float(mask.mean())
    if measure != "share":
        _, _, blobs, _ = cv2.connectedComponentsWithStats(mask)  # row 0 is the background
        left, top, wide, high, area = max(blobs[1:].tolist(), key=lambda blob: blob[4], default=(0, 0, 0, 0, 0))
        if area < _MIN_FOREGROUND * mask.size:
            value = -1.0
        else:
            value = (left + wide / 2) / width if measure == "x" else (top + high) / height
    return int(np.searchsorted(thresholds, value))


class Task(msgspec.Struct):
    """The keys of a task file; paths are absolute."""

    video: Path
    region: Region
    full: Path
    base: Path
    preprocessing: str
    labels: Path
    held_out: Range
    tune: Range
    play: Range
    truth: Path | None = None


def zone_task(zone: Zone, video: Path, out: Path, threads: int) -> Task:
    """Label the clip, train both models and write them. ``out/work`` keeps finished training runs."""
    clip, pictures = zone.clip, _regions(video, zone.region)
    empty = background(pictures, clip.empty)
    truth = np.array(
        [label(foreground(picture, empty), zone.measure, zone.thresholds) for picture in pictures], np.int64
    )
    no_progress, work = (
        Progress(console=Console(quiet=True)),
        out / "work" / f"{zone.name}-{key(zone, FULL, BASE, RECIPE)}",
    )
    full, base, labels, answers = (
        out / f"{zone.name}_{rest}" for rest in ("full.onnx", "base.onnx", "labels.txt", "truth.csv")
    )
    torch.manual_seed(0)
    network = ResNet(Shape(*FULL, len(zone.labels), STEM))
    first, end = clip.train
    images = np.stack([crop(picture, INPUT)[:, :, ::-1] for picture in pictures[first:end]])
    views = _views(images, truth[first:end], mirrored=zone.measure != "x")
    fit(network, INPUT, RECIPE, views, STEPS, label_loss(RECIPE), work / "full.pt", no_progress, zone.name)
    _export(network, zone, full)
    classifier = load_classifier(full)
    learn, tune = (_part(classifier, pictures[first:end], threads) for first, end in (clip.learn, clip.tune))
    small = TrainedModel("base", "", Shape(*BASE, len(zone.labels), STEM))
    trained = local_networks.train(_BUILD, Dataset(classifier, learn, tune, tune), [small], full, work, no_progress)
    _export(trained["base"], zone, base)
    atomic_files.write(labels, "".join(f"{one}\n" for one in zone.labels).encode())
    atomic_files.write(answers, "".join(f"{one}\n" for one in truth[slice(*clip.play)]).encode())
    return Task(video, zone.region, full, base, "imagenet", labels, clip.held_out, clip.tune, clip.play, answers)


def imagenet_task(task: ImageNet, video: Path, out: Path) -> Task:
    """Write the labels' names. All held-out frames are for tuning: nothing was trained on them."""
    full, base, labels = out / "imagenet" / "full.onnx", out / "imagenet" / "base.onnx", out / "imagenet_labels.txt"
    atomic_files.write(labels, "".join(f"{one}\n" for one in load_classifier(full).labels).encode())
    height, width = next(Video(video).frames()).picture.shape[:2]
    region = (0, 0, width, height)
    return Task(video, region, full, base, "efficientnet-lite", labels, task.held_out, task.held_out, task.play)


def existing_task(name: str, video: Path, state: Path) -> Task:
    """A task with the models of ``--data``, whose base model was trained on the first part of the user's footage."""
    full, base, labels, truth = (
        state / f"{name}_{rest}" for rest in ("full.onnx", "base.onnx", "labels.txt", "truth_play.csv")
    )
    return Task(video, EXISTING_REGION, full, base, "imagenet", labels, ONE.held_out, ONE.tune, ONE.play, truth)


def _regions(video: Path, region: Region) -> list[Picture]:
    x, y, width, height = region
    return [frame.picture[y : y + height, x : x + width].copy() for frame in Video(video).frames()]


def _views(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], mirrored: bool) -> Epoch:
    """Batches of augmented images ``(n, 96, 96, 3)``; a label is drawn with the square root of its frequency."""
    weights = 1 / np.sqrt(np.bincount(labels)[labels])

    def view(image: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """The image shifted, with other brightness of each channel, with noise, and perhaps mirrored."""
        (height, width), (down, right) = image.shape[:2], rng.integers(0, 2 * _SHIFT + 1, 2)
        padded = np.pad(image, ((_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0)), mode="edge")
        shifted = padded[down : down + height, right : right + width]
        if mirrored and rng.random() < 0.5:
            shifted = shifted[:, ::-1]
        brightness = rng.uniform(1 - _BRIGHTNESS, 1 + _BRIGHTNESS, 3)
        return np.clip(shifted * brightness + _NOISE * rng.standard_normal(shifted.shape), 0, 255).astype(np.uint8)

    def epoch(_number: int, rng: np.random.Generator) -> Iterator[Batch]:
        for _ in range(STEPS):
            rows = rng.choice(len(images), RECIPE.batch, p=weights / weights.sum())
            yield np.stack([view(images[row], rng) for row in rows]), torch.from_numpy(labels[rows])

    return epoch


def _part(classifier: Classifier, pictures: Sequence[Picture], threads: int) -> LabelledFrames:
    """``pictures`` with the full model's scores, as the builder labels them."""
    found = labelling.look(classifier, pictures, threads)
    images = np.ascontiguousarray(found.pictures[:, :, :, ::-1])
    return LabelledFrames(images, found.scores, found.embeddings, None, (np.arange(len(found)),), classifier.input)


def _export(network: ResNet, zone: Zone, path: Path) -> None:
    """Write ``network`` as ONNX: input ``image`` (n, 3, 96, 96), output logits."""
    export(network.eval(), path, {"labels": format_labels(zone.labels), "input": msgspec.json.encode(INPUT).decode()})
    model = onnx.load(str(path))
    for size in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        size.dim_value = INPUT.side
    atomic_files.write(path, model.SerializeToString(deterministic=True))


def describe(task: Task, threads: int) -> str:
    """Run both models on the tuning and play frames; return a description. Raises ``UserError`` if unusable."""
    pictures = _regions(task.video, task.region)
    answers = []
    for path in (task.full, task.base):
        spec = INPUT if task.preprocessing == "imagenet" else load_classifier(path).input
        session = Session(path, "cpu", threads)
        answers.append(
            [traces.run_model(session, spec, pictures[slice(*one)]).argmax(1) for one in (task.tune, task.play)]
        )
    (full_tune, full), (base_tune, base) = answers
    accuracy = ""
    if task.truth is not None:
        truth = np.array([int(line) for line in task.truth.read_text().split()])
        right = float((full == truth).mean())
        names = task.labels.read_text().splitlines()
        if missing := [name for number, name in enumerate(names) if not (truth == number).any()]:
            raise UserError(f"never in play: {', '.join(missing)}")
        if right < _MIN_ACCURACY:
            raise UserError(f"the full model is right on {right:.1%} of play frames only")
        accuracy = f", right on {right:.1%}"
    return (
        f"{len(full)} play frames, the full model's answer changes on {(np.diff(full) != 0).mean():.1%}{accuracy}; the "
        f"base model agrees on {(full_tune == base_tune).mean():.1%} in tune and {(full == base).mean():.1%} in play"
    )


def toml(task: Task, out: Path) -> str:
    """The task file; paths in ``out`` are relative to ``out``."""
    lines = []
    for name in task.__struct_fields__:
        value = getattr(task, name)
        if isinstance(value, Path):
            value = str(value.relative_to(out) if value.is_relative_to(out) else value)
        if value is not None:
            lines.append(f"{name} = {msgspec.json.encode(value).decode()}\n")
    return "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of the tasks")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="directory with state/ and videos/")
    parser.add_argument("--videos", type=Path, help="directory of further videos, searched first")
    parser.add_argument("--threads", type=int, default=1, help="threads of models and training")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    out, data = chosen.out.resolve(), chosen.data.resolve()
    try:
        imagenet.fetch(out / "imagenet")
    except imagenet.FetchError as error:
        print(f"some videos or ImageNet models are missing: {error}", file=sys.stderr)
    directories = [data / "videos", out / "imagenet" / "videos", DEBIAN]
    if chosen.videos is not None:
        directories.insert(0, chosen.videos.resolve())

    makers: list[tuple[str, str, Callable[[Path], Task]]] = [
        *((name, ONE.video, partial(existing_task, name, state=data / "state")) for name in EXISTING),
        *((zone.name, zone.clip.video, partial(zone_task, zone, out=out, threads=chosen.threads)) for zone in ZONES),
        *((one.name, one.video, partial(imagenet_task, one, out=out)) for one in IMAGENET),
    ]
    with Progress(console=Console(stderr=True)) as progress:
        for name, video, make in progress.track(makers, description="tasks"):
            if not (out / f"{name}.toml").exists():
                found = next((directory / video for directory in directories if (directory / video).exists()), None)
                outcome = f"left out, {video} is missing; give --videos"
                if found is not None:
                    outcome = _make(name, found, make, out, chosen.threads)
                print(f"{name}: {outcome}")
                sys.stdout.flush()


def _make(name: str, video: Path, make: Callable[[Path], Task], out: Path, threads: int) -> str:
    """Make the task and write its file; return a description."""
    try:
        task = make(video)
        description = describe(task, threads)
    except (OSError, UserError) as error:
        return f"left out, {error}"
    atomic_files.write(out / f"{name}.toml", toml(task, out).encode())
    return description


if __name__ == "__main__":
    main()
