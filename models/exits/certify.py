"""Calibrates and certifies selected exits: temperatures and thresholds, measured with the files of the bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cachenet.models.exits.heads import HeadTimes
from cachenet.models.exits.select import PRICES, ExitChoice, expected, thresholds
from cachenet.models.exits.sites import Site
from cachenet.shared.cascade.probability import Probabilities, fit_temperature, softmax
from cachenet.shared.cascade.rates import clopper_pearson_upper
from cachenet.shared.inference.early_exit import SCORES
from cachenet.shared.inference.engine import ModelPart
from cachenet.shared.inference.graph_split import SplitModel, cut
from cachenet.shared.inference.image import Input, Picture, preprocessor

_BATCH = 32
#: Logits ``(n, classes)`` of a head or of the whole model.
Scores = npt.NDArray[np.float32]


def run_exits(
    model: SplitModel,
    places: Sequence[Site],
    caches: Sequence[tuple[int, Path]],
    spec: Input,
    pictures: Sequence[Picture],
    threads: int,
    advance: Callable[[int], object] = lambda _: None,
) -> tuple[list[Scores], Scores]:
    """Run the model, cut at the sites of its exits, with every head.

    Args:
        places: All sites.
        caches: For each head, the index of its site and its file.
        advance: Called with the number of pictures that are done.

    Returns:
        The scores of each head, and of the whole model.
    """
    numbers = sorted({number for number, _ in caches})
    pieces = cut(model, [places[number].tensors for number in numbers])
    segments = [ModelPart(piece.model, "segment", "cpu", threads) for piece in pieces]
    heads = [(number, ModelPart(path.read_bytes(), path.name, "cpu", 1)) for number, path in caches]
    preprocess = preprocessor(spec)
    outputs: list[list[Scores]] = [[] for _ in caches]
    whole: list[Scores] = []
    for at in range(0, len(pictures), _BATCH):
        tensors = {model.image: np.concatenate([preprocess(one) for one in pictures[at : at + _BATCH]])}
        for number, segment in zip([*numbers, -1], segments, strict=True):
            tensors |= segment.run(tensors)
            for scores, (own, head) in zip(outputs, heads, strict=True):
                if own == number:
                    scores.append(head.run(tensors)[SCORES])
        whole.append(tensors[model.output])
        advance(at + len(whole[-1]))
    return [np.concatenate(one) for one in outputs], np.concatenate(whole)


def exit_choice(scores: Scores, whole: Scores, temperature: float, site: int, lookup: float, size: int) -> ExitChoice:
    """An exit from its ``scores`` and the whole model's for the same frames; see ``ExitChoice``."""
    wrong = scores.argmax(1) != whole.argmax(1)
    return ExitChoice(site, 1.0 - softmax(scores, temperature).max(1), wrong, lookup, size)


def fit_head_temperature(scores: Scores, whole: Scores) -> float:
    """Temperature of a head, fitted to the whole model's labels."""
    return round(fit_temperature(scores, whole.argmax(1).astype(np.int64)), 4)


def reserve(scores: Scores, probabilities: Probabilities, temperature: float) -> float:
    """The temperature fitted to the whole model's probabilities ``(n, classes)``, over the one fitted to its labels."""
    return round(fit_temperature(scores, probabilities) / temperature, 4)


def certify(chosen: Sequence[ExitChoice], cost: HeadTimes, wrong: float, confidence: float) -> tuple[float, ...] | None:
    """The loosest thresholds with a certified share of wrong answers of at most ``wrong``, without context.

    Fixed-sequence testing (A. Angelopoulos et al., "Learn then Test", arXiv 2110.01052, section 2.2): thresholds are
    tried from the strictest on, and the first that cannot be certified ends the search. Frames count as independent,
    which neighbouring frames of a video are not. None if no threshold can be certified.
    """
    certified: tuple[float, ...] | None = None
    for price in PRICES:
        limits = thresholds(chosen, cost.reached, cost.whole, price)
        frames = len(chosen[0].risk)
        errors = round(expected(chosen, limits, cost.reached, cost.whole)[1] * frames)
        if clopper_pearson_upper(errors, frames, confidence) > wrong:
            break
        certified = limits
    return certified
