"""A detector: from a picture to detections in shares of the whole picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.detect.detections import Detections
from cachenet.shared.inference.decoders import Decoder
from cachenet.shared.inference.image import Input, Picture

#: Runs a network on a batch of one picture; returns all its outputs.
RunAll = Callable[[npt.NDArray[np.float32]], Sequence[npt.NDArray[np.float32]]]


class Detector:
    """Runs a detector on whole pictures.

    Example:
        detector = Detector(session.run_all, model.input, model.decoder)
        found = detector(picture)
    """

    def __init__(self, run: RunAll, spec: Input, decoder: Decoder) -> None:
        """``run``: runs the network; ``spec``: its input."""
        self._run, self._input, self._decoder = run, spec, decoder

    def __call__(self, picture: Picture) -> Detections:
        """The detections in ``picture`` ``(height, width, 3)`` BGR. Raises ``EngineError``."""
        raise NotImplementedError
