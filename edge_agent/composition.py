"""How settings and a bundle become a hierarchy: the same on a device, in a replay of what it did, and in a
simulation."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import numpy as np

from edge_agent.core.audits import Audits
from edge_agent.core.frames import FrameCache
from edge_agent.core.hierarchy import Hierarchy, Rules, Tally
from edge_agent.core.submodels import LocalModel, Submodels
from edge_agent.scoring import judge, scorer
from edge_agent.settings import Settings
from shared.bundle import BundleError, Gate, Manifest
from shared.context import FORGETFUL, Context, Memoryless
from shared.engine import Session
from shared.layered import Layered, runner
from shared.refusal import Refusal


class DeploymentError(Refusal):
    """There is nothing to answer with; the message says what to do."""


def local(
    manifest: Manifest,
    name: str,
    session: Session | Layered,
    cost: int,
    seconds: float,
    base: bool,
    failed: Callable[[str], None] = lambda _: None,
) -> LocalModel:
    """A loaded model of the bundle as the core wants it. ``base``: whether its hits are counted as the base model's.
    ``failed``: is told why a run has failed."""
    model, classes = manifest.models[name], len(manifest.labels)
    layered = session if isinstance(session, Layered) else None
    return LocalModel(
        name,
        scorer(name, runner(session), model.input, classes, failed),
        model.temperature,
        np.array(model.coverage),
        cost,
        seconds,
        "base" if base else "submodels",
        None if layered is None else judge(name, layered, model.input, classes, failed),
    )


def gate_of(settings: Settings, manifest: Manifest) -> Gate:
    """The gate that the settings ask for. Raises ``DeploymentError`` if the bundle has none."""
    try:
        gate = manifest.gate(settings.max_false_hits)
    except BundleError as error:
        raise DeploymentError(str(error)) from None
    if settings.gate == "entropy" and not gate.entropy:
        raise DeploymentError(f"{manifest.name} has no threshold on entropy for this budget; use --gate risk")
    return gate


def compose(
    settings: Settings,
    manifest: Manifest,
    base: LocalModel | None,
    asks: bool,
    room: int,
    tally: Tally | None = None,
    kind: type[Hierarchy] = Hierarchy,
) -> Hierarchy:
    """A new hierarchy, of this ``kind``. ``asks``: whether there is a cloud that may be asked. ``room``: bytes that
    submodels may cost together. Raises ``DeploymentError``."""
    gate = gate_of(settings, manifest)
    full = manifest.only("full")
    classes = len(manifest.labels)
    threshold: float | None = None
    if settings.gate == "entropy":
        threshold = gate.entropy
        context: Context = Memoryless(classes)
    else:
        candour = manifest.context.candour
        parameters = manifest.context if settings.context else msgspec.structs.replace(FORGETFUL, candour=candour)
        context = Context(classes, parameters)
    # Without a base model any submodel is better than none.
    least = base.coverage if base is not None and "base" in settings.levels else np.zeros(classes)
    return kind(
        Rules(gate.claim, settings.deadline_ms / 1000, full, manifest.models[full].temperature, threshold),
        context,
        FrameCache() if "frames" in settings.levels else None,
        Submodels(room, least, settings.replacement) if base is not None and "submodels" in settings.levels else None,
        base if "base" in settings.levels else None,
        tally,
        _audits(settings, manifest, gate, asks),
    )


def _audits(settings: Settings, manifest: Manifest, gate: Gate, asks: bool) -> Audits | None:
    reckons = settings.context and settings.gate == "risk"  # in a risk that an audit could put right
    if not asks or not reckons or not settings.audit_budget:
        return None
    temperature = manifest.models[manifest.only("full")].temperature
    # The same camera draws the same windows, so that a run can be repeated; another draws others, not to ask at once.
    chance = random.Random(settings.device + settings.name)
    return Audits(gate.max_false_hits, settings.audit_budget, temperature, chance.random)
