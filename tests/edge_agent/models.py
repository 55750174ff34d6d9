"""Models that say what the frame's view tells them to: for tests of the core, without engine or picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from edge_agent.core.submodels import LocalModel

from edge_agent.core.types import LocalName
from shared.cascade.frame import Signature

CLASSES = 4
#: Logits, the same for every model, or by the model's name.
View = npt.NDArray[np.float32] | dict[str, npt.NDArray[np.float32]]


def logits(label: int, margin: float) -> npt.NDArray[np.float32]:
    """For ``label``, so much above the others."""
    made: npt.NDArray[np.float32] = np.float32(margin) * np.eye(CLASSES, dtype=np.float32)[label]
    return made


def signature(brightness: float) -> Signature:
    """Of a picture that is one grey all over."""
    return Signature(np.full((12, 16), brightness, np.float32), np.full((24, 32), brightness, np.float32))


def local(
    name: str,
    coverage: Sequence[float] | float = 0.5,
    cost: int = 0,
    seconds: float = 0.0,
    level: LocalName = "submodels",
) -> LocalModel:
    """A model that answers what the view holds for ``name``."""

    def score(view: View) -> npt.NDArray[np.float32]:
        return view[name] if isinstance(view, dict) else view

    covers = np.broadcast_to(np.asarray(coverage, np.float64), (CLASSES,))
    return LocalModel(name, score, 1.0, covers, cost, seconds, level)
