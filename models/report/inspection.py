"""Inspects the answers of a full model for a user's frames, before a build."""

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

Finding = int | float | str | dict[str, float] | list[str]
#: Frames that are compared with ONNX Runtime.
_COMPARED = 32
#: Frames that other preprocessing is tried on.
_TRIED = 24
#: Confidence is low below this part of the way from chance to 1.
_LOW = 0.2
#: Share of frames from which one label has nearly all of them.
_NEARLY_ALL = 0.9
#: Largest difference of a probability between two runtimes that is not reported.
_SAME = 0.05
_OUTPUTS: Mapping[str, str] = {
    "logits": "logits",
    "softmax": "probabilities (softmax)",
    "log-softmax": "logarithms of probabilities (log-softmax)",
    "binary": "the probability of the second of two labels (sigmoid)",
    "sigmoid": "a probability for each label by itself (sigmoid)",
}


@dataclass(frozen=True)
class ModelComparison:
    """ONNX Runtime's outputs of the original file: share of frames with the same label, largest difference of a
    probability.
    """

    same_label: float
    largest: float


def inspect(classifier: Classifier, frames: Frames, teacher: TeacherLogits, threads: int) -> dict[str, Finding]:
    """Findings by name; ``accuracy`` needs directories named after labels. ``teacher``: the outputs for ``frames``.

    Raises ``ClassifierError`` if ONNX Runtime cannot run the original file.
    """
    predicted = softmax(teacher.scores)  # (n, classes)
    answers = predicted.argmax(1)
    counts = np.bincount(answers, minlength=len(classifier.labels))
    use = uses(frames.sequences(teacher.files).tolist())
    compared = compare(classifier, teacher, threads)
    found: dict[str, Finding] = {
        "takes": describe(classifier.input),
        "input": classifier.native.description,
        "output": _OUTPUTS[classifier.head.meaning],
        "classes": len(classifier.labels),
        "embedding": f"{classifier.embedding}, {teacher.embeddings.shape[1]} numbers",
        "files": len(frames.files),
        "skipped": len(frames.broken),
        "damaged": frames.damaged,
        "frames": len(teacher),
        "uses": {name: float((use == number).mean()) for number, name in enumerate(USES)},
        "confidence": float(predicted.max(1).mean()),
        "labels": {
            classifier.labels[label]: float(counts[label] / len(teacher))
            for label in np.argsort(-counts, kind="stable")
            if counts[label]
        },
        "as ONNX Runtime": {"same label": compared.same_label, "largest difference": compared.largest},
    }
    folders = [frames.folders[number] for number in teacher.files.tolist()]
    if set(folders) <= set(classifier.labels):
        truth = np.array([classifier.labels.index(folder) for folder in folders])
        found["accuracy"] = float((answers == truth).mean())
    found["verdict"] = conclusions(classifier, teacher, predicted, compared, threads)
    return found


def describe(spec: Input) -> str:
    """The preprocessing of pictures, as text."""
    width, height = spec.size
    text = f"{width}x{height} {spec.colour}, mean {_plain(spec.mean)}, std {_plain(spec.std)}, "
    text += f"{spec.fit} {spec.crop:.3f}, {spec.scaling}"
    return text + (f", bars of grey level {spec.fill}" if spec.fit in ("letterbox", "corner") else "")


def _plain(numbers: tuple[float, ...]) -> str:
    return f"{numbers[0]:g}" if len(set(numbers)) == 1 else str(numbers)


def spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Indices of at most ``most`` of ``count`` frames, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def compare(classifier: Classifier, teacher: TeacherLogits, threads: int) -> ModelComparison:
    """Run the original file over some of the frames. Raises ``ClassifierError`` if it does not run."""
    rows, prepare = spread(len(teacher), _COMPARED), preprocessor(classifier.input)
    run = OnnxRun(classifier.path, classifier.path.name, threads, exact=False)
    outputs = [run(None, classifier.native.to_native(prepare(teacher.pictures[row])))[0].reshape(1, -1) for row in rows]
    original = probabilities(np.concatenate(outputs), classifier.head)
    read = softmax(teacher.scores[rows])
    first = np.take_along_axis(original, read.argmax(1)[:, None], 1)[:, 0]
    # In a coarse output two labels may have the same probability; then either counts as first.
    return ModelComparison(float((first >= original.max(1) - 1e-3).mean()), float(np.abs(read - original).max()))


