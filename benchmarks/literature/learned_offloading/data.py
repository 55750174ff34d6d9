"""The streams: regions of real clips, with the classifiers of ``state/``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import real_tasks
from benchmarks.literature import clip
from benchmarks.literature.learned_offloading.answers import FRAMES, Answers, Stream, record, stream
from benchmarks.literature.row import Inputs
from cachenet.models.export import metadata
from cachenet.models.export.classifier import load_classifier, parse_preprocessing
from cachenet.models.export.onnx_file import load, properties
from cachenet.shared.inference.engine import Session

#: Side of the picture in a question, pixels: that of the network whose run time the full model has.
_SIDE = 224
#: Frames of each part of a recording in a smoke run.
_FEW = 60
#: Frames before the play frames that are recorded at most. No base model was trained on their second half.
_BEFORE = 270


class Place(NamedTuple):
    """A region of a clip, and the classifier of ``state/`` whose input it is."""

    name: str
    clip: real_tasks.Clip
    region: real_tasks.Region
    model: str


def _zone(name: str, model: str) -> Place:
    """The region of a zone of ``benchmarks.real_tasks``."""
    [own] = [zone for zone in real_tasks.ZONES if zone.name == name]
    return Place(f"{name} {model}", own.clip, own.region, model)


#: Streams for training. The classifiers were not made for this clip: their reference is the full model all the same.
TRAINING = (_zone("vt_cross", "o2"), _zone("vt_centre", "ob"))
#: Streams of the measurement: the two for which the classifiers were made, and a view beside them.
MEASURED = (
    Place("ob", real_tasks.ONE, real_tasks.EXISTING_REGION, "ob"),
    Place("o2", real_tasks.ONE, real_tasks.EXISTING_REGION, "o2"),
    _zone("ob_side", "o2"),
)


def load_stream(place: Place, inputs: Inputs) -> Stream:
    """The stream of a place. Its recording is in ``inputs.work`` after the first call."""
    video, task = clip.video(place.clip, inputs.data), clip.existing(place.model, inputs.data)
    begin, end = place.clip.play
    before, frames = (_FEW, _FEW) if inputs.smoke else (_BEFORE, FRAMES)
    first, last = max(place.clip.held_out[0], begin - before), min(end, begin + frames)
    path = inputs.work / "answers" / f"{place.name.replace(' ', '-')}-{first}-{last}.npz"
    if (answers := _cached(path)) is None:
        inputs.say(f"{place.name}: the models run over {last - first} frames")
        pictures = clip.region_pictures(video, place.region, first, last)
        full = load_classifier(task.full, parse_preprocessing(task.preprocessing)).input
        base = metadata.read_preprocessing(task.base.name, properties(load(task.base))) or full
        answers = record(pictures, (Session(task.full, "cpu"), full), (Session(task.base, "cpu"), base), _SIDE)
        _save(path, answers)
    fitted, play = answers.part(0, begin - first), answers.part(begin - first, last - first)
    tune = fitted.part(len(fitted.base) // 2, len(fitted.base))
    return stream(place.name, fitted, tune, play)


def _cached(path: Path) -> Answers | None:
    if not path.exists():
        return None
    with np.load(path) as arrays:
        return Answers(**arrays)


def _save(path: Path, answers: Answers) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{name: getattr(answers, name) for name in Answers.__dataclass_fields__})
