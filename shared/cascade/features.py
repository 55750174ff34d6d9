"""The features that the risk of a label is judged by, at each stage of looking at a frame.

Every feature is free of the stream's scale and means something: a probability, a divergence between two outputs, a
change of the picture, a time. Rows are lists of numbers: with three candidates a frame that is quicker than arrays.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.probability import FLOOR

Array = npt.NDArray[np.float64]
Row = list[float]

#: How far a frame has been looked at: its picture only, by the base model too, by a submodel as well.
Stage = Literal["picture", "base", "submodel"]
STAGES: tuple[Stage, ...] = get_args(Stage)
#: Features of each stage.
COUNT: dict[Stage, int] = {"picture": 4, "base": 13, "submodel": 16}


class Change(NamedTuple):
    """How a frame differs from an earlier one, each as the logarithm of one plus the value: the largest change of a
    block (grey levels), the mean-square change of the thumbnail, the frames between."""

    block: float
    mean_square: float
    age: float


#: Nothing is known to differ.
NO_CHANGE = Change(0.0, 0.0, 0.0)


def of_picture(change: Change, expected: float) -> Row:
    """Stage ``picture``, of the answer to the frame that looks most like this one (4).

    Args:
        change: Since that frame.
        expected: Probability of its label by the label filter.
    """
    return [*change, _log_odds(expected)]


def of_base(
    own: float, top: float, is_top: bool, held: Change | None, divergence: float, recalled: Change | None, belief: float
) -> Row:
    """Stage ``base``, of one label: the base model has looked (13).

    Args:
        own: The base model's probability of the label.
        top: Its largest probability.
        is_top: Whether that is this label's.
        held: Change since the frame of the held answer; None if that is another label.
        divergence: Jensen-Shannon distance of the base model's outputs now from those on that frame.
        recalled: Change since the frame that looks most like this one; None if the answer to it is another label.
        belief: Probability of the label by the label filter, the base model's output taken in.
    """
    return [
        _log(own),
        _log(1.0 - own),
        float(is_top),
        _log(1.0 - top),
        *((1.0, divergence, *held) if held is not None else (0.0, 0.0, 0.0, 0.0, 0.0)),
        *((1.0, recalled.block, recalled.mean_square) if recalled is not None else (0.0, 0.0, 0.0)),
        _log_odds(belief),
    ]


def of_submodel(base: Row, own: float, is_top: bool) -> Row:
    """Stage ``submodel``, of one label: a specialised model has looked as well (16).

    Args:
        base: Features of the stage ``base``.
        own: The specialised model's probability of the label.
        is_top: Whether that is its largest one.
    """
    return [*base, _log(own), _log(1.0 - own), float(is_top)]


def _log(probability: float) -> float:
    return math.log(probability if probability > FLOOR else FLOOR)


def _log_odds(probability: float) -> float:
    return _log(probability) - _log(1.0 - probability)