def conclusions(
    classifier: Classifier,
    teacher: TeacherLogits,
    predicted: npt.NDArray[np.float64],
    compared: ModelComparison,
    threads: int,
) -> list[str]:
    """Conclusions from the findings, one sentence or two each. ``predicted``: probabilities ``(n, classes)``."""
    found = []
    confidence, chance = float(predicted.max(1).mean()), 1 / predicted.shape[1]
    if confidence < chance + _LOW * (1 - chance):
        low = f"Confidence is low: {confidence:.0%} on average, where chance is {chance:.1%}."
        if classifier.native.is_integer:
            low += " The model takes pixels as they are; try --preprocessing raw,bgr, raw,stretch or raw,letterbox."
        else:
            tried = other_presets(classifier, teacher, threads)
            listed = ", ".join(f"{name} ({sure:.0%})" for name, sure in tried.items())
            low += f" The preprocessing is probably wrong; try, with the confidence each gives: {listed}."
        found.append(low)
    answers = predicted.argmax(1)
    counts = np.bincount(answers, minlength=predicted.shape[1])
    label, share = int(counts.argmax()), float(counts.max() / len(answers))
    if share >= _NEARLY_ALL and len(answers) > 1:
        found.append(
            f"{classifier.labels[label]!r} is the answer to {share:.0%} of the frames. If they show other things too, "
            "the preprocessing is probably wrong, or the frames are unlike the model's training data."
        )
    if remark := of_several(classifier, teacher.scores):
        found.append(remark)
    if compared.same_label < 1 or compared.largest > _SAME:
        found.append(
            f"ONNX Runtime alone gives another label for {1 - compared.same_label:.0%} of the frames, and "
            f"probabilities that differ by up to {compared.largest:.0%}: is the model in INT8? If not, report it."
        )
    return found or [f"It fits: confidence {confidence:.0%} on average, {int((counts > 0).sum())} labels seen."]


def of_several(classifier: Classifier, scores: npt.NDArray[np.float32]) -> str:
    """A remark on a model with independent labels (sigmoid) and its logits ``(n, classes)``; empty for any other."""
    if classifier.head.meaning != "sigmoid":
        return ""
    above = (scores > 0).sum(1)  # a sigmoid over one half
    return (
        "The model judges each label by itself (sigmoid), and a device answers with the most likely one: "
        f"{float((above > 1).mean()):.0%} of the frames have several labels above 50 %, "
        f"{float((above == 0).mean()):.0%} have none."
    )


def other_presets(classifier: Classifier, teacher: TeacherLogits, threads: int) -> dict[str, float]:
    """Mean confidence on some frames with each other normalisation and colour order, by preset, the highest first."""
    rows, run = spread(len(teacher), _TRIED), OnnxRun(classifier.graph, classifier.path.name, threads)
    own = classifier.input
    found = {}
    for name, preset in PRESETS.items():
        colour = own.colour if own.colour == "grey" else preset.colour
        spec = msgspec.structs.replace(own, mean=preset.mean, std=preset.std, colour=colour)
        if spec == own:
            continue
        prepare = preprocessor(spec)
        scores = np.concatenate([run([classifier.scores], prepare(teacher.pictures[row]))[0] for row in rows])
        if np.isfinite(scores).all():
            found[name] = float(softmax(scores).max(1).mean())
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def draw(classifier: Classifier, frames: Frames, teacher: TeacherLogits, path: Path) -> None:
    """Write a PNG with ten frames as the model sees them, with its first labels. Raises ``OSError``."""
    from cachenet.models.report import contact_sheet  # matplotlib takes a second to import

    panels = []
    predicted = softmax(teacher.scores)
    for row in spread(len(teacher), 10).tolist():
        first = np.argsort(-predicted[row], kind="stable")[:3]
        named = [(classifier.labels[label], float(predicted[row, label])) for label in first.tolist()]
        file = int(teacher.files[row])
        number = (row - int(np.searchsorted(teacher.files, file))) * frames.frame_step
        panels.append(contact_sheet.Panel(frames.name(file, number), teacher.pictures[row], named))
    atomic_files.write(path, contact_sheet.sheet(f"{classifier.path.name}: {describe(classifier.input)}", panels))
