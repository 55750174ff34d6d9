"""What a bundle is built from: a classifier, and what it said of frames to learn from, to tune on and to prove with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.cifar10 import Images, Split
from models.classifier import Classifier
from models.codes import Array
from models.frames import USES, Frames, FramesError, is_video, uses
from models.teach import Lesson
from shared.image import Input

#: Frames that each use needs at the least.
_LEAST = 20
#: Of frames that are held out by the user, one in so many is tuned on, and the rest are proven with.
_FIFTH = 5


@dataclass(frozen=True)
class Part:
    """The frames of one use. ``images``: ``(n, side, side, 3)`` uint8 RGB; ``scores`` ``(n, classes)`` and
    ``embeddings`` ``(n, d)``: the full model's; ``truth`` ``(n,)``, None where nobody knows; ``runs``: where frames
    follow one another in a video, their places in order; ``seen``: how the full model sees frames, which is how
    these images were cut out of them."""

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
class Material:
    """``learn``: models are trained on; ``tune``: temperatures, coverage and context; ``prove``: gates alone. ``base``:
    the base model, where it is there already."""

    classifier: Classifier
    learn: Part
    tune: Part
    prove: Part
    base: Classifier | None = None


def gather(
    classifier: Classifier, seen: tuple[Frames, Lesson], held_out: tuple[Frames, Lesson] | None, seed: int
) -> Material:
    """Divide what was ``seen``, or take tuning and proving from what the user has ``held_out``. Raises
    ``FramesError`` if any use is left with too little."""
    if held_out is None:
        use = uses(seen[1].files.tolist(), seed)
        learn, tune, prove = (_part(classifier, *seen, np.flatnonzero(use == number)) for number in range(len(USES)))
    else:
        learn, (tune, prove) = whole(classifier, *seen), held(classifier, held_out, seed)
    _enough(dict(zip(USES, (learn, tune, prove), strict=True)))
    return Material(classifier, learn, tune, prove)


def held(classifier: Classifier, seen: tuple[Frames, Lesson], seed: int) -> tuple[Part, Part]:
    """What was ``seen`` of frames that nothing was trained on: to tune with, and to prove with. Raises ``FramesError``
    if there is too little."""
    tune, prove = (_part(classifier, *seen, rows) for rows in _divide(seen[1].scores.argmax(1), seed))
    _enough(dict(zip(USES[1:], (tune, prove), strict=True)))
    return tune, prove


def whole(classifier: Classifier, frames: Frames, lesson: Lesson) -> Part:
    """All of what was seen."""
    return _part(classifier, frames, lesson, np.arange(len(lesson)))


def labelled(split: Split, lesson: Lesson, seen: Input) -> Part:
    """A labelled set, and what was said of it by a model that sees its images as they are."""
    return Part(split.images, lesson.scores, lesson.embeddings, split.labels, (), seen)


def _enough(parts: dict[str, Part]) -> None:
    for name, part in parts.items():
        if len(part) < _LEAST:
            raise FramesError(f"{len(part)} frames to {name} with, and {_LEAST} are needed; give more frames")


def _divide(answers: npt.NDArray[np.int64], seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Places to tune on and to prove with: of every answer its share."""
    order = np.random.default_rng(seed).permutation(len(answers))
    order = order[np.argsort(answers[order], kind="stable")]
    tune = np.zeros(len(answers), np.bool_)
    tune[order[::_FIFTH]] = True
    return np.flatnonzero(tune), np.flatnonzero(~tune)


def _part(classifier: Classifier, frames: Frames, lesson: Lesson, rows: npt.NDArray[np.int64]) -> Part:
    files = lesson.files[rows]
    folders = [frames.folders[number] for number in lesson.files.tolist()]
    truth = None
    if set(folders) <= set(classifier.labels):
        number = {label: place for place, label in enumerate(classifier.labels)}
        truth = np.array([number[folders[row]] for row in rows.tolist()], np.int64)
    video = np.array([is_video(path) for path in frames.files], np.bool_)
    breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(files) != 0)) + 1
    runs = tuple(run for run in np.split(np.arange(len(rows)), breaks) if len(run) and video[files[run[0]]])
    return Part(
        np.ascontiguousarray(lesson.pictures[rows][:, :, :, ::-1]),
        lesson.scores[rows],
        lesson.embeddings[rows],
        truth,
        runs,
        classifier.input,
    )
