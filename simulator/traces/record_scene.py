"""Records a video for policies: detections of both models, motion, signatures, and their times on this machine.

Detections are cached in the user's cache directory by the digests of video, models and code.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from cachenet.models.export.detector import DetectorModel
from cachenet.shared.bundle.manifest import file_digest
from cachenet.shared.cascade.detect.detections import Detections
from cachenet.shared.cascade.detect.types import SceneFrame
from cachenet.shared.command import atomic_files
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference import decoders, detector, image
from cachenet.shared.inference.image import Picture, encode, wire_picture
from cachenet.shared.media.flow import MotionDetector
from cachenet.shared.media.signature import sign
from cachenet.shared.media.video import BadVideo, Video
from cachenet.simulator.traces.scene_recording import Meter, RecordedFlow, SceneRecording

#: Detections of each frame, and the time of each run, milliseconds ``(n,)``.
Found = tuple[list[Detections], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Clip:
    """A video and its frame rate, frames per second; None for that of the file."""

    video: Path
    fps: float | None = None


def record(
    clip: Clip,
    ranges: Sequence[range],
    full: DetectorModel,
    base: DetectorModel,
    cache: Path | None = None,
    advance: Callable[[int, int], object] = lambda _done, _of: None,
) -> list[SceneRecording]:
    """Record disjoint ranges of a video's frames.

    Args:
        ranges: Frames of each recording, consecutive.
        full: The full model; the recording has its detections with the score of its decoder.
        base: The device's detector, with the labels of the full model, and all detections down to its decoder's score.
        cache: Directory of cached detections; None: ``directory()``.
        advance: Called with the number of frames done and of all frames.

    Raises:
        UserError: The video is not readable or too short.
    """
    fps = clip.fps or _fps(clip.video)
    wanted = sorted(frame for one in ranges for frame in one)
    models = [_Model(one, clip.video, wanted, cache or directory()) for one in (full, base)]
    pictures = [_Pictures(full) for _ in ranges]
    for done, (number, picture) in enumerate(_frames(clip.video, wanted), 1):
        for model in models:
            model.run(picture)
        for own, frames in zip(pictures, ranges, strict=True):
            if number in frames:
                own.add(picture)
        advance(done, len(wanted))
    (found, _), (base_found, base_ms) = (model.result() for model in models)
    recordings = []
    for own, frames in zip(pictures, ranges, strict=True):
        part = slice(wanted.index(frames.start), wanted.index(frames.start) + len(frames))
        picture_s, encode_s = np.array(own.seconds).T
        recordings.append(
            SceneRecording(
                fps=fps,
                frames=own.frames,
                full=found[part],
                base=base_found[part],
                nbytes=np.array(own.nbytes),
                base_ms=base_ms[part],
                picture_ms=1000 * picture_s,
                encode_ms=1000 * encode_s,
                meter=own.meter,
            )
        )
    return recordings


def directory() -> Path:
    """Directory of cached detections in the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cachenet" / "objects"


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a video's first frame, pixels. Raises ``UserError``."""
    (_, picture) = next(_frames(path, [0]))
    return picture.shape[1], picture.shape[0]


class _Model:
    """One model over the wanted frames, run or read from the cache."""

    def __init__(self, model: DetectorModel, video: Path, wanted: list[int], cache: Path) -> None:
        self._path = cache / f"{_key(model, video, wanted)}.npz"
        self._cached = _read(self._path, len(wanted))
        self._detect = None if self._cached else model.detector()
        self._found: list[Detections] = []
        self._ms: list[float] = []

    def run(self, picture: Picture) -> None:
        if self._detect is None:
            return
        if not self._found:
            self._detect(picture)  # warm up: the first run is slower
        begun = time.perf_counter()
        self._found.append(self._detect(picture))
        self._ms.append(1000 * (time.perf_counter() - begun))

    def result(self) -> Found:
        if self._cached is not None:
            return self._cached
        found = self._found, np.array(self._ms)
        _write(self._path, found)
        return found


class _Pictures:
    """What is recorded of the pictures themselves, for one range of frames.

    Attributes:
        frames: The frames, numbered from 0.
        nbytes: Size of each encoded picture, bytes.
        seconds: Time of preparing and of encoding each picture, seconds.
        meter: Time of the measurements of motion.
    """

    def __init__(self, full: DetectorModel) -> None:
        self._input, self._motion = full.input, MotionDetector()
        self.frames: list[SceneFrame] = []
        self.nbytes: list[int] = []
        self.seconds: list[tuple[float, float]] = []
        self.meter = Meter()

    def add(self, picture: Picture) -> None:
        """Record the next picture."""
        begun = time.perf_counter()
        moved, flow = self._motion.update(picture)
        signature = sign(picture)
        prepared = time.perf_counter()
        self.nbytes.append(len(encode(wire_picture(picture, self._input))[1]))
        self.seconds.append((prepared - begun, time.perf_counter() - prepared))
        number = len(self.frames)
        self.frames.append(
            SceneFrame(number, number, signature, moved, None if flow is None else RecordedFlow(flow, self.meter))
        )


def _frames(path: Path, wanted: list[int]) -> Iterator[tuple[int, Picture]]:
    """Number and picture of each wanted frame."""
    chosen, number = set(wanted), -1
    with contextlib.closing(_open(path)) as video:
        for number, frame in enumerate(video.frames()):
            if number in chosen:
                yield number, frame.picture
            if number == wanted[-1]:
                return
    raise UserError(f"{path} has {number + 1} frames, and frame {wanted[-1]} is needed")


def _open(path: Path) -> Video:
    try:
        return Video(path)
    except BadVideo as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def _fps(path: Path) -> float:
    """Frame rate of a video, frames per second. Raises ``UserError``."""
    with contextlib.closing(_open(path)) as video:
        return video.fps


def _key(model: DetectorModel, video: Path, wanted: list[int]) -> str:
    """Digest of what detections depend on: files, preprocessing, decoder, frames and code."""
    digest = hashlib.sha256()
    for path in (video, model.path):
        digest.update(file_digest(path).encode())
    for module in (image, detector, decoders):
        digest.update(hashlib.sha256(inspect.getsource(module).encode()).digest())
    settings = (model.input, model.decoder, wanted, ort.__version__, cv2.__version__, np.__version__)
    digest.update(msgspec.json.encode(settings))
    return digest.hexdigest()[:32]


def _read(path: Path, count: int) -> Found | None:
    """Cached detections of ``count`` frames; None if there are none."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ends, ms = arrays["ends"], arrays["ms"]
            boxes, labels, scores = (np.split(arrays[name], ends[:-1]) for name in ("boxes", "labels", "scores"))
        found = [Detections(*own) for own in zip(boxes, labels, scores, strict=True)]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return (found, ms) if len(found) == len(ms) == count else None


def _write(path: Path, found: Found) -> None:
    detections, ms = found
    out = io.BytesIO()
    np.savez_compressed(
        out,
        ends=np.cumsum([len(one) for one in detections]),
        ms=ms,
        boxes=np.concatenate([one.boxes for one in detections]),
        labels=np.concatenate([one.labels for one in detections]),
        scores=np.concatenate([one.scores for one in detections]),
    )
    with contextlib.suppress(OSError):  # without a writable cache the models just run again
        atomic_files.write(path, out.getbuffer())
