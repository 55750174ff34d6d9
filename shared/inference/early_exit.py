"""A full model with caches between its layers: a picture runs only through as many as it needs.

The model is cut into segments. After each but the last a cache says, from the activations that are there, what the
whole model would say; the rows of a batch of which it is sure enough leave, the others go on, and the answers come back
in order (A. Kumar et al., "Accelerating deep learning inference via freezing", arXiv 2002.02645; A. Balasubramanian et
al., "Accelerating deep learning inference via learned caches", arXiv 2101.07344; M. Abedi et al., "Improving the
performance of DNN-based software services using automated layer caching", arXiv 2209.08625).

A few requests, drawn at random, run whole although a cache could have answered. They tell what to expect of requests,
and whether the caches together are right as often as was proven: if not, no cache answers until checks have shown that
they may. A cache that does not pay for its lookups rests.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cachenet.shared.bundle.manifest import Layer, Manifest, Model, Way
from cachenet.shared.cascade.probability import Probabilities, softmax
from cachenet.shared.inference.engine import (
    Batch,
    EngineError,
    Logits,
    ModelPart,
    Provider,
    Session,
    providers,
)
from cachenet.shared.inference.exit_cost import ExitCostModel
from cachenet.shared.inference.exit_monitor import ExitMonitor
from cachenet.shared.inference.graph_split import SegmentError, cut, read
from cachenet.shared.inference.image import blank
from cachenet.shared.inference.request_prior import Expectation

log = logging.getLogger(__name__)

#: The names of what a cache gives: ``scores`` ``(n, classes)``, and ``features`` ``(n, dimensions)``, what its last
#: layer sees.
SCORES, FEATURES = "scores", "features"
#: The share of requests that run whole to check, in the long run; and the first so many mostly do.
_PROBES, _FIRST = 1 / 50, 8


class RequestContext(NamedTuple):
    """What comes with a picture: the ``recent`` labels of its device, oldest first, the ``risk`` at which a cache may
    answer at the most, and the name of the ``device``, where there are several."""

    recent: tuple[int, ...] = ()
    risk: float = 1.0
    device: str = ""


@dataclass(frozen=True, slots=True)
class ExitResult:
    """What came of one picture. ``logits`` ``(classes,)``, of the full model's temperature; ``label``: what they and
    the request's context lead to. ``layer``: which cache has answered, from 0, and then the ``risk`` that the whole
    model would have led to another label; both None if the whole model has."""

    logits: Logits
    label: int
    layer: int | None = None
    risk: float | None = None


@dataclass(slots=True)
class _Request:
    """A picture on its way; ``asked`` None: through all of the model. ``probed``: whether it was drawn to run whole;
    ``would``: what the first cache that was sure would have answered."""

    asked: RequestContext | None
    probed: bool
    would: int | None = None

    @property
    def recent(self) -> tuple[int, ...]:
        return () if self.asked is None else self.asked.recent

    @property
    def device(self) -> str:
        return "" if self.asked is None else self.asked.device


class Cache:
    """One layer's cache: its model, and whether it pays to ask it."""

    def __init__(self, layer: Layer, model: ModelPart, worth: ExitCostModel) -> None:
        self.layer, self.worth = layer, worth
        self._model = model

    def look(self, held: dict[str, Batch]) -> tuple[Probabilities, Batch]:
        """What it says of each row, calibrated ``(n, classes)``, and the scores behind that. Raises ``EngineError``."""
        scores = self._model.run(held)[SCORES]
        return softmax(scores, self.layer.temperature), scores

    def logits(self, scores: Batch, temperature: float) -> Logits:
        """Its ``scores`` as the logits, at ``temperature``, of the same calibrated probabilities."""
        scaled: Logits = scores * np.float32(temperature / (self.layer.temperature * self.layer.reserve))
        return scaled


