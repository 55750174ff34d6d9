"""The full model of a bundle, ready to run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared.bundle import Bundle
from shared.engine import EngineError, Logits, Provider, Session
from shared.image import Tensor, crop, decode, preprocessor


class FullModel:
    """The reference: pictures as they came over the wire in, logits out."""

    def __init__(self, bundle: Bundle, provider: Provider, threads: int) -> None:
        """Load the model and try it, so that one that cannot answer is found out here. Raises ``EngineError``."""
        manifest = bundle.manifest
        self.name = manifest.only("full")
        model = manifest.models[self.name]
        self.sha256 = model.sha256
        self._input = model.input
        self._preprocess = preprocessor(model.input)
        self._session = Session(bundle.path(self.name), provider, threads)
        self.provider = self._session.provider
        side, classes = model.input.side, len(manifest.labels)
        # The first run is also the slowest: memory is planned, kernels are chosen. No request shall pay for that.
        logits = self.run([np.zeros((1, 3, side, side), np.float32)])
        if logits.shape != (1, classes) or not np.isfinite(logits).all():
            raise EngineError(f"{self.name}: gives scores of shape {logits.shape} for {classes} labels")

    @property
    def batch(self) -> int | None:
        """How many pictures a run must have, where the model fixes that."""
        return self._session.batch

    def prepare(self, picture: bytes) -> Tensor:
        """Decode a PNG or JPEG to what the model takes. Raises ``BadPicture``."""
        return self._preprocess(crop(decode(picture), self._input))

    def run(self, tensors: Sequence[Tensor]) -> Logits:
        """Logits ``(len(tensors), classes)``. Raises ``EngineError``."""
        return self._session.run(np.concatenate(tensors))
