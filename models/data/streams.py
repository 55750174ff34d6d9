"""The seeded, named streams that every report, benchmark and demo uses, and no others.

- ``shuffled``: independent images of all classes; no locality.
- ``session``: a working set of 3 to 5 classes, its *scene*, that changes every 500 frames or so; Zipf within it,
  images independent, 5 % *strangers* from outside it.
- ``dwell``: as ``session``, but what comes stays for a geometric time of mean 30 frames, in ever new images of its
  class.
- ``held``: as ``dwell``, but one image stays, shifted by up to 2 pixels and noised from frame to frame.
- ``camera``: the images of ``held`` before a 640x480 camera: slow drift, sensor noise, pauses and real cuts.

A *plan* says what every frame shows and is cheap even for a million frames; pixels are drawn one frame at a time.
Every random quantity has a generator of its own that depends on the seed alone. So a shorter plan is the beginning of
a longer one, and ``dwell``, ``held`` and ``camera`` of one seed show the same classes at the same times.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from cachenet.models.data.camera import (
    HEIGHT,
    NOISE,
    WIDTH,
    SensorNoise,
    background,
    compose,
    enlarge,
)
from cachenet.models.data.cifar10 import Images, Labels
from cachenet.models.data.scenes import CLASSES, SCENES
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.image import Picture
from cachenet.shared.media import recording as stream

Name = Literal["shuffled", "session", "dwell", "held", "camera"]
NAMES: tuple[Name, ...] = get_args(Name)
Index = npt.NDArray[np.int64]
#: Indices ``(n,)`` of the images that a stream may show.
Pool = npt.NDArray[np.int64]

#: What a recording plays at, frames a second.
FPS = 30.0
DWELL = 30  # mean, frames
_VISIT, _JITTER = 500, 200  # frames from one change of scene to the next, and the width of its spread
#: Share of objects that are not of the scene.
STRANGERS = 0.05
_PAUSE = 20  # mean of a pause, and of the movement between two, frames
_SHIFT = 2  # of ``held``, thumbnail pixels either way
_TABLE = tuple(one.classes for one in SCENES)
# Two slow sines an axis: 24 frame pixels (1.6 of the thumbnail) at most, under one a frame.
_DRIFT = ((18.0, 211.0), (6.0, 89.0))  # amplitude in frame pixels, period in frames


@dataclass(frozen=True, eq=False)
class StreamSchedule:
    """What every frame of a stream shows; all arrays ``(frames, ...)``.

    ``source``: index of the image. ``label``: its true class. ``dwell``: number of the stay it belongs to, from 0; two
    stays that follow one another may be of the same class, as two cats in a row. ``scene``: number in ``SCENES``, -1
    without. ``stranger``: its class is not of the scene. ``offset``: shift ``(frames, 2)`` right and down, in
    thumbnail pixels for ``held``, frame pixels for ``camera``. ``pause``: the object has not moved since the frame
    before, unless that was another object. ``noise``: seed of the frame's noise.
    """

    name: Name
    seed: int
    source: Index
    label: Labels
    dwell: Index
    scene: Index
    stranger: npt.NDArray[np.bool_]
    offset: npt.NDArray[np.float32]
    pause: npt.NDArray[np.bool_]
    noise: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.source)

    def cuts(self) -> npt.NDArray[np.bool_]:
        """Whether a frame is the first of its dwell, ``(frames,)``."""
        return np.diff(self.dwell, prepend=-1) > 0


class UnknownStream(UserError, ValueError):
    """There is no stream of that name."""


def named(name: str) -> Name:
    """``name``, if a stream is called that. Raises ``UnknownStream``."""
    for known in NAMES:
        if name == known:
            return known
    raise UnknownStream(f"no stream {name!r}; there are {', '.join(NAMES)}")


def pools(labels: Labels, count: int, seed: int) -> list[Pool]:
    """Split the images into ``count`` disjoint pools, each with its share of every class (to within one image)."""
    rng = np.random.default_rng(seed)
    parts = [np.array_split(rng.permutation(np.flatnonzero(labels == c)), count) for c in np.unique(labels)]
    return [np.sort(np.concatenate(part)) for part in zip(*parts, strict=True)]


def plan(
    name: Name,
    labels: Labels,
    seed: int,
    frames: int,
    pool: Pool | None = None,
    scenes: Sequence[int] = range(len(SCENES)),
    table: Sequence[Sequence[int]] = _TABLE,
    classes: int = CLASSES,
    dwell: int = DWELL,
) -> StreamSchedule:
    """Draw a stream of images from ``pool`` (by default all) of a set with true ``labels`` ``(n,)``.

    ``scenes``: numbers in ``table``, the classes of each scene, of those it may visit. ``dwell``: for how many
    frames an object stays on average, where it does. Raises ``ValueError`` for an unknown name or if the pool lacks a
    class.
    """
    named(name)
    if frames < 1 or not scenes:
        raise ValueError("a stream needs a frame and a scene at least")
    mean = dwell if name in ("dwell", "held", "camera") else 1
    # To start anew with a constant chance at every frame is to stay for a geometric time.
    fresh = _uniform(seed, "dwell", frames) < 1 / mean
    fresh[0] = True
    stay = np.cumsum(fresh) - 1
    start = np.flatnonzero(fresh)
    if name == "shuffled":
        scene = np.full(len(start), -1)
        stranger = np.zeros(len(start), np.bool_)
        label = _pick(_uniform(seed, "class", len(start)), classes)
    else:
        scene, stranger, label = _objects(seed, start, np.asarray(scenes), table, classes)

    offset = np.zeros((frames, 2), np.float32)
    pause = np.zeros(frames, np.bool_)
    noise = np.zeros(frames, np.uint32)
    if name == "held":
        offset += _pick(_uniform(seed, "shift", (frames, 2)), 2 * _SHIFT + 1) - _SHIFT
    if name == "camera":
        pause = np.cumsum(_uniform(seed, "pause", frames) < 1 / _PAUSE) % 2 == 1
        offset = _drift(pause, stay, _uniform(seed, "drift", (len(start), 2, len(_DRIFT))))
    if name in ("held", "camera"):
        noise = (_uniform(seed, "noise", frames) * 2**32).astype(np.uint32)
        shown = _uniform(seed, "image", len(start))[stay]
    else:
        shown = _uniform(seed, "image", frames)
    source = _images(labels, np.arange(len(labels)) if pool is None else pool, label[stay], shown, classes)
    return StreamSchedule(name, seed, source, label[stay], stay, scene[stay], stranger[stay], offset, pause, noise)


def renderer(plan: StreamSchedule, images: Images) -> Callable[[int], Picture]:
    """The way from a frame's number to its picture, BGR: 640x480 for ``camera``, the images' own size
    for the others.

    ``images``: ``(n, height, width, 3)`` RGB, those whose labels the plan was drawn from.
    """

    def thumbnail(source: int) -> Picture:
        return np.ascontiguousarray(images[source, :, :, ::-1])

    if plan.name == "held":
        return _held(plan, thumbnail)
    if plan.name == "camera":
        return _camera(plan, thumbnail)
    return lambda index: thumbnail(plan.source[index])


def record(
    plan: StreamSchedule,
    images: Images,
    directory: Path,
    labels: Sequence[str],
    progress: Callable[[int], object] = lambda _done: None,
) -> stream.Recording:
    """Write the stream into ``directory``, new or empty. ``labels``: names of the classes. ``progress`` hears the
    number of frames done after each. Raises ``shared.media.recording.StreamError``."""
    recording = stream.Recording(
        name=plan.name,
        seed=plan.seed,
        frames=len(plan),
        fps=FPS,
        labels=tuple(labels),
        truth=tuple(plan.label.tolist()),
        files="%06d.jpg" if plan.name == "camera" else "%06d.png",
    )
    render = renderer(plan, images)

    def pictures() -> Iterator[Picture]:
        for index in range(len(plan)):
            yield render(index)
            progress(index + 1)

    stream.write(directory, recording, pictures())
    return recording


def _held(plan: StreamSchedule, thumbnail: Callable[[int], Picture]) -> Callable[[int], Picture]:
    height, width = thumbnail(0).shape[:2]
    sensor = SensorNoise(height, width, NOISE, plan.seed)
    scale = max(1, min(height, width) // 32)
    edge = _SHIFT * scale

    def render(index: int) -> Picture:
        padded = np.pad(thumbnail(plan.source[index]), ((edge, edge), (edge, edge), (0, 0)), "reflect")
        left, top = (edge - scale * plan.offset[index]).astype(int)
        return sensor.add(padded[top : top + height, left : left + width], int(plan.noise[index]))

    return render


def _camera(plan: StreamSchedule, thumbnail: Callable[[int], Picture]) -> Callable[[int], Picture]:
    sensor = SensorNoise(HEIGHT, WIDTH, NOISE, plan.seed)
    place = lru_cache(16)(lambda scene: background(plan.seed, scene))
    enlarged = lru_cache(2)(lambda source: enlarge(thumbnail(source)))

    def render(index: int) -> Picture:
        frame = compose(place(int(plan.scene[index])), enlarged(int(plan.source[index])), plan.offset[index])
        return sensor.add(frame, int(plan.noise[index]))

    return render


def _uniform(seed: int, quantity: str, shape: int | tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) of the quantity's own generator. Everything is drawn from these alone, the draw of NumPy
    least likely ever to change."""
    return np.random.default_rng([seed, zlib.crc32(quantity.encode())]).random(shape)


