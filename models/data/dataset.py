"""What a bundle is built from: a classifier, and what it said of frames to learn from, to tune on and to prove with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cachenet.models.data.cifar10 import Images, Split
from cachenet.models.data.frames import HELD_OUT_SHARES, USES, Frames, FramesError, uses
from cachenet.models.export.classifier import Classifier
from cachenet.models.train.clusters import Array
from cachenet.models.train.label import TeacherLogits
from cachenet.shared.inference.image import Input

#: Frames that each use needs at the least.
_LEAST = 20


@dataclass(frozen=True)
class LabelledFrames:
    """The frames of one use.

    Attributes:
        images: ``(n, side, side, 3)`` uint8 RGB, cut out of the frames as the full model sees them.
        scores, embeddings: The full model's, ``(n, classes)`` and ``(n, d)``.
        truth: True labels ``(n,)``; None where nobody knows.
        runs: The places of frames that follow one another, in order: of a video, or of pictures in one folder.
        seen: How the full model sees frames.
    """

    images: Images
    scores: Array
    embeddings: Array
    truth: npt.NDArray[np.int64] | None
    runs: tuple[npt.NDArray[np.int64], ...]
    seen: Input

    def __len__(self) -> int:
        return len(self.images)

    @property
    def answers(self) -> npt.NDArray[np.int64]:
        """The full model's, ``(n,)``."""
        answers: npt.NDArray[np.int64] = self.scores.argmax(1).astype(np.int64)
        return answers

    @property
    def split(self) -> Split:
        """With the true labels, or with the full model's answers where there are none."""
        return Split(self.images, self.answers if self.truth is None else self.truth)


@dataclass(frozen=True)
class Dataset:
    """``learn``: models are trained on; ``tune``: temperatures, coverage and priors are fitted on; ``prove``:
    certificates are found on. ``base``: the base model, where it is there already."""

    classifier: Classifier
    learn: LabelledFrames
    tune: LabelledFrames
    prove: LabelledFrames
    base: Classifier | None = None


def gather(
    classifier: Classifier, seen: tuple[Frames, TeacherLogits], held_out: tuple[Frames, TeacherLogits] | None = None
) -> Dataset:
    """Divide what was ``seen``, or take tuning and proving from what the user has ``held_out``. Raises
    ``FramesError`` if any use is left with too little."""
    if held_out is None:
        use = uses(seen[0].sequences(seen[1].files).tolist())
        learn, tune, prove = (_part(classifier, *seen, np.flatnonzero(use == number)) for number in range(len(USES)))
    else:
        learn, (tune, prove) = whole(classifier, *seen), held(classifier, held_out)
    _enough(dict(zip(USES, (learn, tune, prove), strict=True)))
    return Dataset(classifier, learn, tune, prove)


def held(classifier: Classifier, seen: tuple[Frames, TeacherLogits]) -> tuple[LabelledFrames, LabelledFrames]:
    """What was ``seen`` of frames that nothing was trained on: to tune with, and to prove with. Raises ``FramesError``
    if there is too little."""
    use = uses(seen[0].sequences(seen[1].files).tolist(), HELD_OUT_SHARES)
    tune, prove = (_part(classifier, *seen, np.flatnonzero(use == number)) for number in (1, 2))
    _enough(dict(zip(USES[1:], (tune, prove), strict=True)))
    return tune, prove


def whole(classifier: Classifier, frames: Frames, lesson: TeacherLogits) -> LabelledFrames:
    """All of what was seen."""
    return _part(classifier, frames, lesson, np.arange(len(lesson)))


def labelled(split: Split, lesson: TeacherLogits, seen: Input) -> LabelledFrames:
    """A labelled set, and what was said of it by a model that sees its images as they are."""
    return LabelledFrames(split.images, lesson.scores, lesson.embeddings, split.labels, (), seen)


def _enough(parts: dict[str, LabelledFrames]) -> None:
    for name, part in parts.items():
        if len(part) < _LEAST:
            raise FramesError(f"{len(part)} frames to {name} with, and {_LEAST} are needed; give more frames")


def _part(classifier: Classifier, frames: Frames, lesson: TeacherLogits, rows: npt.NDArray[np.int64]) -> LabelledFrames:
    folders = [frames.folders[number] for number in lesson.files.tolist()]
    truth = None
    if set(folders) <= set(classifier.labels):
        number = {label: place for place, label in enumerate(classifier.labels)}
        truth = np.array([number[folders[row]] for row in rows.tolist()], np.int64)
    breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(frames.sequences(lesson.files[rows])) != 0)) + 1
    runs = tuple(run for run in np.split(np.arange(len(rows)), breaks) if len(run))
    return LabelledFrames(
        np.ascontiguousarray(lesson.pictures[rows][:, :, :, ::-1]),
        lesson.scores[rows],
        lesson.embeddings[rows],
        truth,
        runs,
        classifier.input,
    )
