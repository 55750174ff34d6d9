"""The seeded, named streams that all reports, benchmarks and demos use.

- ``shuffled``: independent images of all classes; no locality.
- ``session``: a working set of 3 to 5 classes, the *scene*, that changes about every 500 frames; Zipf frequencies in
  it, independent images, 5 % of objects from outside it (out of set).
- ``dwell``: as ``session``, but an object stays for a geometric time of mean 30 frames, in a new image of its class
  each frame.
- ``held``: as ``dwell``, but one image stays, shifted by up to 2 pixels and with new noise each frame.
- ``camera``: the images of ``held`` before a 640x480 camera: slow drift, sensor noise, pauses and real cuts.

A *schedule* holds what every frame shows and is cheap for a million frames; pixels are rendered frame by frame. Every
random quantity has its own generator that depends on the seed alone. So a shorter schedule is the beginning of a longer
one, and ``dwell``, ``held`` and ``camera`` of one seed show the same classes at the same times.
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

from cachenet.models.data.camera import HEIGHT, NOISE, WIDTH, SensorNoise, background, compose, enlarge
from cachenet.models.data.cifar10 import Images, Labels
from cachenet.models.data.scenes import CLASSES, SCENES
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.image import Picture
from cachenet.shared.media import recording

StreamName = Literal["shuffled", "session", "dwell", "held", "camera"]
STREAM_NAMES: tuple[StreamName, ...] = get_args(StreamName)
#: Integers, one for each frame or object.
Index = npt.NDArray[np.int64]

#: Frame rate of a recording, frames per second.
FPS = 30.0
#: Mean dwell time of an object, frames.
DWELL = 30
#: Mean time between two changes of scene, frames.
_VISIT = 500
#: Width of the uniform spread of that time, frames.
_JITTER = 200
#: Number of the generator of out-of-set objects: CRC-32 of its former name, so that streams do not change.
_OUT_OF_SET = 2_374_147_442
#: Share of objects whose class is not in the scene.
OUT_OF_SET = 0.05
#: Mean length of a pause, and of the movement between two pauses, frames.
_PAUSE = 20
#: Maximum shift of ``held`` in each direction, thumbnail pixels.
_SHIFT = 2
_TABLE = tuple(scene.classes for scene in SCENES)
#: Two slow sines for each axis: amplitude in frame pixels, period in frames. At most 24 frame pixels in all (1.6 of the
#: thumbnail) and less than one a frame.
_DRIFT = ((18.0, 211.0), (6.0, 89.0))


@dataclass(frozen=True, eq=False)
class StreamSchedule:
    """What every frame of a stream shows."""

    name: StreamName  # Name of the stream
    seed: int  # Seed of all draws
    source: Index  # Index of the image ``(frames,)``
    label: Labels  # True class ``(frames,)``
    dwell: Index  # Number of the object, from 0 ``(frames,)``. Two consecutive objects may have the same class
    scene: Index  # Number in ``SCENES``, -1 if there is none ``(frames,)``
    out_of_set: npt.NDArray[np.bool_]  # Whether the class is not in the scene ``(frames,)``
    #: Shift right and down ``(frames, 2)``, thumbnail pixels for ``held``, frame pixels for ``camera``.
    offset: npt.NDArray[np.float32]
    pause: npt.NDArray[np.bool_]  # Whether the object has not moved since its last frame ``(frames,)``
    noise: npt.NDArray[np.uint32]  # Seed of the frame's noise ``(frames,)``

    def __len__(self) -> int:
        return len(self.source)


class UnknownStream(UserError, ValueError):
    """There is no stream of that name."""


def named(name: str) -> StreamName:
    """Return ``name`` if it is the name of a stream. Raises ``UnknownStream``."""
    for known in STREAM_NAMES:
        if name == known:
            return known
    raise UnknownStream(f"no stream {name!r}; there are {', '.join(STREAM_NAMES)}")


def split_pools(labels: Labels, count: int, seed: int) -> list[Index]:
    """Split the images ``(n,)`` into ``count`` disjoint pools with equal shares of every class, to within one image."""
    rng = np.random.default_rng(seed)
    parts = [np.array_split(rng.permutation(np.flatnonzero(labels == c)), count) for c in np.unique(labels)]
    return [np.sort(np.concatenate(part)) for part in zip(*parts, strict=True)]


def schedule(
    name: StreamName,
    labels: Labels,
    seed: int,
    frames: int,
    pool: Index | None = None,
    scenes: Sequence[int] = range(len(SCENES)),
    table: Sequence[Sequence[int]] = _TABLE,
    classes: int = CLASSES,
    dwell: int = DWELL,
) -> StreamSchedule:
    """Draw the schedule of a stream.

    Args:
        labels: True classes of the images ``(n,)``.
        frames: Length, at least 1.
        pool: Indices of the images to show (default: all).
        scenes: Numbers in ``table`` of the scenes to visit.
        table: Classes of each scene.
        dwell: Mean dwell time of an object in the streams that have one, frames.

    Raises:
        ValueError: The name is unknown, or the pool lacks a class.
    """
    named(name)
    if frames < 1 or not scenes:
        raise ValueError("a stream needs a frame and a scene at least")
    mean = dwell if name in ("dwell", "held", "camera") else 1
    # A new object with constant probability at every frame gives geometric dwell times.
    fresh = _uniform(seed, "dwell", frames) < 1 / mean
    fresh[0] = True
    number = np.cumsum(fresh) - 1  # object of each frame
    start = np.flatnonzero(fresh)
    if name == "shuffled":
        scene = np.full(len(start), -1)
        out_of_set = np.zeros(len(start), np.bool_)
        label = _pick(_uniform(seed, "class", len(start)), classes)
    else:
        scene, out_of_set, label = _objects(seed, start, np.asarray(scenes), table, classes)

    offset = np.zeros((frames, 2), np.float32)
    pause = np.zeros(frames, np.bool_)
    noise = np.zeros(frames, np.uint32)
    if name == "held":
        offset += _pick(_uniform(seed, "shift", (frames, 2)), 2 * _SHIFT + 1) - _SHIFT
    if name == "camera":
        pause = np.cumsum(_uniform(seed, "pause", frames) < 1 / _PAUSE) % 2 == 1
        offset = _drift(pause, number, _uniform(seed, "drift", (len(start), 2, len(_DRIFT))))
    if name in ("held", "camera"):
        noise = (_uniform(seed, "noise", frames) * 2**32).astype(np.uint32)
        image = _uniform(seed, "image", len(start))[number]
    else:
        image = _uniform(seed, "image", frames)
    source = _images(labels, np.arange(len(labels)) if pool is None else pool, label[number], image, classes)
    return StreamSchedule(
        name, seed, source, label[number], number, scene[number], out_of_set[number], offset, pause, noise
    )


def renderer(stream: StreamSchedule, images: Images) -> Callable[[int], Picture]:
    """Return the function from a frame number to its BGR picture: 640x480 for ``camera``, else the images' size.

    Args:
        images: Images ``(n, height, width, 3)`` RGB that the schedule was drawn for.
    """

    def thumbnail(source: int) -> Picture:
        return np.ascontiguousarray(images[source, :, :, ::-1])

    if stream.name == "held":
        return _held(stream, thumbnail)
    if stream.name == "camera":
        return _camera(stream, thumbnail)
    return lambda index: thumbnail(stream.source[index])


def record_stream(
    stream: StreamSchedule,
    images: Images,
    directory: Path,
    labels: Sequence[str],
    progress: Callable[[int], object] = lambda _done: None,
) -> recording.Recording:
    """Write the frames of a stream and their true labels.

    Args:
        images: Images ``(n, height, width, 3)`` RGB that the schedule was drawn for.
        directory: New or empty directory.
        progress: Called with the number of written frames after each frame.

    Raises:
        StreamError: The directory cannot be used.
    """
    about = recording.Recording(
        name=stream.name,
        seed=stream.seed,
        frames=len(stream),
        fps=FPS,
        labels=tuple(labels),
        truth=tuple(stream.label.tolist()),
        files="%06d.jpg" if stream.name == "camera" else "%06d.png",
    )
    render = renderer(stream, images)

    def pictures() -> Iterator[Picture]:
        for index in range(len(stream)):
            yield render(index)
            progress(index + 1)

    recording.write(directory, about, pictures())
    return about


def _held(stream: StreamSchedule, thumbnail: Callable[[int], Picture]) -> Callable[[int], Picture]:
    height, width = thumbnail(0).shape[:2]
    sensor = SensorNoise(height, width, NOISE, stream.seed)
    scale = max(1, min(height, width) // 32)
    edge = _SHIFT * scale

    def render(index: int) -> Picture:
        padded = np.pad(thumbnail(stream.source[index]), ((edge, edge), (edge, edge), (0, 0)), "reflect")
        left, top = (edge - scale * stream.offset[index]).astype(int)
        return sensor.add(padded[top : top + height, left : left + width], int(stream.noise[index]))

    return render


def _camera(stream: StreamSchedule, thumbnail: Callable[[int], Picture]) -> Callable[[int], Picture]:
    sensor = SensorNoise(HEIGHT, WIDTH, NOISE, stream.seed)
    empty = lru_cache(16)(lambda scene: background(stream.seed, scene))
    enlarged = lru_cache(2)(lambda source: enlarge(thumbnail(source)))

    def render(index: int) -> Picture:
        frame = compose(empty(int(stream.scene[index])), enlarged(int(stream.source[index])), stream.offset[index])
        return sensor.add(frame, int(stream.noise[index]))

    return render


def _uniform(seed: int, quantity: str | int, shape: int | tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Draw numbers in [0, 1) from the generator of ``quantity``.

    Everything is derived from these, because this draw of NumPy is the least likely to change.
    """
    number = quantity if isinstance(quantity, int) else zlib.crc32(quantity.encode())
    return np.random.default_rng([seed, number]).random(shape)


