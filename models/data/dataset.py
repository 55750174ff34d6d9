"""Data sets of a build: a classifier, and its outputs on frames to train on, to fit on and to certify with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cachenet.models.data.cifar10 import Images, Labels, Split
from cachenet.models.data.frames import HELD_OUT_SHARES, USES, Frames, FramesError, uses
from cachenet.models.export.classifier import Classifier
from cachenet.models.train.clusters import Array
from cachenet.models.train.label import TeacherLogits
from cachenet.shared.inference.image import Input

#: Minimum number of frames of each use.
_MIN_FRAMES = 20


@dataclass(frozen=True)
class LabelledFrames:
    """Frames of one use with the full model's outputs."""

    images: Images  # ``(n, height, width, 3)`` uint8 RGB, cropped as the full model sees the frames
    scores: Array  # Full model's logits ``(n, classes)``
    embeddings: Array  # Full model's embeddings ``(n, d)``
    truth: Labels | None  # True labels ``(n,)``; None if unknown
    #: Row numbers of consecutive frames, one array for each run of a video or folder.
    runs: tuple[npt.NDArray[np.int64], ...]
    full_input: Input  # Preprocessing of the full model

    def __len__(self) -> int:
        return len(self.images)

    @property
    def full_labels(self) -> Labels:
        """Labels of the full model ``(n,)``."""
        labels: Labels = self.scores.argmax(1).astype(np.int64)
        return labels

    @property
    def split(self) -> Split:
        """The images with their true labels, or with the full model's labels where the truth is unknown."""
        return Split(self.images, self.full_labels if self.truth is None else self.truth)


@dataclass(frozen=True)
class Dataset:
    """Data of one build."""

    classifier: Classifier  # Full model
    learn: LabelledFrames  # Frames that models are trained on
    tune: LabelledFrames  # Frames that temperatures, coverage and priors are fitted on
    prove: LabelledFrames  # Frames that certificates are computed on
    base: Classifier | None = None  # User's base model; None if one is to be trained


def collect(
    classifier: Classifier, data: tuple[Frames, TeacherLogits], held_out: tuple[Frames, TeacherLogits] | None = None
) -> Dataset:
    """Divide ``data`` into the three uses. With ``held_out``, tune and certify on these frames and train on ``data``.

    Raises ``FramesError``.
    """
    if held_out is None:
        learn, tune, prove = _split(classifier, data)
    else:
        learn, (tune, prove) = all_frames(classifier, *data), held_out_splits(classifier, held_out)
    _check_sizes(learn, tune, prove)
    return Dataset(classifier, learn, tune, prove)


def held_out_splits(
    classifier: Classifier, data: tuple[Frames, TeacherLogits]
) -> tuple[LabelledFrames, LabelledFrames]:
    """Divide held-out frames into those to tune on and those to certify with. Raises ``FramesError``."""
    _, tune, prove = _split(classifier, data, HELD_OUT_SHARES)
    _check_sizes(tune, prove)
    return tune, prove


def all_frames(classifier: Classifier, frames: Frames, outputs: TeacherLogits) -> LabelledFrames:
    """All frames as one split."""
    return _select(classifier, frames, outputs, np.arange(len(outputs)))


def from_labelled(split: Split, outputs: TeacherLogits, spec: Input) -> LabelledFrames:
    """A labelled set with the outputs of a model of preprocessing ``spec`` that sees the images uncropped."""
    return LabelledFrames(split.images, outputs.scores, outputs.embeddings, split.labels, (), spec)


def _split(
    classifier: Classifier, data: tuple[Frames, TeacherLogits], *shares: tuple[float, ...]
) -> tuple[LabelledFrames, ...]:
    """One split for each of ``USES``."""
    use = uses(data[0].sequences(data[1].files).tolist(), *shares)
    return tuple(_select(classifier, *data, np.flatnonzero(use == number)) for number in range(len(USES)))


def _check_sizes(*splits: LabelledFrames) -> None:
    """Check the splits of the last uses. Raises ``FramesError``."""
    for name, split in zip(USES[-len(splits) :], splits, strict=True):
        if len(split) < _MIN_FRAMES:
            raise FramesError(f"{len(split)} frames to {name} with, and {_MIN_FRAMES} are needed; give more frames")


def _select(
    classifier: Classifier, frames: Frames, outputs: TeacherLogits, rows: npt.NDArray[np.int64]
) -> LabelledFrames:
    folders = [frames.folders[number] for number in outputs.files.tolist()]
    truth = None
    if set(folders) <= set(classifier.labels):
        numbers = {label: number for number, label in enumerate(classifier.labels)}
        truth = np.array([numbers[folders[row]] for row in rows.tolist()], np.int64)
    breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(frames.sequences(outputs.files[rows])) != 0)) + 1
    runs = tuple(run for run in np.split(np.arange(len(rows)), breaks) if len(run))
    images = np.ascontiguousarray(outputs.pictures[rows][:, :, :, ::-1])
    return LabelledFrames(images, outputs.scores[rows], outputs.embeddings[rows], truth, runs, classifier.input)
