"""The one place where the parts of a cascade are put together."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

from shared.cascade.audits import FLOOR, Audits
from shared.cascade.cascade import Cascade, Rules, Tally
from shared.cascade.distribution import Distribution, DistributionMonitor
from shared.cascade.model_cache import LocalModel, ModelCache
from shared.cascade.risk_estimator import Priors, RiskEstimator

#: Mean share of all answers that may disagree with the full model.
MAX_DISAGREEMENT = 0.02


@dataclass(frozen=True)
class CascadeSpec:
    """What a cascade is built from.

    Attributes:
        classes: Number of labels.
        full_model: Name of the full model.
        full_temperature: Its temperature.
        priors: The bundle's, by stage; empty where it has none.
        distribution: What the bundle's footage looks like; None where nobody knows.
        max_disagreement: Mean share of all answers that may disagree with the full model.
        deadline: Seconds that a frame may take.
        hold: Whether held answers may be hits (level ``frames``).
        audit_floor: Share of hits that is audited at least; 0 for no audits.
        seed: Audits are drawn from it: the same camera draws the same frames, so that a run can be repeated.
    """

    classes: int
    full_model: str
    full_temperature: float = 1.0
    priors: Priors = field(default_factory=dict)
    distribution: Distribution | None = None
    max_disagreement: float = MAX_DISAGREEMENT
    deadline: float = 1.0
    hold: bool = True
    audit_floor: float = FLOOR
    seed: str = ""


def build_cascade(
    spec: CascadeSpec,
    base: LocalModel | None,
    submodel_budget: int | None = None,
    tally: Tally | None = None,
    kind: type[Cascade] = Cascade,
) -> Cascade:
    """A new cascade.

    Args:
        base: The base model; None where there is none.
        submodel_budget: Bytes that submodels may cost together; None for no submodels.
        tally: Goes on counting across a change of bundle.
        kind: Class of the cascade, such as one that logs its calls.
    """
    coverage = np.zeros(spec.classes) if base is None else base.coverage
    monitor = None
    if base is not None and spec.distribution is not None and spec.distribution.least > 0.0:
        monitor = DistributionMonitor(spec.distribution)
    return kind(
        Rules(spec.max_disagreement, spec.deadline, spec.full_model, spec.full_temperature, spec.hold),
        RiskEstimator(spec.classes, spec.priors),
        base,
        ModelCache(submodel_budget, coverage) if submodel_budget is not None and base is not None else None,
        Audits(spec.max_disagreement, spec.audit_floor, random.Random(spec.seed).random) if spec.audit_floor else None,
        monitor,
        tally,
    )
