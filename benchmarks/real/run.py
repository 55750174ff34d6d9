"""What a policy did on the play frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Run:
    """One policy's answers to ``n`` consecutive frames.

    Attributes:
        labels: The label index that the user receives for each frame ``(n,)``; -1 is ``unknown``.
        asked: Frames that the full model was asked about, audits included ``(n,)`` bool.
        full_answered: Frames that the full model answered within the frame ``(n,)`` bool; audits are none.
        level: Where each answer came from, as the agent calls its levels: ``frames``, ``base``, ``cloud`` ...
        local_ms: Milliseconds of work on the device for each frame ``(n,)``: picture and local models.
    """

    labels: npt.NDArray[np.int64]
    asked: npt.NDArray[np.bool_]
    full_answered: npt.NDArray[np.bool_]
    level: list[str]
    local_ms: npt.NDArray[np.float64]
