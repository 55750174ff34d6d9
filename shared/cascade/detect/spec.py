"""Parameters of a detector's cascade."""

from __future__ import annotations

from dataclasses import dataclass, field

from cachenet.shared.cascade.audits import MIN_AUDIT_RATE
from cachenet.shared.cascade.detect.scene_features import ScenePriors

#: Default risk budget; see ``SceneSpec.max_object_error``.
MAX_OBJECT_ERROR = 0.10
#: Least score of a candidate, as a share of the score with which the device's detector alone has the best F1. The risk
#: models weigh what is found, so candidates under that score help; with too many the risks are less certain. Shares
#: of 0.6 to 0.85 are alike on vtest.avi with two detectors; with all of them, from a score of 0.1, F1 is .907 at one
#: question in five instead of .918.
CANDIDATES = 0.75


@dataclass(frozen=True)
class SceneSpec:
    """Parameters of a detector's cascade.

    Attributes:
        classes: Number of labels.
        full_model: Name of the full model.
        priors: Priors of the risk models; empty where the bundle has none.
        max_object_error: Risk budget: largest mean object error, 1 - F1 of a frame's objects against the full model's.
        deadline: Time from a lookup to the latest answer, seconds.
        reuse_tracks: Whether carried tracks alone may answer (levels ``frames`` and ``tracks``).
        audit_floor: Least share of hits that are audited; 0 for no audits.
        seed: Seed of the audits' draws, one a frame.
    """

    classes: int
    full_model: str
    priors: ScenePriors = field(default_factory=dict)
    max_object_error: float = MAX_OBJECT_ERROR
    deadline: float = 1.0
    reuse_tracks: bool = True
    audit_floor: float = MIN_AUDIT_RATE
    seed: str = ""
