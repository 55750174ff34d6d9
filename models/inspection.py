"""What a full model makes of a user's frames, before anything is built from it."""

from __future__ import annotations

import numpy as np

from models.classifier import Classifier
from models.frames import USES, Frames, uses
from models.scores import softmax
from models.teach import Lesson

Figure = int | float | str | dict[str, float]


def inspect(classifier: Classifier, frames: Frames, lesson: Lesson) -> dict[str, Figure]:
    """Figures by name. ``accuracy`` is there where every folder has the name of a label."""
    words = softmax(lesson.scores)
    answers = words.argmax(1)
    counts = np.bincount(answers, minlength=len(classifier.labels))
    use = uses(lesson.files.tolist(), seed=0)
    spec = classifier.input
    figures: dict[str, Figure] = {
        "takes": f"{spec.side}x{spec.side}, mean {spec.mean}, std {spec.std}, crop {spec.crop:.3f}, {spec.scaling}",
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
    }
    folders = [frames.folders[number] for number in lesson.files.tolist()]
    if set(folders) <= set(classifier.labels):
        truth = np.array([classifier.labels.index(folder) for folder in folders])
        figures["accuracy"] = float((answers == truth).mean())
    return figures
