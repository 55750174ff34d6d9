"""The parts of a risk in words."""

from __future__ import annotations

import math
from collections.abc import Callable

from cachenet.shared.cascade.decision import Attempt, Cause

#: Least share of the risk that a part must change to be shown.
_LEAST_SHARE = 0.1
#: Most parts that are shown.
_MOST = 4

#: Makes the text of a part, from its values, the label of the best answer and the model that ran.
_Text = Callable[[tuple[float, ...], str, str], str]


def shown(attempt: Attempt) -> list[Cause]:
    """The parts that change the risk most, the greatest first."""
    changed = [(abs(attempt.risk - one.without), one) for one in attempt.causes]
    least = _LEAST_SHARE * max(attempt.risk, 1e-9)
    ordered = sorted((pair for pair in changed if pair[0] >= least), key=lambda pair: -pair[0])
    return [cause for _, cause in ordered[:_MOST]]


def text(cause: Cause, label: str, model: str) -> str:
    """A part in words.

    Args:
        label: Label of the best answer; empty for a detector.
        model: Name of the model that ran; empty for none.
    """
    return _TEXTS[cause.name](cause.values, label, model) if cause.name in _TEXTS else cause.name


def _number(value: float) -> str:
    """A number of objects or a ratio, with two digits."""
    return f"{value:.2g}"


def _change(values: tuple[float, ...], *_: str) -> str:
    return f"the picture differs by {math.expm1(values[0]):.0f} grey levels from that of the recalled answer"


def _age(values: tuple[float, ...], *_: str) -> str:
    return f"the recalled answer is {_frames(values[0])} old"


def _filter(values: tuple[float, ...], label: str, _: str) -> str:
    return f"the labels of the last frames give {label} {_percent(1.0 / (1.0 + math.exp(-values[0])))}"


def _base(values: tuple[float, ...], label: str, _: str) -> str:
    return f"the base model gives {label} {_percent(math.exp(values[0]))}"


def _held(values: tuple[float, ...], label: str, _: str) -> str:
    if not values[0]:
        return f"the full model has not answered {label} last"
    return f"the full model's newest answer is {label}, {_frames(values[4])} old"


def _recalled(values: tuple[float, ...], label: str, _: str) -> str:
    return f"the full model has {'' if values[0] else 'not '}answered {label} to the most similar frame"


def _submodel(values: tuple[float, ...], label: str, model: str) -> str:
    return f"{model} gives {label} {_percent(math.exp(values[0]))}"


def _uncertainty(*_: object) -> str:
    return "the full model has answered few such frames, so the risk itself is uncertain"


def _wrong(values: tuple[float, ...], *_: str) -> str:
    return f"{_number(values[0])} of the {values[1]:.0f} answered objects may not be there"


def _left_out(values: tuple[float, ...], *_: str) -> str:
    return f"{_number(values[0])} of {values[1]:.0f} unsure objects, which are left out, may be there"


def _uncovered(values: tuple[float, ...], *_: str) -> str:
    return f"{_number(values[0])} objects that no model of the device has found may be there"


def _calibration(values: tuple[float, ...], *_: str) -> str:
    return f"the full model has lately found {_number(values[0])} times the expected errors"


def _percent(share: float) -> str:
    """A share as percent; one close to 0 or 1 is not rounded to it."""
    if 0.995 < share < 1.0:
        return "over 99 %"
    return f"{100 * share:.0f} %" if share >= 0.005 or share == 0.0 else "under 1 %"


def _frames(log_age: float) -> str:
    age = round(math.expm1(log_age))
    return f"{age} frame{'' if age == 1 else 's'}"


_TEXTS: dict[str, _Text] = {
    "change": _change,
    "age": _age,
    "filter": _filter,
    "base": _base,
    "held": _held,
    "recalled": _recalled,
    "submodel": _submodel,
    "uncertainty": _uncertainty,
    "wrong": _wrong,
    "left_out": _left_out,
    "uncovered": _uncovered,
    "calibration": _calibration,
}

#: The parts in two or three words, for counts over many frames.
NAMES = {
    "change": "the picture had changed",
    "age": "the recalled answer was old",
    "filter": "the last frames showed another label",
    "base": "the base model was not sure",
    "held": "the full model had not given that label last",
    "recalled": "the full model had not given that label to the most similar frame",
    "submodel": "the submodel was not sure",
    "uncertainty": "few such frames had been answered by the full model",
    "wrong": "answered objects might not be there",
    "left_out": "unsure objects might be there",
    "uncovered": "objects might be there that nothing has found",
    "calibration": "the last answers had more errors than expected",
}
