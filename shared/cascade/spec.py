"""Parameters of a cascade."""

from __future__ import annotations

from dataclasses import dataclass, field

from cachenet.shared.cascade.audits import MIN_AUDIT_RATE
from cachenet.shared.cascade.distribution import Distribution
from cachenet.shared.cascade.risk_estimator import Priors

#: Default risk budget; see ``CascadeSpec.max_disagreement``.
MAX_DISAGREEMENT = 0.02


@dataclass(frozen=True)
class CascadeSpec:
    """Parameters of a cascade.

    Attributes:
        full_temperature: Calibration temperature of the full model.
        priors: Prior of the risk model of each stage; empty where the bundle has none.
        distribution: Scores on the bundle's own footage. Nothing is detected if it is None, if its ``least`` is 0, or
            without a base model.
        max_disagreement: Risk budget: largest mean share of hits and full answers that may disagree with the full
            model; fallbacks do not count.
        deadline: Time from a lookup to the latest answer, seconds.
        reuse_answers: Whether held and recalled answers of the full model may be hits (level ``frames``).
        audit_floor: Least share of hits that are audited; 0 for no audits.
        seed: Seed of the audits' draws, one a frame.
    """

    classes: int
    full_model: str
    full_temperature: float = 1.0
    priors: Priors = field(default_factory=dict)
    distribution: Distribution | None = None
    max_disagreement: float = MAX_DISAGREEMENT
    deadline: float = 1.0
    reuse_answers: bool = True
    audit_floor: float = MIN_AUDIT_RATE
    seed: str = ""
