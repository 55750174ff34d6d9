"""Features of a candidate: the input of the risk model, at each stage of a lookup.

A feature is a log probability or log odds, a distance between two outputs, the log of a picture change or of an age, or
a flag. So it means the same on every stream. Rows are lists: with three candidates a frame, lists are faster than
arrays.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.probability import PROBABILITY_FLOOR

Array = npt.NDArray[np.float64]
Row = list[float]

#: What a lookup has used: the picture and the filter, the base model too, or a submodel as well.
Stage = Literal["picture", "base", "submodel"]
#: Number of features at each stage.
FEATURE_COUNT: dict[Stage, int] = {"picture": 4, "base": 13, "submodel": 16}
_BASE_GROUPS = {
    "base": slice(0, 4),
    "held": slice(4, 9),
    "recalled": slice(9, 12),
    "filter": slice(12, 13),
}
#: Columns of the features that an explanation shows together, by stage and name: the picture's change since the
#: recalled answer and the age of that answer, the output of the base model, its agreement with the held answer, with
#: the recalled answer, the label filter, and the output of the submodel.
GROUPS: dict[Stage, dict[str, slice]] = {
    "picture": {"change": slice(0, 2), "age": slice(2, 3), "filter": slice(3, 4)},
    "base": _BASE_GROUPS,
    "submodel": {**_BASE_GROUPS, "submodel": slice(13, 16)},
}


class Change(NamedTuple):
    """Difference between a frame and an earlier frame. Each value ``x`` is stored as ``log(1 + x)``.

    Attributes:
        block: Largest change of a block, grey levels.
        mean_square: Mean-square change of the thumbnail, squared grey levels.
        age: Frames between the two.
    """

    block: float
    mean_square: float
    age: float


def picture_row(since_recalled: Change, belief: float) -> Row:
    """Features at stage ``picture`` of the recalled answer (4).

    Args:
        since_recalled: Change since the frame of that answer.
        belief: Probability of the label by the label filter.
    """
    return [*since_recalled, _log_odds(belief)]


def base_row(
    own: float,
    top_probability: float,
    is_top: bool,
    since_held: Change | None,
    distance: float,
    since_recalled: Change | None,
    belief: float,
) -> Row:
    """Features at stage ``base`` of one label (13).

    Args:
        own: The base model's probability of the label.
        top_probability: The base model's largest probability.
        is_top: Whether the label has that probability.
        since_held: Change since the frame of the held answer; None if that answer is another label.
        distance: Jensen-Shannon distance of the base model's output now from its output on that frame.
        since_recalled: Change since the frame of the recalled answer; None if that answer is another label.
        belief: Probability of the label by the label filter, after its update by the base model's output.
    """
    return [
        _log(own),
        _log(1.0 - own),
        float(is_top),
        _log(1.0 - top_probability),
        *((1.0, distance, *since_held) if since_held is not None else (0.0, 0.0, 0.0, 0.0, 0.0)),
        *((1.0, since_recalled.block, since_recalled.mean_square) if since_recalled is not None else (0.0, 0.0, 0.0)),
        _log_odds(belief),
    ]


def submodel_row(base: Row, own: float, is_top: bool) -> Row:
    """Features at stage ``submodel`` of one label (16).

    Args:
        base: Features at stage ``base``.
        own: The submodel's probability of the label.
        is_top: Whether this is the submodel's largest probability.
    """
    return [*base, _log(own), _log(1.0 - own), float(is_top)]


def _log(probability: float) -> float:
    return math.log(probability if probability > PROBABILITY_FLOOR else PROBABILITY_FLOOR)


def _log_odds(probability: float) -> float:
    return _log(probability) - _log(1.0 - probability)
