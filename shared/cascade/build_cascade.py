"""The factory of the cascade."""

from __future__ import annotations

import random

import numpy as np

from cachenet.shared.cascade.audits import Audits
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.distribution import DistributionMonitor
from cachenet.shared.cascade.model_cache import LocalModel, ModelCache
from cachenet.shared.cascade.risk_estimator import RiskEstimator
from cachenet.shared.cascade.spec import CascadeSpec
from cachenet.shared.cascade.tally import Tally


def build_cascade(
    spec: CascadeSpec,
    base: LocalModel | None,
    submodel_bytes: int | None = None,
    tally: Tally | None = None,
    kind: type[Cascade] = Cascade,
) -> Cascade:
    """Build a cascade.

    Args:
        base: The base model; None for none.
        submodel_bytes: Memory of all resident submodels together, bytes; None for no submodels. Without a base
            model there are none.
        tally: Counters to continue, of the cascade before a change of bundle; None to start at zero.
        kind: Class of the cascade, such as a subclass that logs its calls.
    """
    coverage = np.zeros(spec.classes) if base is None else base.coverage
    monitor = None
    if base is not None and spec.distribution is not None and spec.distribution.least > 0.0:
        monitor = DistributionMonitor(spec.distribution)
    return kind(
        spec,
        RiskEstimator(spec.classes, spec.priors),
        base,
        ModelCache(submodel_bytes, coverage) if submodel_bytes is not None and base is not None else None,
        Audits(spec.max_disagreement, spec.audit_floor, random.Random(spec.seed).random) if spec.audit_floor else None,
        monitor,
        tally,
    )
