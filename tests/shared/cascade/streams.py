"""Cascades over streams that are drawn: pictures, recorded logits and priors, without an engine or a camera."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.build_cascade import build_cascade
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.features import Stage
from cachenet.shared.cascade.frame import Frame, Signature
from cachenet.shared.cascade.model_cache import LocalModel
from cachenet.shared.cascade.replay import ModelTrace, RecordedScores, fit_priors
from cachenet.shared.cascade.risk_model import RiskPrior
from cachenet.shared.cascade.spec import CascadeSpec
from cachenet.shared.cascade.types import LocalLevel, Scores

CLASSES = 4
#: Margins of logits: a model that is sure, and one that is not.
SURE, UNSURE = 9.0, 0.5

#: Logits, the same for every model, or by the model's name.
View = npt.NDArray[np.float32] | dict[str, npt.NDArray[np.float32]]
Thumbnail = npt.NDArray[np.float32]


def logits(label: int, margin: float, classes: int = CLASSES) -> Scores:
    """For ``label``, so much above the others."""
    made = np.zeros(classes, np.float32)
    made[label] = margin
    return made


def signature(thumbnail: Thumbnail) -> Signature:
    """Of a picture whose thumbnail is ``(24, 32)``."""
    shown = np.clip(thumbnail, 0.0, 255.0).astype(np.float32)
    return Signature(shown.reshape(12, 2, 16, 2).mean((1, 3)), shown)


def scenery(seed: int = 0) -> Thumbnail:
    """A background with structure, grey levels 40 to 200."""
    coarse = np.random.default_rng(seed).uniform(40.0, 200.0, (6, 8))
    return np.kron(coarse, np.ones((4, 4))).astype(np.float32)


def noisy(thumbnail: Thumbnail, seed: int, deviation: float = 0.7) -> Thumbnail:
    """A picture with the noise of a sensor."""
    noise = np.random.default_rng(seed).normal(0.0, deviation, thumbnail.shape)
    return (thumbnail + noise).astype(np.float32)


def grey(level: float) -> Signature:
    """Of a picture that is one grey all over."""
    return signature(np.full((24, 32), level, np.float32))


def frame(index: int, view: View | None = None, picture: Signature | None = None) -> Frame:
    """A frame; its picture is the one scenery if none is given."""
    return Frame(index, view, picture or signature(scenery()))


def local(
    name: str,
    coverage: Sequence[float] | float = 0.5,
    cost: int = 0,
    seconds: float = 0.0,
    level: LocalLevel = "submodels",
    classes: int = CLASSES,
) -> LocalModel:
    """A model that gives what the view holds for ``name``; one that looks without a view is an error."""

    def score(view: View) -> Scores:
        return view[name] if isinstance(view, dict) else view

    covers = np.broadcast_to(np.asarray(coverage, np.float64), (classes,))
    return LocalModel(name, score, 1.0, covers, cost, seconds, level)


def trace(seed: int, frames: int, error: float = 0.1, classes: int = CLASSES, submodel: bool = True) -> ModelTrace:
    """A still camera: an object of one label stays for some 25 frames and moves at times; its place shows which it is.

    Args:
        error: Share of frames of which the base model gives a wrong label, with a small margin.
    """
    rng = np.random.default_rng(seed)
    background, labels, pictures = scenery(), np.zeros(frames, np.int64), []
    label, step = int(rng.integers(classes)), 0
    for index in range(frames):
        if rng.random() < 0.04:
            label = int((label + 1 + rng.integers(max(1, classes - 1))) % classes)
        labels[index] = label
        picture = background.copy()
        step = int(rng.integers(3)) if rng.random() < 0.1 else step
        left = (8 * label + step) % 24
        picture[8:20, left : left + 7] = 240.0 if label % 2 else 20.0
        pictures.append(signature(noisy(picture, int(rng.integers(1 << 30)))))
    full = rng.normal(0.0, 0.3, (frames, classes)).astype(np.float32)
    full[np.arange(frames), labels] += 8.0

    def student(wrong_share: float) -> npt.NDArray[np.float32]:
        wrong = rng.random(frames) < wrong_share
        given = np.where(wrong, (labels + 1) % classes, labels)
        margin = np.where(wrong, rng.uniform(0.2, 2.0, frames), rng.uniform(1.0, 7.0, frames))
        scores = rng.normal(0.0, 0.3, (frames, classes)).astype(np.float32)
        scores[np.arange(frames), given] += margin.astype(np.float32)
        return scores

    return ModelTrace(full, student(error), pictures, {"special": student(error / 2)} if submodel else {})


@lru_cache
def priors(classes: int = CLASSES) -> dict[Stage, RiskPrior]:
    """What footage of such a camera gives."""
    return fit_priors([trace(100, 200, classes=classes)], {"special": 1.0}, 1.0)


def build(
    budget: float = 0.02,
    with_priors: bool = True,
    audit_floor: float = 0.0,
    reuse_answers: bool = True,
    submodel_bytes: int | None = 100,
    **more: object,
) -> Cascade:
    """A cascade with a base model whose view tells what it sees."""
    spec = CascadeSpec(
        CLASSES,
        "full",
        priors=priors() if with_priors else {},
        max_disagreement=budget,
        deadline=0.25,
        reuse_answers=reuse_answers,
        audit_floor=audit_floor,
        seed="camera",
        **more,  # type: ignore[arg-type]
    )
    return build_cascade(spec, local("base", level="base"), submodel_bytes)


def recorded_model(model: LocalModel, scores: npt.NDArray[np.float32]) -> LocalModel:
    """``model`` with recorded logits ``(n, classes)`` in place of its ``score`` function."""
    return replace(model, score=RecordedScores(scores), score_with_exits=None)


def recorded(shown: ModelTrace, **more: object) -> Cascade:
    """A cascade whose models are those of the trace, the submodel resident."""
    cascade = build(**more)  # type: ignore[arg-type]
    assert cascade.base is not None
    cascade.base = recorded_model(cascade.base, shown.base)
    for name, scores in shown.submodels.items():
        cascade.install(recorded_model(local(name, cost=1), scores))
    return cascade


def noise_stream(count: int, seed: int = 0, picture: Thumbnail | None = None) -> Iterator[Signature]:
    """A still camera that looks at one scenery."""
    background = scenery() if picture is None else picture
    for index in range(count):
        yield signature(noisy(background, seed + index))
