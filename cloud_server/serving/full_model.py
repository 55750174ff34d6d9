"""The full model of a bundle, ready to run."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from cachenet.shared.bundle.manifest import Bundle, Way
from cachenet.shared.inference.early_exit import EarlyExitModel, ExitResult, RequestContext, load
from cachenet.shared.inference.engine import EngineError, Provider, Session
from cachenet.shared.inference.image import Tensor, blank, crop, preprocessor
from cachenet.shared.media.pictures import decode


class FullModel:
    """The reference: pictures as they came over the wire in, logits out; with caches between its layers most pictures
    run through a part of it."""

    def __init__(self, bundle: Bundle, provider: Provider, threads: int, way: Way | None = None) -> None:
        """Load the model and try it, so that one that cannot answer is found out here. ``way``: of the caches to use.
        Raises ``EngineError``."""
        manifest = bundle.manifest
        self.name = manifest.only("full")
        model = manifest.models[self.name]
        self.sha256 = model.sha256
        self._input = model.input
        self._preprocess = preprocessor(model.input)
        self._whole: Session | None = None
        self.layers: EarlyExitModel | None = None
        #: How many pictures a run must have, where the model fixes that.
        self.batch: int | None = None
        if way is None:
            self._whole = Session(bundle.path(self.name), provider, threads)
            self.batch, self.provider = self._whole.batch, self._whole.provider
        else:
            self.layers = load(bundle.manifest, way, bundle.find, provider, threads, random.Random().random)
            self.provider = self.layers.provider
        classes = len(manifest.labels)
        # The first run is also the slowest: memory is planned, kernels are chosen. No request shall pay for that.
        logits = self.run([blank(model.input)], [None])[0].logits[None]
        if logits.shape != (1, classes) or not np.isfinite(logits).all():
            raise EngineError(f"{self.name}: gives scores of shape {logits.shape} for {classes} labels")

    def prepare(self, picture: bytes) -> Tensor:
        """Decode a PNG or JPEG to what the model takes. Raises ``BadPicture``."""
        return self._preprocess(crop(decode(picture), self._input))

    def run(self, tensors: Sequence[Tensor], asked: Sequence[RequestContext | None]) -> Sequence[ExitResult]:
        """Run the model on each picture, in order. ``asked``: see ``EarlyExitModel.run``. Raises ``EngineError``."""
        batch = np.concatenate(tensors)
        if self.layers is not None:
            return self.layers.run(batch, asked)
        assert self._whole is not None
        return [ExitResult(logits, int(logits.argmax())) for logits in self._whole.run(batch)]
