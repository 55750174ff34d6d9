"""What composed caches may be trusted with: temperatures, and thresholds that hold, of the files as they will run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cachenet.models.exits.heads import HeadTimes
from cachenet.models.exits.select import PRICES, ExitChoice, expected, thresholds
from cachenet.models.exits.sites import Cut
from cachenet.shared.cascade.probability import Probabilities, fit_temperature, softmax
from cachenet.shared.cascade.rates import clopper_pearson_upper
from cachenet.shared.inference.early_exit import SCORES
from cachenet.shared.inference.engine import ModelPart
from cachenet.shared.inference.graph_split import SplitModel, cut
from cachenet.shared.inference.image import Input, Picture, preprocessor

_BATCH = 32
Scores = npt.NDArray[np.float32]


def consult(
    model: SplitModel,
    places: Sequence[Cut],
    caches: Sequence[tuple[int, Path]],
    spec: Input,
    pictures: Sequence[Picture],
    threads: int,
    advance: Callable[[int], object] = lambda _: None,
) -> tuple[list[Scores], Scores]:
    """What each of ``caches``, files for the cut of that number, says of the pictures, and what the model does."""
    numbers = sorted({number for number, _ in caches})
    pieces = cut(model, [places[number].tensors for number in numbers])
    segments = [ModelPart(piece.model, "segment", "cpu", threads) for piece in pieces]
    parts = [(number, ModelPart(path.read_bytes(), path.name, "cpu", 1)) for number, path in caches]
    preprocess = preprocessor(spec)
    said: list[list[Scores]] = [[] for _ in caches]
    whole: list[Scores] = []
    for at in range(0, len(pictures), _BATCH):
        held = {model.image: np.concatenate([preprocess(one) for one in pictures[at : at + _BATCH]])}
        for number, segment in zip([*numbers, -1], segments, strict=True):
            held |= segment.run(held)
            for scores, (own, part) in zip(said, parts, strict=True):
                if own == number:
                    scores.append(part.run(held)[SCORES])
        whole.append(held[model.output])
        advance(at + len(whole[-1]))
    return [np.concatenate(one) for one in said], np.concatenate(whole)


def judged(scores: Scores, whole: Scores, degree: float, place: int, lookup: float, size: int) -> ExitChoice:
    """A cache with its ``scores`` of frames of which the whole model has said ``whole``; see ``ExitChoice``."""
    wrong = scores.argmax(1) != whole.argmax(1)
    return ExitChoice(place, 1.0 - softmax(scores, degree).max(1), wrong, lookup, size)


def degree(scores: Scores, whole: Scores) -> float:
    """The temperature with which a cache's scores explain best what the whole model says."""
    return round(fit_temperature(scores, whole.argmax(1).astype(np.int64)), 4)


def reserve(scores: Scores, belief: Probabilities, degree: float) -> float:
    """How many times the temperature ``degree`` explains best not which label the whole model puts first, but how sure
    it is of each: ``belief`` ``(n, classes)``."""
    return round(fit_temperature(scores, belief) / degree, 4)


def certify(chosen: Sequence[ExitChoice], cost: HeadTimes, wrong: float, confidence: float) -> tuple[float, ...] | None:
    """The loosest thresholds at which the share of wrong answers is at most ``wrong``, without context; None where
    there are none. Frames are taken for independent, which neighbours in a video are not.

    Fixed-sequence testing (A. Angelopoulos et al., "Learn then Test", arXiv 2110.01052, section 2.2): they are tried
    from the strictest, and the first that cannot be shown to hold ends the search.
    """
    proven: tuple[float, ...] | None = None
    for price in PRICES:
        limits = thresholds(chosen, cost.reached, cost.whole, price)
        frames = len(chosen[0].risk)
        errors = round(expected(chosen, limits, cost.reached, cost.whole)[1] * frames)
        if clopper_pearson_upper(errors, frames, confidence) > wrong:
            break
        proven = limits
    return proven
