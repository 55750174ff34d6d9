"""A full model with early exits: a picture runs only through as many segments as it needs.

The model is split into segments. After each segment but the last, an exit head predicts the whole model's label from
the activations. Rows of a batch whose risk is low enough leave; the others go on (A. Kumar et al., "Accelerating deep
learning inference via freezing", arXiv 2002.02645; A. Balasubramanian et al., "Accelerating deep learning inference via
learned caches", arXiv 2101.07344; M. Abedi et al., "Improving the performance of DNN-based software services using
automated layer caching", arXiv 2209.08625).

Some requests, drawn at random, run through the whole model although an exit could have answered. These checks update
the request prior and the exit monitor. If the monitor finds more errors than certified, no exit answers until further
checks show that the errors are within the limit again. An exit that costs more time than it saves is skipped.
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

from cachenet.shared.bundle.manifest import ExitKind, Layer, Manifest, Model
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
from cachenet.shared.inference.request_prior import RequestPrior

log = logging.getLogger(__name__)

#: Output of an exit head: logits ``(n, classes)``.
SCORES = "scores"
#: Output of an exit head: input of its last layer ``(n, dimensions)``.
FEATURES = "features"
#: Share of requests that are checks, in the long run.
_CHECK_SHARE = 1 / 50
#: Decay of the share of checks at the start: half of the requests after this many.
_CHECK_FIRST = 8


class RequestContext(NamedTuple):
    """What a request carries beside its picture.

    Attributes:
        recent: Recent labels of the device, oldest first.
        risk: Largest risk of an exit.
        device: Name of the device, where there are several.
    """

    recent: tuple[int, ...] = ()
    risk: float = 1.0
    device: str = ""


@dataclass(frozen=True, slots=True)
class ExitResult:
    """Result of one picture.

    Attributes:
        logits: Logits ``(classes,)`` at the full model's temperature.
        label: Label of least risk, with the request's prior.
        layer: Number of the exit that answered, from 0; None for the whole model.
        risk: Probability that the whole model would have given another label; None for the whole model.
    """

    logits: Logits
    label: int
    layer: int | None = None
    risk: float | None = None


@dataclass(slots=True)
class _Request:
    """State of one picture of a batch.

    Attributes:
        context: The request's context; None for a picture that must run through the whole model.
        check: Whether the request is a check.
        exit_label: Label of the first exit that could have answered a check.
    """

    context: RequestContext | None
    check: bool
    exit_label: int | None = None

    @property
    def recent(self) -> tuple[int, ...]:
        return () if self.context is None else self.context.recent

    @property
    def device(self) -> str:
        return "" if self.context is None else self.context.device


@dataclass(slots=True)
class _Rows:
    """Rows of a batch that no exit has answered yet.

    Attributes:
        index: Their numbers in the batch ``(n,)``.
        tensors: Their activations, ``(n, ...)`` each, by name.
    """

    index: npt.NDArray[np.int64]
    tensors: dict[str, Batch]

    def drop(self, answered: npt.NDArray[np.bool_]) -> None:
        self.index = self.index[~answered]
        self.tensors = {name: value[~answered] for name, value in self.tensors.items()}


class ExitHead:
    """An exit head."""

    def __init__(self, layer: Layer, model: ModelPart, cost: ExitCostModel) -> None:
        self.layer, self.cost = layer, cost
        self._model = model

    def predict(self, tensors: dict[str, Batch]) -> tuple[Probabilities, Batch]:
        """Calibrated probabilities and scores of each row, ``(n, classes)`` each. Raises ``EngineError``."""
        scores = self._model.run(tensors)[SCORES]
        return softmax(scores, self.layer.temperature), scores

    def logits(self, scores: Batch, temperature: float) -> Logits:
        """``scores`` as logits of the same calibrated probabilities at ``temperature``."""
        scaled: Logits = scores * np.float32(temperature / (self.layer.temperature * self.layer.reserve))
        return scaled


class EarlyExitModel:
    """Segments of a full model, with an exit head after each but the last. Threads may share it; runs are serialised.

    Attributes:
        caches: The exit heads, in order.
        provider: ONNX Runtime's execution provider of the segments.
        monitor: Monitor of the exits' error rate.
    """

    def __init__(
        self,
        segments: Sequence[ModelPart],
        caches: Sequence[ExitHead],
        image: str,
        temperature: float,
        classes: int,
        wrong: float,
        draw: Callable[[], float],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Combine segments and exit heads.

        Args:
            segments: The segments, one more than exit heads.
            temperature: Calibration temperature of the full model.
            wrong: Certified share of requests to which the exits may give another label than the whole model.

        Raises:
            EngineError: The numbers of segments and exit heads do not match.
        """
        if len(segments) != len(caches) + 1:
            raise EngineError(f"{len(segments)} segments for {len(caches)} exits")
        self._segments, self.exits = list(segments), list(caches)
        self._image, self._temperature = image, temperature
        self._output = segments[-1].gives[0]
        self.provider = segments[0].provider
        self._draw, self._clock = draw, clock
        self._lock = threading.Lock()
        self._requests = 0
        self._prior = RequestPrior(classes)
        self.monitor = ExitMonitor(wrong)

    def run(self, batch: Batch, contexts: Sequence[RequestContext | None]) -> list[ExitResult]:
        """Run a batch.

        Args:
            batch: Pictures ``(n, channels, height, width)``.
            contexts: Context of each picture; None for one that must run through the whole model.

        Returns:
            The result of each picture, in order.

        Raises:
            EngineError: A segment cannot run.
        """
        with self._lock:
            requests = [_Request(one, one is not None and self._is_check()) for one in contexts]
            return self._run(batch, requests)

    def _run(self, batch: Batch, requests: Sequence[_Request]) -> list[ExitResult]:
        priors = np.stack([self._prior.prior(one.recent, one.device) for one in requests])
        results: dict[int, ExitResult] = {}
        rows = _Rows(np.arange(len(batch)), {self._image: batch})
        remainders: list[tuple[ExitHead, float, int]] = []  # exit, time and rows after its lookup
        may_exit = any(one.context is not None for one in requests)
        checks = any(one.check for one in requests)
        for number, (segment, cache) in enumerate(zip(self._segments[:-1], self.exits, strict=True)):
            rows.tensors |= segment.run(rows.tensors)
            if may_exit and (cache.cost.should_probe() if self.monitor.trusted else checks):
                started = self._clock()
                count = len(rows.index)
                answered = self._look_up(number, rows, priors, requests, results)
                now = self._clock()
                cache.cost.record_lookup(count, now - started)
                if answered.any():
                    rows.drop(answered)
                remainders.append((cache, now, len(rows.index)))
            if not len(rows.index):
                break
            rows.tensors = {name: rows.tensors[name] for name in cache.layer.tensors}
        if len(rows.index):
            self._finish(rows, priors, requests, results)
        ended = self._clock()
        for cache, started, count in remainders:
            cache.cost.record_remainder(count, ended - started)
        return [results[row] for row in range(len(batch))]

    def _look_up(
        self,
        number: int,
        rows: _Rows,
        priors: Probabilities,
        requests: Sequence[_Request],
        results: dict[int, ExitResult],
    ) -> npt.NDArray[np.bool_]:
        """Let the exit ``number`` answer rows into ``results``; return which rows it has answered."""
        cache, answered = self.exits[number], np.zeros(len(rows.index), np.bool_)
        try:
            likelihood, scores = cache.predict(rows.tensors)
        except EngineError as error:  # the whole model can still answer
            log.error("early exit %d: %s", number + 1, error)
            return answered
        posterior = likelihood * priors[rows.index]
        posterior /= posterior.sum(1, keepdims=True)
        labels = posterior.argmax(1)
        risks = 1.0 - posterior.max(1)
        asked = hits = 0
        for at, row in enumerate(rows.index.tolist()):
            request = requests[row]
            if request.context is None:
                continue
            asked += 1
            hit = bool(risks[at] <= min(cache.layer.threshold, request.context.risk))
            hits += hit
            if hit and not request.check and self.monitor.trusted:
                answered[at] = True
                logits = cache.logits(scores[at], self._temperature)
                results[row] = ExitResult(logits, int(labels[at]), number, float(risks[at]))
            elif hit and request.exit_label is None:
                request.exit_label = int(labels[at])
        cache.cost.record_hits(hits, asked)
        return answered

    def _finish(
        self, rows: _Rows, priors: Probabilities, requests: Sequence[_Request], results: dict[int, ExitResult]
    ) -> None:
        """Run the last segment, and learn from checks."""
        scores = self._segments[-1].run(rows.tensors)[self._output]
        likelihoods = softmax(scores, self._temperature)
        for at, row in enumerate(rows.index.tolist()):
            request, label = requests[row], int((likelihoods[at] * priors[row]).argmax())
            if request.check:
                self._prior.learn(request.recent, int(scores[at].argmax()), request.device)
                self._record_check(request.exit_label is not None and request.exit_label != label)
            results[row] = ExitResult(scores[at], label)

    def _record_check(self, wrong: bool) -> None:
        if not self.monitor.add(wrong):
            return
        if self.monitor.trusted:
            log.warning("early exits are within their error limit again, and answer")
        else:
            log.warning("early exits are over their error limit: none answers until checks show otherwise")

    def whole(self, batch: Batch) -> Logits:
        """Logits of the whole model ``(n, classes)``. Raises ``EngineError``."""
        return np.stack([result.logits for result in self.run(batch, [None] * len(batch))])

    def _is_check(self) -> bool:
        """Whether to make the next request a check."""
        self._requests += 1
        return self._draw() < max(_CHECK_SHARE, _CHECK_FIRST / (_CHECK_FIRST + self._requests))


