"""What a lookup has tried, and where the risks come from: the material of an explanation."""

from __future__ import annotations

import msgspec

from cachenet.shared.cascade.types import LocalLevel


class Cause(msgspec.Struct, frozen=True):
    """A part of a risk.

    Attributes:
        name: Name of the part: a group of features of a classifier (``features.GROUPS``) or ``uncertainty``; a part of
            the expected error of a detector (``SceneEstimator.causes``).
        values: What the part was measured as: the features of the group, or the quantities of the part.
        without: The risk with this part as it is on average footage, or, for a detector, with none of it.
    """

    name: str
    values: tuple[float, ...]
    without: float


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One attempt of a lookup to answer a frame on the device.

    Attributes:
        level: Level that gives the best answer after this attempt.
        model: Name of the model that ran; empty for none.
        label: Label of the best answer; None for a detector.
        risk: Risk of the best answer, or its expected object error.
        limit: Largest risk of a hit at this attempt.
        output: Label of highest probability by the model that ran, and this probability; None for no model and for a
            detector.
        objects: Number of objects in a detector's answer; None for a classifier.
        causes: Parts of the risk; empty without a risk model.
    """

    level: LocalLevel
    model: str
    label: int | None
    risk: float
    limit: float
    output: tuple[int, float] | None = None
    objects: int | None = None
    causes: tuple[Cause, ...] = ()


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """The lookup of one frame.

    Attributes:
        threshold: Largest risk of a hit at this frame.
        attempts: The attempts, in order.
        not_asked: Why the full model is not asked although the risk is over the threshold; empty otherwise.
    """

    threshold: float
    attempts: tuple[Attempt, ...]
    not_asked: str = ""
