"""Serialised state of a camera's risk models, for restarts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from cachenet.shared.cascade.detect.scene_features import SCENE_FEATURE_COUNT, SceneModel
from cachenet.shared.cascade.features import FEATURE_COUNT, Array, Stage
from cachenet.shared.cascade.risk_model import RiskPrior

#: Largest state that is decoded, bytes. The models of a classifier take about 5 kB, those of a detector 11 kB, and
#: twice that with priors.
MAX_BYTES = 64 << 10

#: Name of a risk model: a stage of a classifier's cascade, or a model of a detector's.
RiskName = Stage | SceneModel
_MAX_WEIGHTS = max(*FEATURE_COUNT.values(), *SCENE_FEATURE_COUNT.values()) + 1
_Weights = Annotated[tuple[float, ...], msgspec.Meta(max_length=_MAX_WEIGHTS)]
_Precision = Annotated[tuple[float, ...], msgspec.Meta(max_length=_MAX_WEIGHTS**2)]


class BadLearnerState(ValueError):
    """Bytes without a valid state of this bundle version; the message says why."""


class LearnerState(NamedTuple):
    """Learned state of a ``RiskEstimator`` or ``SceneEstimator``.

    Attributes:
        stages: Its ``state``: weights ``(d + 1,)`` and precision ``(d + 1, d + 1)`` of each risk model.
        fitted: Its ``fitted`` priors; empty if the bundle has its own.
    """

    # The keys are of ``RiskName``; a mapping's type is invariant in them.
    stages: Mapping[Any, tuple[Array, Array]]
    fitted: Mapping[Any, RiskPrior] = {}


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``stages``: weights, and precision in row-major order."""

    bundle_version: str
    stages: dict[RiskName, tuple[_Weights, _Precision]]
    fitted: dict[RiskName, RiskPrior]


def encode(state: LearnerState, bundle_version: str) -> bytes:
    """``state`` as MessagePack, without loss."""
    stages = {stage: (own.tolist(), precision.ravel().tolist()) for stage, (own, precision) in state.stages.items()}
    return msgspec.msgpack.encode({"bundle_version": bundle_version, "stages": stages, "fitted": state.fitted})


def decode(data: bytes, bundle_version: str, features: Mapping[Any, int] = FEATURE_COUNT) -> LearnerState:
    """Inverse of ``encode``.

    Args:
        data: ``MAX_BYTES`` at most.
        bundle_version: Expected version.
        features: Number of features of each risk model.

    Raises:
        BadLearnerState: ``data`` is damaged, too large, not finite, or of another version of the bundle.
    """
    if len(data) > MAX_BYTES:
        raise BadLearnerState(f"{len(data)} bytes, at most {MAX_BYTES} are expected")
    try:
        stored = msgspec.msgpack.decode(data, type=_Stored)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadLearnerState(f"damaged: {error}") from None
    if stored.bundle_version != bundle_version:
        raise BadLearnerState(f"learned with bundle version {stored.bundle_version[:12]}, not {bundle_version[:12]}")
    if other := (stored.stages.keys() | stored.fitted.keys()) - features.keys():
        raise BadLearnerState(f"{min(other)} is a risk model of another task")
    stages: dict[RiskName, tuple[Array, Array]] = {}
    for stage, (weights, precision) in stored.stages.items():
        size = features[stage] + 1
        if (len(weights), len(precision)) != (size, size * size):
            raise BadLearnerState(f"stage {stage} has {len(weights)} weights, {size} are expected")
        stages[stage] = np.array(weights), np.array(precision).reshape(size, size)
        if not all(np.isfinite(array).all() for array in stages[stage]):
            raise BadLearnerState(f"stage {stage} has weights that are not finite")
    if not all(prior.check(features[stage]) for stage, prior in stored.fitted.items()):
        raise BadLearnerState("a prior has a wrong shape")
    return LearnerState(stages, stored.fitted)