def _pick(uniform: npt.NDArray[np.float64], count: int | Index) -> Index:
    """Numbers in 0..count-1, all equally likely."""
    return (uniform * count).astype(np.int64)


def _objects(
    seed: int, start: Index, scenes: Index, table: Sequence[Sequence[int]], classes: int
) -> tuple[Index, npt.NDArray[np.bool_], Labels]:
    """Scene, stranger and class of the objects that come at the frames ``start``. An object belongs to the scene that
    it came in, so a scene's last object is not cut short and dwells stay geometric."""
    ends = _VISIT * np.arange(1, start[-1] // _VISIT + 3)
    ends += _pick(_uniform(seed, "visit", len(ends)), _JITTER) - _JITTER // 2
    visit = np.searchsorted(ends, start, side="right")

    # Begin anywhere, then step on by anything but a full turn: the next scene is always another one.
    where = _uniform(seed, "scene", len(ends) + 1)
    steps = 1 + _pick(where, max(1, len(scenes) - 1))
    steps[0] = _pick(where, len(scenes))[0]
    scene_of_visit = scenes[np.cumsum(steps) % len(scenes)]
    scene = scene_of_visit[visit]

    size = np.array([len(one) for one in table])
    # Per scene its classes, then all others: ``ranked`` shuffles the former anew for each visit.
    order = np.array([[*one, *(c for c in range(classes) if c not in one)] for one in table])
    places = np.arange(size.max())
    absent = places >= size[scene_of_visit][:, None]
    ranked = np.argsort(_uniform(seed, "rank", (len(ends) + 1, len(places))) + absent, axis=1)
    zipf = np.cumsum(np.where(places < size[:, None], 1 / (1 + places), 0), axis=1)
    drawn = _uniform(seed, "class", len(start)) * zipf[scene, -1]
    rank = np.sum(drawn[:, None] >= zipf[scene], axis=1)

    stranger = _uniform(seed, "stranger", len(start)) < STRANGERS
    other = size[scene] + _pick(_uniform(seed, "other", len(start)), classes - size[scene])
    return scene, stranger, order[scene, np.where(stranger, other, ranked[visit, rank])]


def _drift(pause: npt.NDArray[np.bool_], dwell: Index, phases: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Offsets ``(frames, 2)`` from the phases ``(dwells, 2, sines)`` at which each object comes in."""
    moved = np.cumsum(~pause)  # an object's clock stands while it pauses
    turns = [moved[:, None] / period + phases[dwell, :, i] for i, (_, period) in enumerate(_DRIFT)]
    offset = sum(amplitude * np.sin(2 * np.pi * turn) for (amplitude, _), turn in zip(_DRIFT, turns, strict=True))
    # To the 32nd of a pixel, which is what OpenCV interpolates to, and the same whatever machine's sine it was.
    return (np.rint(offset * 32) / 32).astype(np.float32)


def _images(labels: Labels, pool: Pool, wanted: Labels, uniform: npt.NDArray[np.float64], classes: int) -> Index:
    """For each frame an image of the class ``wanted`` from ``pool``."""
    ordered = np.sort(pool)[np.argsort(labels[np.sort(pool)], kind="stable")]
    first = np.searchsorted(labels[ordered], np.arange(classes + 1))
    count = np.diff(first)
    if not count.all():
        raise ValueError(f"the pool has no image of class {int(np.argmin(count))}")
    source: Index = ordered[first[wanted] + _pick(uniform, count[wanted])]
    return source
