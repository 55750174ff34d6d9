"""The factory of a detector's cascade."""

from __future__ import annotations

import random

from cachenet.shared.cascade.audits import Audits
from cachenet.shared.cascade.detect.scene_cascade import SceneCascade
from cachenet.shared.cascade.detect.scene_estimator import SceneEstimator
from cachenet.shared.cascade.detect.scene_features import SceneStage
from cachenet.shared.cascade.detect.spec import SceneSpec
from cachenet.shared.cascade.detect.types import LocalDetector
from cachenet.shared.cascade.model_cache import ResidentModels
from cachenet.shared.cascade.tally import Tally


def build_scene_cascade(
    spec: SceneSpec,
    base: LocalDetector | None,
    submodel_bytes: int | None = None,
    tally: Tally | None = None,
    kind: type[SceneCascade] = SceneCascade,
) -> SceneCascade:
    """Build a detector's cascade.

    Args:
        base: The base model; None for none.
        submodel_bytes: Memory of all resident submodels together, bytes; None for no submodels.
        tally: Counters to continue, of the cascade before a change of bundle; None to start at zero.
        kind: Class of the cascade, such as a subclass that logs its calls.
    """
    submodels: ResidentModels[LocalDetector] | None = None
    if submodel_bytes is not None:
        submodels = ResidentModels(submodel_bytes)
    audits = None
    if spec.audit_floor:
        audits = Audits(spec.max_object_error, spec.audit_floor, random.Random(spec.seed).random)
    return kind(spec, SceneEstimator(spec.priors), base, submodels, audits, tally)


def cascade_of(spec: SceneSpec, detector: LocalDetector, stage: SceneStage) -> SceneCascade:
    """A cascade that runs ``detector`` on the device, as its base model or as its resident submodel."""
    if stage != "submodel":
        return build_scene_cascade(spec, detector)
    cascade = build_scene_cascade(spec, None, submodel_bytes=detector.cost)
    cascade.install(detector)
    return cascade
