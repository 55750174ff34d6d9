"""What a full model makes of a user's frames, before anything is built from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from cachenet.models.data.frames import USES, Frames, uses
from cachenet.models.export.classifier import PRESETS, Classifier
from cachenet.models.export.head import probabilities
from cachenet.models.export.onnx_file import OnnxRun
from cachenet.models.train.label import TeacherLogits
from cachenet.shared.cascade.probability import softmax
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.image import Input, preprocessor

Figure = int | float | str | dict[str, float] | list[str]
#: Frames that are compared, and that other ways to prepare pictures are tried on.
_COMPARED, _TRIED = 32, 24
#: Confidence is low where so little of the way from chance to certainty is gone; a label takes nearly all frames from
#: this share on; and answers are the same within so much.
_LOW, _NEARLY_ALL, _SAME = 0.2, 0.9, 0.05


@dataclass(frozen=True)
class ModelComparison:
    """Beside ONNX Runtime's answers to the same tensors, from the file as it is: the share of frames with the same
    label, and the largest difference of a probability."""

    same_label: float
    largest: float


def inspect(classifier: Classifier, frames: Frames, lesson: TeacherLogits, threads: int) -> dict[str, Figure]:
    """Figures by name. ``accuracy`` is there where every folder has the name of a label; ``verdict`` is in words.
    Raises ``ClassifierError`` if the file does not run by itself."""
    words = softmax(lesson.scores)
    answers = words.argmax(1)
    counts = np.bincount(answers, minlength=len(classifier.labels))
    use = uses(frames.sequences(lesson.files).tolist())
    compared = compare(classifier, lesson, threads)
    figures: dict[str, Figure] = {
        "takes": taken(classifier.input),
        "input": classifier.native.words,
        "output": _OUTPUTS[classifier.head.meaning],
        "classes": len(classifier.labels),
        "embedding": f"{classifier.embedding}, {lesson.embeddings.shape[1]} numbers",
        "files": len(frames.files),
        "skipped": len(frames.broken),
        "damaged": frames.damaged,
        "frames": len(lesson),
        "uses": {name: float((use == number).mean()) for number, name in enumerate(USES)},
        "confidence": float(words.max(1).mean()),
        "labels": {
            classifier.labels[label]: float(counts[label] / len(lesson))
            for label in np.argsort(-counts, kind="stable")
            if counts[label]
        },
        "as ONNX Runtime": {"same label": compared.same_label, "largest difference": compared.largest},
    }
    folders = [frames.folders[number] for number in lesson.files.tolist()]
    if set(folders) <= set(classifier.labels):
        truth = np.array([classifier.labels.index(folder) for folder in folders])
        figures["accuracy"] = float((answers == truth).mean())
    figures["verdict"] = verdict(classifier, lesson, words, compared, threads)
    return figures


_OUTPUTS: Mapping[str, str] = {
    "logits": "logits",
    "softmax": "probabilities (softmax)",
    "log-softmax": "logarithms of probabilities (log-softmax)",
    "binary": "the probability of the second of two labels (sigmoid)",
    "sigmoid": "a probability for each label by itself (sigmoid)",
}


def taken(spec: Input) -> str:
    """How pictures are prepared, for people."""
    width, height = spec.size
    said = f"{width}x{height} {spec.colour}, mean {_plain(spec.mean)}, std {_plain(spec.std)}, "
    said += f"{spec.fit} {spec.crop:.3f}, {spec.scaling}"
    return said + (f", bars of grey level {spec.fill}" if spec.fit == "letterbox" else "")


def _plain(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:g}" for number in dict.fromkeys(numbers)) if len(set(numbers)) == 1 else str(numbers)


def spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Numbers of at most ``most`` of ``count`` frames, evenly over all."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def compare(classifier: Classifier, lesson: TeacherLogits, threads: int) -> ModelComparison:
    """Run the file as it is over some of the frames. Raises ``ClassifierError`` if it does not run."""
    rows, prepare = spread(len(lesson), _COMPARED), preprocessor(classifier.input)
    bare = OnnxRun(classifier.path, classifier.path.name, threads, exact=False)
    said = [bare(None, classifier.native.taken(prepare(lesson.pictures[row])))[0].reshape(1, -1) for row in rows]
    theirs = probabilities(np.concatenate(said), classifier.head)
    ours = softmax(lesson.scores[rows])
    first = np.take_along_axis(theirs, ours.argmax(1)[:, None], 1)[:, 0]
    # Two labels may be level in a coarse output, and then either is first.
    return ModelComparison(float((first >= theirs.max(1) - 1e-3).mean()), float(np.abs(ours - theirs).max()))


def verdict(
    classifier: Classifier,
    lesson: TeacherLogits,
    words: npt.NDArray[np.float64],
    compared: ModelComparison,
    threads: int,
) -> list[str]:
    """What to think of it, a sentence each. ``words``: probabilities ``(n, classes)``."""
    found = []
    confidence, chance = float(words.max(1).mean()), 1 / words.shape[1]
    if confidence < chance + _LOW * (1 - chance):
        said = f"Confidence is low: {confidence:.0%} on average, where chance is {chance:.1%}."
        if classifier.native.pixels_as_they_are:
            said += " The model takes pixels as they are; try --preprocessing raw,bgr, raw,stretch or raw,letterbox."
        else:
            tried = others(classifier, lesson, threads)
            listed = ", ".join(f"{name} ({sure:.0%})" for name, sure in tried.items())
            said += f" The preprocessing is probably wrong; try, with the confidence each gives: {listed}."
        found.append(said)
    answers = words.argmax(1)
    often = np.bincount(answers, minlength=words.shape[1])
    label, share = int(often.argmax()), float(often.max() / len(answers))
    if share >= _NEARLY_ALL and len(answers) > 1:
        found.append(
            f"{classifier.labels[label]!r} is the answer to {share:.0%} of the frames: right if they show little else; "
            "if not, the preprocessing is probably wrong, or these frames are of another kind than the model knows."
        )
    if said := of_several(classifier, lesson.scores):
        found.append(said)
    if compared.same_label < 1 or compared.largest > _SAME:
        found.append(
            f"ONNX Runtime alone gives another label for {1 - compared.same_label:.0%} of the frames, and "
            f"probabilities that differ by up to {compared.largest:.0%}: is the model in INT8? If not, report it."
        )
    return found or [f"It fits: confidence {confidence:.0%} on average, {int((often > 0).sum())} labels seen."]


def of_several(classifier: Classifier, scores: npt.NDArray[np.float32]) -> str:
    """What to know of a model whose labels are independent, which may give several or none, by its ``scores``
    ``(n, classes)`` of frames; empty for any other."""
    if classifier.head.meaning != "sigmoid":
        return ""
    above = (scores > 0).sum(1)  # their sigmoid is over a half
    return (
        "The model judges each label by itself (sigmoid), and a device answers with one, the likeliest: "
        f"{float((above > 1).mean()):.0%} of the frames have several labels above 50 %, "
        f"{float((above == 0).mean()):.0%} have none."
    )


def others(classifier: Classifier, lesson: TeacherLogits, threads: int) -> dict[str, float]:
    """The mean confidence with each other normalisation and order of colours, by its name, the highest first; of some
    frames, cut out as they are now."""
    rows, run = spread(len(lesson), _TRIED), OnnxRun(classifier.graph, classifier.path.name, threads)
    found = {}
    for name, one in PRESETS.items():
        colour = classifier.input.colour if classifier.input.colour == "grey" else one.colour
        spec = msgspec.structs.replace(classifier.input, mean=one.mean, std=one.std, colour=colour)
        if (spec.mean, spec.std, spec.colour) == (
            classifier.input.mean,
            classifier.input.std,
            classifier.input.colour,
        ):
            continue
        prepare = preprocessor(spec)
        scores = np.concatenate([run([classifier.scores], prepare(lesson.pictures[row]))[0] for row in rows])
        if np.isfinite(scores).all():
            found[name] = float(softmax(scores).max(1).mean())
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def draw(classifier: Classifier, frames: Frames, lesson: TeacherLogits, path: Path) -> None:
    """Write ten frames, spread over all and as the model sees them, with its first labels and how sure it is of each,
    to ``path`` as PNG. Raises ``OSError``."""
    from cachenet.models.report import contact_sheet  # matplotlib, which takes a second

    panels = []
    words = softmax(lesson.scores)
    for row in spread(len(lesson), 10).tolist():
        first = np.argsort(-words[row], kind="stable")[:3]
        named = [(classifier.labels[label], float(words[row, label])) for label in first.tolist()]
        file = frames.files[int(lesson.files[row])].name
        panels.append(contact_sheet.Panel(f"{file}, frame {row}", lesson.pictures[row], named))
    atomic_files.write(path, contact_sheet.sheet(f"{classifier.path.name}: {taken(classifier.input)}", panels))
