"""What a cascade is built from."""

from __future__ import annotations

from dataclasses import dataclass, field

from cachenet.shared.cascade.audits import FLOOR
from cachenet.shared.cascade.distribution import Distribution
from cachenet.shared.cascade.risk_estimator import Priors

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
