"""The cascade of a device, from its settings and a bundle. Devices, replays and simulations build the same cascade."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cachenet.edge_agent.frame_inputs import detecting, early_exit_scorer, scorer
from cachenet.edge_agent.settings import Settings
from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.build_cascade import build_cascade
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.detect.build_cascade import build_scene_cascade
from cachenet.shared.cascade.detect.scene_cascade import SceneCascade
from cachenet.shared.cascade.detect.spec import SceneSpec
from cachenet.shared.cascade.detect.types import LocalDetector
from cachenet.shared.cascade.model_cache import LocalModel
from cachenet.shared.cascade.spec import CascadeSpec
from cachenet.shared.cascade.tally import Tally
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.early_exit import EarlyExitModel, runner
from cachenet.shared.inference.engine import Session


class DeploymentError(UserError):
    """The bundle or an output cannot be used; the message says what to do."""


def local_model(
    manifest: Manifest,
    name: str,
    session: Session | EarlyExitModel,
    cost: int,
    seconds: float,
    base: bool,
    on_failure: Callable[[str], None] = lambda _: None,
) -> LocalModel:
    """A loaded model of the bundle as the cascade's ``LocalModel``.

    Args:
        cost: Resident size, bytes.
        seconds: Time of one run.
        base: Whether hits of this model count for the level ``base``, otherwise for ``submodels``.
        on_failure: Called with the reason of every failed run.
    """
    model, classes = manifest.models[name], len(manifest.labels)
    judge = None
    if isinstance(session, EarlyExitModel):
        judge = early_exit_scorer(name, session, model.input, classes, on_failure)
    return LocalModel(
        name,
        scorer(name, runner(session), model.input, classes, on_failure),
        model.temperature,
        np.array(model.coverage),
        cost,
        seconds,
        "base" if base else "submodels",
        judge,
    )


def local_detector(
    manifest: Manifest,
    name: str,
    detector: Detector,
    cost: int,
    seconds: float,
    base: bool,
    on_failure: Callable[[str], None] = lambda _: None,
) -> LocalDetector:
    """A loaded detector of the bundle as the cascade's ``LocalDetector``; see ``local_model``."""
    detect, level = detecting(name, detector, on_failure), "base" if base else "submodels"
    return LocalDetector(name, detect, cost, seconds, level, manifest.models[name].answer_score)  # type: ignore[arg-type]


def build_device_cascade(
    settings: Settings,
    manifest: Manifest,
    base: LocalModel | None,
    uses_cloud: bool,
    submodel_bytes: int,
    tally: Tally | None = None,
    kind: type[Cascade] = Cascade,
) -> Cascade:
    """A new cascade of classifiers.

    Args:
        base: The base model; None if no model runs on the device.
        uses_cloud: Whether misses may be sent to a server. Without a server there are no audits.
        submodel_bytes: Bytes that all submodels may use together.
        tally: Counters to continue after a change of version; None for new ones.
        kind: Class of the cascade.
    """
    full = manifest.only("full")
    spec = CascadeSpec(
        classes=len(manifest.labels),
        full_model=full,
        full_temperature=manifest.models[full].temperature,
        priors=manifest.priors,
        # The distribution was fitted to scores of the base model, so it does not apply to a full model in its place.
        distribution=None if base is not None and base.name == full else manifest.distribution,
        max_disagreement=settings.max_disagreement,
        deadline=settings.deadline_ms / 1000,
        reuse_answers="frames" in settings.levels,
        audit_floor=settings.audit_share if uses_cloud else 0.0,
        # A camera draws the same audits in every run, and different audits than other cameras and zones.
        seed=settings.device + settings.title,
    )
    cascade = build_cascade(
        spec,
        base if "base" in settings.levels else None,
        submodel_bytes if "submodels" in settings.levels else None,
        tally,
        kind,
    )
    cascade.explains = settings.explains
    return cascade


def build_device_scene_cascade(
    settings: Settings,
    manifest: Manifest,
    base: LocalDetector | None,
    uses_cloud: bool,
    submodel_bytes: int,
    tally: Tally | None = None,
    kind: type[SceneCascade] = SceneCascade,
) -> SceneCascade:
    """A new cascade of detectors; see ``build_device_cascade``."""
    spec = SceneSpec(
        classes=len(manifest.labels),
        full_model=manifest.only("full"),
        priors=manifest.scene_priors,
        max_object_error=settings.max_object_error,
        deadline=settings.deadline_ms / 1000,
        reuse_tracks="frames" in settings.levels,
        audit_floor=settings.audit_share if uses_cloud else 0.0,
        seed=settings.device + settings.title,
    )
    cascade = build_scene_cascade(
        spec,
        base if "base" in settings.levels else None,
        submodel_bytes if "submodels" in settings.levels else None,
        tally,
        kind,
    )
    cascade.explains = settings.explains
    return cascade
