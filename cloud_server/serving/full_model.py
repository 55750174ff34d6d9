"""The full model of a bundle, ready to run."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from cachenet.cloud_server.serving.v2 import V2Error, V2Model
from cachenet.shared.bundle.manifest import Bundle, ExitKind
from cachenet.shared.cascade.detect.detections import Detections
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.early_exit import EarlyExitModel, ExitResult, RequestContext, load
from cachenet.shared.inference.engine import EngineError, Logits, Provider, Session
from cachenet.shared.inference.image import Input, Picture, Tensor, blank, crop, preprocessor
from cachenet.shared.media.pictures import USEFUL_PIXELS, decode

log = logging.getLogger(__name__)


def useful_pixels(spec: Input) -> int:
    """Pixels of a picture that a model with this input can use: its input's, and a full HD frame at least."""
    width, height = spec.size
    return max(USEFUL_PIXELS, width * height)


class FullModel:
    """Runs a full classifier on encoded pictures, as a whole or with early exits.

    Example:
        model = FullModel(bundle, "cpu", threads=4)
        [result] = model.run([model.prepare(png)], [None])
    """

    def __init__(
        self,
        bundle: Bundle,
        provider: Provider,
        threads: int,
        exit_kind: ExitKind | None = None,
        remote: V2Model | None = None,
    ) -> None:
        """Load the model and run it once.

        Args:
            bundle: Bundle with the model.
            provider: Hardware to run on.
            threads: Number of threads of the model.
            exit_kind: Kind of early exits; None for none.
            remote: The model on a V2 server, which need not be reachable yet; None to run it in this process.

        Raises:
            EngineError: The model cannot run, or does not fit its labels.
        """
        manifest = bundle.manifest
        self.name = manifest.only("full")
        model = manifest.models[self.name]
        self.sha256 = model.sha256
        self._input = model.input
        self._preprocess = preprocessor(model.input)
        self._classes = len(manifest.labels)
        self._model: Session | EarlyExitModel | V2Model
        #: Whether a V2 server runs the model, and takes several runs at a time.
        self.remote = remote is not None
        #: Number of pictures of every run, where the model fixes it.
        self.batch: int | None = None
        if remote is not None:
            self._model = remote
        elif exit_kind is None:
            self._model = Session(bundle.path(self.name), provider, threads).check_classifier()
            self.batch = self._model.batch
        else:
            self._model = load(manifest, exit_kind, bundle.find, provider, threads, random.Random().random)
        self.provider = self._model.provider
        # The first run is the slowest: ONNX Runtime plans memory and selects kernels. No request should wait for it.
        with _later_if_unreachable():
            logits = self._checked(self.run([blank(model.input)], [None])[0].logits[None], 1)
            if not np.isfinite(logits).all():
                raise EngineError(f"{self.name}: gives scores that are not finite")

    def prepare(self, picture: bytes) -> Tensor:
        """Decode a PNG or JPEG to the model's input. Raises ``BadPicture`` if it is no picture, or too large."""
        return self._preprocess(crop(decode(picture, useful_pixels(self._input)), self._input))

    def run(self, tensors: Sequence[Tensor], contexts: Sequence[RequestContext | None]) -> Sequence[ExitResult]:
        """Run the model on each picture.

        Args:
            tensors: Inputs, each ``(1, channels, height, width)``.
            contexts: Context of each request; None for a picture that must run through the whole model.

        Returns:
            The results in order.

        Raises:
            EngineError: The run failed.
        """
        batch = np.concatenate(tensors)
        if isinstance(self._model, EarlyExitModel):
            return self._model.run(batch, contexts)
        return [
            ExitResult(logits, int(logits.argmax())) for logits in self._checked(self._model.run(batch), len(batch))
        ]

    def _checked(self, logits: Logits, pictures: int) -> Logits:
        if logits.shape != (pictures, self._classes):
            raise EngineError(f"{self.name}: gives scores of shape {logits.shape} for {self._classes} labels")
        return logits


class FullDetector:
    """Runs a full detector on encoded pictures, one at a time.

    Example:
        model = FullDetector(bundle, "cpu", threads=4)
        [found] = model.run([model.prepare(jpeg)], [None])
    """

    #: Number of pictures of a run. Larger batches would delay replies, which are worth less with each frame.
    batch = 1

    def __init__(self, bundle: Bundle, provider: Provider, threads: int, remote: V2Model | None = None) -> None:
        """Load the detector and run it once; for ``remote`` see ``FullModel``.

        Raises:
            EngineError: It cannot run, or does not fit its decoder.
        """
        manifest = bundle.manifest
        self.name = manifest.only("full")
        model = manifest.models[self.name]
        self.sha256 = model.sha256
        assert model.decoder is not None  # the manifest was checked
        #: Whether a V2 server runs the model, and takes several runs at a time.
        self.remote = remote is not None
        session = remote or Session(bundle.path(self.name), provider, threads)
        self.provider = session.provider
        self._detect = Detector(session.run_all, model.input, model.decoder)
        self._useful = useful_pixels(model.input)
        width, height = model.input.size
        with _later_if_unreachable():
            self._detect(np.zeros((height, width, 3), np.uint8))  # the first run is the slowest

    def prepare(self, picture: bytes) -> Picture:
        """Decode a PNG or JPEG. Raises ``BadPicture`` if it is no picture, or too large."""
        return decode(picture, self._useful)

    def run(self, pictures: Sequence[Picture], _contexts: Sequence[RequestContext | None]) -> list[Detections]:
        """Run the detector on each picture ``(height, width, 3)``.

        Raises:
            EngineError: A run failed.
        """
        return [self._detect(picture) for picture in pictures]


def load_full(
    bundle: Bundle,
    provider: Provider,
    threads: int,
    exit_kind: ExitKind | None = None,
    remote: V2Model | None = None,
) -> FullModel | FullDetector:
    """The full model of a bundle for its task; see ``FullModel``. Raises ``EngineError``."""
    if bundle.manifest.task == "classification":
        return FullModel(bundle, provider, threads, exit_kind, remote)
    if exit_kind is not None:
        raise EngineError(f"{bundle.manifest.name}: detectors have no early exits; use --set early_exits=off")
    return FullDetector(bundle, provider, threads, remote)


@contextmanager
def _later_if_unreachable() -> Iterator[None]:
    """Log the error of a V2 server: each request tries again."""
    try:
        yield
    except V2Error as error:
        log.warning("%s; each request tries again", error)
