"""The features that the risk of a label is judged by, at each stage of looking at a frame.

Every feature is free of the stream's scale and means something: a probability, a divergence between two outputs, a
change of the picture, a time.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from shared.cascade.frame import Frame
from shared.cascade.frame_cache import FrameCache, Rows
from shared.cascade.probability import Probabilities, log_floor

Array = npt.NDArray[np.float64]

#: How far a frame has been looked at: its picture only, by the base model too, by a submodel as well.
Stage = Literal["picture", "base", "submodel"]
STAGES: tuple[Stage, ...] = get_args(Stage)
#: Features of each stage.
COUNT: dict[Stage, int] = {"picture": 4, "base": 13, "submodel": 16}


def picture_changes(frame: Frame, cache: FrameCache, rows: Rows) -> Array:
    """How the picture of ``frame`` differs from those of cache entries.

    Returns:
        ``(n, 3)`` for ``rows`` ``(n,)``: logarithms of one plus the largest change of a block (grey levels), the
        mean-square change of the thumbnail, and the frames between.
    """
    change = np.abs(cache.blocks[rows] - frame.signature.blocks.ravel()).max(1)
    apart = cache.thumbnails[rows] - frame.signature.thumbnail.ravel()
    mean_square = np.einsum("ij,ij->i", apart, apart) / apart.shape[1]
    age = np.maximum(frame.index - cache.indices[rows], 0)
    return np.log1p(np.stack([change, mean_square, age], 1).astype(np.float64))


def of_picture(changes: Array, labels: Rows, belief: Probabilities) -> Array:
    """Stage ``picture``: the entry that looks most like the frame, and what the label filter expects ``(n, 4)``.

    Args:
        changes: ``picture_changes`` of the entries ``(n, 3)``.
        labels: Labels to judge, those of the entries ``(n,)``.
        belief: Of the label filter ``(classes,)``.
    """
    return np.concatenate([changes, _log_odds(belief[labels])[:, None]], 1)


def of_base(
    labels: Rows,
    probabilities: Probabilities,
    held: npt.NDArray[np.bool_],
    divergence: Array,
    changes: Array,
    recalled: npt.NDArray[np.bool_],
    recalled_changes: Array,
    belief: Probabilities,
) -> Array:
    """Stage ``base``: the base model has looked ``(n, 13)``.

    Args:
        labels: Labels to judge ``(n,)``.
        probabilities: Of the base model now ``(classes,)``.
        held: Whether each label is the held answer it is compared with ``(n,)``.
        divergence: Jensen-Shannon distance of the base model's outputs now from those on the held answer's frame
            ``(n,)``.
        changes: ``picture_changes`` since that frame ``(n, 3)``.
        recalled: Whether each label is the answer to the frame that looks most like this one ``(n,)``.
        recalled_changes: ``picture_changes`` since that frame ``(3,)``.
        belief: Of the label filter, the base model's output taken in ``(classes,)``.
    """
    own, top = probabilities[labels], probabilities.max()
    return np.concatenate(
        [
            log_floor(own)[:, None],
            log_floor(1.0 - own)[:, None],
            (labels == probabilities.argmax())[:, None],
            np.full((len(labels), 1), float(log_floor(1.0 - top))),
            held[:, None] * np.concatenate([np.ones((len(labels), 1)), divergence[:, None], changes], 1),
            recalled[:, None] * np.r_[1.0, recalled_changes[:2]],
            _log_odds(belief[labels])[:, None],
        ],
        1,
    )


def of_submodel(of_base_: Array, labels: Rows, probabilities: Probabilities) -> Array:
    """Stage ``submodel``: a specialised model has looked as well ``(n, 16)``.

    Args:
        of_base_: Features of the stage ``base`` ``(n, 13)``.
        labels: Labels to judge ``(n,)``.
        probabilities: Of the specialised model ``(classes,)``.
    """
    own = probabilities[labels]
    beside = [log_floor(own), log_floor(1.0 - own), (labels == probabilities.argmax()).astype(np.float64)]
    return np.concatenate([of_base_, np.stack(beside, 1)], 1)


def _log_odds(probability: Array) -> Array:
    return log_floor(probability) - log_floor(1.0 - probability)