def _pick(uniform: npt.NDArray[np.float64], count: int | Index) -> Index:
    """Map uniform numbers to 0..count-1 with equal probability."""
    return (uniform * count).astype(np.int64)


def _objects(
    seed: int, start: Index, scenes: Index, table: Sequence[Sequence[int]], classes: int
) -> tuple[Index, npt.NDArray[np.bool_], Labels]:
    """Return scene, whether out of set, and class of the objects that begin at the frames ``start``.

    An object keeps the scene that it begins in, so dwell times stay geometric at a change of scene.
    """
    ends = _VISIT * np.arange(1, start[-1] // _VISIT + 3)
    ends += _pick(_uniform(seed, "visit", len(ends)), _JITTER) - _JITTER // 2
    visit = np.searchsorted(ends, start, side="right")

    # The first scene is any; each later step is less than a full turn, so the next scene is always another one.
    turn = _uniform(seed, "scene", len(ends) + 1)
    steps = 1 + _pick(turn, max(1, len(scenes) - 1))
    steps[0] = _pick(turn, len(scenes))[0]
    scene_of_visit = scenes[np.cumsum(steps) % len(scenes)]
    scene = scene_of_visit[visit]

    size = np.array([len(members) for members in table])
    # For each scene its classes, then all others. ``ranked`` shuffles the former for each visit.
    order = np.array([[*members, *(c for c in range(classes) if c not in members)] for members in table])
    ranks = np.arange(size.max())
    absent = ranks >= size[scene_of_visit][:, None]
    ranked = np.argsort(_uniform(seed, "rank", (len(ends) + 1, len(ranks))) + absent, axis=1)
    zipf = np.cumsum(np.where(ranks < size[:, None], 1 / (1 + ranks), 0), axis=1)
    drawn = _uniform(seed, "class", len(start)) * zipf[scene, -1]
    rank = np.sum(drawn[:, None] >= zipf[scene], axis=1)

    out_of_set = _uniform(seed, _OUT_OF_SET, len(start)) < OUT_OF_SET
    other = size[scene] + _pick(_uniform(seed, "other", len(start)), classes - size[scene])
    return scene, out_of_set, order[scene, np.where(out_of_set, other, ranked[visit, rank])]


def _drift(pause: npt.NDArray[np.bool_], dwell: Index, phases: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return offsets ``(frames, 2)``, given the initial phases ``(objects, 2, sines)``."""
    moved = np.cumsum(~pause)  # the drift's clock stops during a pause
    turns = [moved[:, None] / period + phases[dwell, :, i] for i, (_, period) in enumerate(_DRIFT)]
    offset = sum(amplitude * np.sin(2 * np.pi * turn) for (amplitude, _), turn in zip(_DRIFT, turns, strict=True))
    # OpenCV interpolates to a 32nd of a pixel; rounding to it makes the result independent of the machine's sine.
    return (np.rint(offset * 32) / 32).astype(np.float32)


def _images(labels: Labels, pool: Index, label: Labels, uniform: npt.NDArray[np.float64], classes: int) -> Index:
    """Return an image from ``pool`` of the class ``label`` of each frame."""
    ordered = np.sort(pool)[np.argsort(labels[np.sort(pool)], kind="stable")]
    first = np.searchsorted(labels[ordered], np.arange(classes + 1))
    count = np.diff(first)
    if not count.all():
        raise ValueError(f"the pool has no image of class {int(np.argmin(count))}")
    source: Index = ordered[first[label] + _pick(uniform, count[label])]
    return source
