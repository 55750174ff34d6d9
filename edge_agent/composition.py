"""How settings and a bundle become a cascade: the same on a device, in a replay of what it did, and in a simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cachenet.edge_agent.frame_inputs import early_exit_scorer, scorer
from cachenet.edge_agent.settings import Settings
from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.build_cascade import build_cascade
from cachenet.shared.cascade.cascade import Cascade, Tally
from cachenet.shared.cascade.model_cache import LocalModel
from cachenet.shared.cascade.spec import CascadeSpec
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.early_exit import EarlyExitModel, runner
from cachenet.shared.inference.engine import Session


class DeploymentError(UserError):
    """There is nothing to answer with; the message says what to do."""


def local(
    manifest: Manifest,
    name: str,
    session: Session | EarlyExitModel,
    cost: int,
    seconds: float,
    base: bool,
    failed: Callable[[str], None] = lambda _: None,
) -> LocalModel:
    """A loaded model of the bundle as the core wants it. ``base``: whether its hits are counted as the base model's.
    ``failed``: is told why a run has failed."""
    model, classes = manifest.models[name], len(manifest.labels)
    layered = session if isinstance(session, EarlyExitModel) else None
    return LocalModel(
        name,
        scorer(name, runner(session), model.input, classes, failed),
        model.temperature,
        np.array(model.coverage),
        cost,
        seconds,
        "base" if base else "submodels",
        None if layered is None else early_exit_scorer(name, layered, model.input, classes, failed),
    )


def build_device_cascade(
    settings: Settings,
    manifest: Manifest,
    base: LocalModel | None,
    asks: bool,
    room: int,
    tally: Tally | None = None,
    kind: type[Cascade] = Cascade,
) -> Cascade:
    """A new cascade.

    Args:
        base: The base model; None where there is none.
        asks: Whether there is a server that may be asked: without one there are no audits.
        room: Bytes that submodels may cost together.
        tally: Goes on counting across a change of bundle.
        kind: Class of the cascade.
    """
    full = manifest.only("full")
    spec = CascadeSpec(
        classes=len(manifest.labels),
        full_model=full,
        full_temperature=manifest.models[full].temperature,
        priors=manifest.priors,
        # It knows the scores of the base model, not those of a full model in its place.
        distribution=None if base is not None and base.name == full else manifest.distribution,
        max_disagreement=settings.max_disagreement,
        deadline=settings.deadline_ms / 1000,
        hold="frames" in settings.levels,
        audit_floor=settings.audit_share if asks else 0.0,
        # The same camera draws the same audits, so that a run can be repeated; another draws others.
        seed=settings.device + settings.name,
    )
    return build_cascade(
        spec,
        base if "base" in settings.levels else None,
        room if "submodels" in settings.levels else None,
        tally,
        kind,
    )