class EarlyExitModel:
    """The segments of a full model and the caches after each but the last. Safe to run from several threads, one at a
    time."""

    def __init__(
        self,
        segments: Sequence[ModelPart],
        caches: Sequence[Cache],
        image: str,
        temperature: float,
        classes: int,
        wrong: float,
        draw: Callable[[], float],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``image``: the tensor that pictures come in; ``temperature``: the whole model's; ``wrong``: the share of
        requests to which the caches together may give another answer than it; ``draw``: of numbers in 0..1."""
        if len(segments) != len(caches) + 1:
            raise EngineError(f"{len(segments)} segments for {len(caches)} caches")
        self._segments, self.caches = list(segments), list(caches)
        self._image, self._temperature = image, temperature
        self._output = segments[-1].gives[0]
        self.provider = segments[0].provider
        self._draw, self._clock = draw, clock
        self._lock = threading.Lock()
        self._seen = 0
        self.expectation = Expectation(classes)
        #: Whether the caches are right as often as they must be.
        self.watch = ExitMonitor(wrong)

    def run(self, batch: Batch, asked: Sequence[RequestContext | None]) -> list[ExitResult]:
        """Run ``batch`` ``(n, channels, height, width)``. ``asked``: with each picture; None for one that must run
        through all of the model. In order. Raises ``EngineError``."""
        with self._lock:
            return self._run(batch, [_Request(one, one is not None and self._drawn()) for one in asked])

    def _run(self, batch: Batch, requests: Sequence[_Request]) -> list[ExitResult]:
        priors = np.stack([self.expectation.prior(one.recent, one.device) for one in requests])
        passed: dict[int, ExitResult] = {}
        left, held = np.arange(len(batch)), {self._image: batch}
        went_on: list[tuple[Cache, float, int]] = []
        looks = any(one.asked is not None for one in requests)
        checks = any(one.probed for one in requests)
        for place, (segment, cache) in enumerate(zip(self._segments[:-1], self.caches, strict=True)):
            held |= segment.run(held)
            if looks and (cache.worth.due() if self.watch.trusted else checks):
                begun = self._clock()
                hit = self._look(place, cache, held, priors, left, requests, passed)
                now = self._clock()
                cache.worth.looked(len(left), now - begun)
                if hit.any():
                    left = left[~hit]
                    held = {name: value[~hit] for name, value in held.items()}
                went_on.append((cache, now, len(left)))
            if not len(left):
                break
            held = {name: held[name] for name in cache.layer.tensors}
        if len(left):
            self._finish(held, priors, left, requests, passed)
        ended = self._clock()
        for cache, begun, count in went_on:
            cache.worth.went_on(count, ended - begun)
        return [passed[row] for row in range(len(batch))]

    def _look(
        self,
        place: int,
        cache: Cache,
        held: dict[str, Batch],
        priors: Probabilities,
        left: npt.NDArray[np.int64],
        requests: Sequence[_Request],
        passed: dict[int, ExitResult],
    ) -> npt.NDArray[np.bool_]:
        """Let a cache answer what it is sure of into ``passed``; which of the rows that are ``left`` it has."""
        hit = np.zeros(len(left), np.bool_)
        try:
            word, scores = cache.look(held)
        except EngineError as error:  # what it cannot say the whole model can
            log.error("cache %d between layers: %s", place + 1, error)
            return hit
        belief = word * priors[left]
        belief /= belief.sum(1, keepdims=True)
        labels = belief.argmax(1)
        risks = 1.0 - belief.max(1)
        asked = found = 0
        for at, row in enumerate(left.tolist()):
            request = requests[row]
            if request.asked is None:
                continue
            asked += 1
            sure = bool(risks[at] <= min(cache.layer.threshold, request.asked.risk))
            found += sure
            if sure and not request.probed and self.watch.trusted:
                hit[at] = True
                logits = cache.logits(scores[at], self._temperature)
                passed[row] = ExitResult(logits, int(labels[at]), place, float(risks[at]))
                continue
            if sure and request.would is None:
                request.would = int(labels[at])
        cache.worth.found(found, asked)
        return hit

    def _finish(
        self,
        held: dict[str, Batch],
        priors: Probabilities,
        left: npt.NDArray[np.int64],
        requests: Sequence[_Request],
        passed: dict[int, ExitResult],
    ) -> None:
        """The last segment, and what it teaches."""
        scores = self._segments[-1].run(held)[self._output]
        words = softmax(scores, self._temperature)
        for at, row in enumerate(left.tolist()):
            request, label = requests[row], int((words[at] * priors[row]).argmax())
            if request.probed:
                self.expectation.learn(request.recent, int(scores[at].argmax()), request.device)
                self._check(request.would is not None and request.would != label)
            passed[row] = ExitResult(scores[at], label)

    def _check(self, wrong: bool) -> None:
        """One request of all has been checked."""
        if not self.watch.add(wrong):
            return
        if self.watch.trusted:
            log.warning("caches between layers are right again, and answer")
        else:
            log.warning("caches between layers err more than they may: none answers until checks show otherwise")

    def whole(self, batch: Batch) -> Logits:
        """What the whole model says, ``(n, classes)``. Raises ``EngineError``."""
        return np.stack([passed.logits for passed in self.run(batch, [None] * len(batch))])

    def _drawn(self) -> bool:
        """Whether this request is drawn to run whole."""
        self._seen += 1
        return self._draw() < max(_PROBES, _FIRST / (_FIRST + self._seen))


def runner(session: Session | EarlyExitModel) -> Callable[[Batch], Logits]:
    """All of a model, however it is loaded: a batch in, logits ``(n, classes)`` out."""
    return session.whole if isinstance(session, EarlyExitModel) else session.run


def load(
    manifest: Manifest,
    way: Way,
    find: Callable[[Model | Layer], Path],
    provider: Provider,
    threads: int,
    draw: Callable[[], float],
) -> EarlyExitModel:
    """The full model of a bundle, cut, with its caches of that ``way``. ``find``: where a file is. Raises
    ``EngineError``."""
    name = manifest.only("full")
    if (layers := manifest.layers.get(way)) is None:
        has = f"it has {', '.join(manifest.layers)}" if manifest.layers else "'model-builder layers' makes them"
        raise EngineError(f"{manifest.name} has no {way} caches between its layers; {has}")
    if provider == "tensorrt":
        raise EngineError("caches between layers do not run on TensorRT; use --provider cuda, or --set early_exits=off")
    if provider == "auto":  # not TensorRT: it wants to know every shape, and batches shrink
        provider = "cuda" if "CUDAExecutionProvider" in providers("auto") else "cpu"
    model = manifest.models[name]
    try:
        whole = read(find(model).read_bytes())
        pieces = cut(whole, [layer.tensors for layer in layers.caches])
        caches = [
            Cache(layer, ModelPart(find(layer).read_bytes(), layer.file, "cpu", 1), ExitCostModel(place))
            for place, layer in enumerate(layers.caches)
        ]
    except SegmentError as error:
        raise EngineError(f"{name} cannot be cut: {error}") from None
    except OSError as error:
        raise EngineError(f"{error.filename}: {error.strerror}") from None
    segments = [ModelPart(piece.model, name, provider, threads) for piece in pieces]
    layered = EarlyExitModel(segments, caches, whole.image, model.temperature, len(manifest.labels), layers.wrong, draw)
    layered.whole(blank(model.input, 2))  # one that takes a single picture a run is found out here
    return layered