def runner(session: Session | EarlyExitModel) -> Callable[[Batch], Logits]:
    """The function that runs the whole model on a batch and returns logits ``(n, classes)``."""
    return session.whole if isinstance(session, EarlyExitModel) else session.run


def load(
    manifest: Manifest,
    way: ExitKind,
    find: Callable[[Model | Layer], Path],
    provider: Provider,
    threads: int,
    draw: Callable[[], float],
) -> EarlyExitModel:
    """Load a bundle's full model with its early exits.

    Args:
        way: Kind of exit heads.
        find: Path of the file of a model or exit head.
        provider: Hardware for the segments; exit heads run on the CPU.
        threads: Threads of a segment's run.

    Raises:
        EngineError: There are no such exits, or a file or provider cannot be used.
    """
    name = manifest.only("full")
    if (layers := manifest.layers.get(way)) is None:
        has = f"it has {', '.join(manifest.layers)}" if manifest.layers else "'model-builder exits' makes them"
        raise EngineError(f"{manifest.name} has no early exits of kind {way}; {has}")
    if provider == "tensorrt":
        raise EngineError("early exits do not run on TensorRT; use --provider cuda, or --set early_exits=off")
    if provider == "auto":  # not TensorRT, which needs fixed shapes: batches shrink
        provider = "cuda" if "CUDAExecutionProvider" in providers("auto") else "cpu"
    model = manifest.models[name]
    try:
        split = read(find(model).read_bytes())
        pieces = cut(split, [layer.tensors for layer in layers.caches])
        caches = [
            ExitHead(layer, ModelPart(find(layer).read_bytes(), layer.file, "cpu", 1), ExitCostModel(number))
            for number, layer in enumerate(layers.caches)
        ]
    except SegmentError as error:
        raise EngineError(f"{name} cannot be split: {error}") from None
    except OSError as error:
        raise EngineError(f"{error.filename}: {error.strerror}") from None
    segments = [ModelPart(piece.model, name, provider, threads) for piece in pieces]
    loaded = EarlyExitModel(segments, caches, split.image, model.temperature, len(manifest.labels), layers.wrong, draw)
    loaded.whole(blank(model.input, 2))  # fails now for a model that takes single pictures only
    return loaded
