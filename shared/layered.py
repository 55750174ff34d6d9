"""A full model with caches between its layers: a picture runs only through as many as it needs.

The model is cut into segments. After each but the last a cache says, from the activations that are there, what the
whole model would say; the rows of a batch of which it is sure enough leave, the others go on, and the answers come back
in order (A. Kumar et al., "Accelerating deep learning inference via freezing", arXiv 2002.02645; A. Balasubramanian et
al., "Accelerating deep learning inference via learned caches", arXiv 2101.07344; M. Abedi et al., "Improving the
performance of DNN-based software services using automated layer caching", arXiv 2209.08625).

A few requests, drawn at random, run whole although a cache could have answered. They tell whether the caches are right
and what to expect of requests; a cache that errs more than it may, or does not pay for its lookups, is not asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shared.betting import Detector
from shared.bundle import Bundle, Layer, Way
from shared.engine import Batch, EngineError, Logits, Part, Provider
from shared.expectation import Expectation
from shared.gate import Posterior, posterior
from shared.segments import SegmentError, cut, read
from shared.worth import Worth

#: The names of what a cache gives: ``scores`` ``(n, classes)``, and ``features`` ``(n, dimensions)``, what its last
#: layer sees.
SCORES, FEATURES = "scores", "features"
#: The share of requests that run whole to check, in the long run; and of the first so many about half.
_PROBES, _FIRST = 1 / 50, 8
#: What is proven is the share of wrong answers of all caches together: a single one may err so many times as often.
_OFTEN = 4.0
#: From this evidence on a cache is not asked any more: false alarms are one in so many requests that were checked.
_ALARM = 1000.0
#: A probability that is as good as none.
_NEVER = 1e-12


class Seen(NamedTuple):
    """What a cache has seen of a picture, ``(dimensions,)``, and said of it, ``(classes,)``, uncorrected."""

    features: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Correction:
    """Of a cache's scores: ``features @ weight + bias`` is added; ``temperature`` takes the place of the cache's."""

    weight: Batch
    bias: Batch
    temperature: float

    def apply(self, features: Batch, scores: Batch) -> Batch:
        corrected: Batch = scores + features @ self.weight + self.bias
        return corrected


@dataclass(frozen=True, slots=True)
class Passed:
    """What came of one picture. ``logits`` ``(classes,)``, of the full model's temperature; ``label``: what they and
    the request's context lead to; ``risk``: that the whole model would have led to another. ``layer``: which cache has
    answered, from 0; None if the whole model has. Then ``seen`` is what each cache has seen, and ``weight`` how many
    requests it stands for, of which others were answered by caches."""

    logits: Logits
    label: int
    risk: float = 0.0
    layer: int | None = None
    seen: dict[int, Seen] = field(default_factory=dict)
    weight: float = 1.0


@dataclass(slots=True)
class _Request:
    """A picture on its way. ``probed``: the chance with which it was drawn to run whole, None if it was not;
    ``would``: which cache would have answered it, and with what."""

    recent: tuple[int, ...]
    whole: bool
    probed: float | None
    seen: dict[int, Seen] = field(default_factory=dict)
    would: tuple[int, int] | None = None


class Cache:
    """One layer's cache: its model, and whether it is to be asked."""

    def __init__(self, layer: Layer, model: Part, allowed: float, correction: Correction | None = None) -> None:
        """``allowed``: the share of wrong answers that all caches together may give. ``correction``: of its scores."""
        self.layer, self.correction = layer, correction
        self.worth = Worth()
        self._model, self._allowed = model, allowed
        self._detector = Detector(_OFTEN * allowed)

    def corrected(self, correction: Correction) -> Cache:
        """The same cache with its scores corrected, of which nothing is known yet."""
        return Cache(self.layer, self._model, self._allowed, correction)

    @property
    def asked(self) -> bool:
        """Whether it is right often enough, and pays."""
        return self.trusted and self.worth.pays

    @property
    def temperature(self) -> float:
        return self.layer.temperature if self.correction is None else self.correction.temperature

    @property
    def trusted(self) -> bool:
        """Whether its answers have been found right as often as they must be."""
        return self._detector.evidence < _ALARM

    def checked(self, wrong: bool) -> None:
        """An answer that it would have given has been compared with the whole model's."""
        self._detector.add(float(wrong))

    def look(self, held: dict[str, Batch]) -> tuple[Posterior, Seen]:
        """What it says of each row, calibrated ``(n, classes)``, and what it has seen, ``(n, ...)``. Raises
        ``EngineError``."""
        made = self._model.run(held)
        seen = Seen(made[FEATURES], made[SCORES])
        scores = seen.scores if self.correction is None else self.correction.apply(*seen)
        return posterior(scores, self.temperature), seen


class Layered:
    """The segments of a full model and the caches after each but the last. Not safe to run from several threads."""

    def __init__(
        self,
        segments: Sequence[Part],
        caches: Sequence[Cache],
        image: str,
        temperature: float,
        classes: int,
        draw: Callable[[], float],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``image``: the tensor that pictures come in; ``temperature``: the whole model's; ``draw``: of numbers in
        0..1."""
        if len(segments) != len(caches) + 1:
            raise EngineError(f"{len(segments)} segments for {len(caches)} caches")
        self._segments, self.caches = list(segments), list(caches)
        self._image, self._temperature = image, temperature
        self._output = segments[-1].gives[0]
        self.provider = segments[0].provider
        self._draw, self._clock = draw, clock
        self._seen = 0
        self.expectation = Expectation(classes)

    def run(self, batch: Batch, recent: Sequence[tuple[int, ...] | None]) -> list[Passed]:
        """Run ``batch`` ``(n, 3, side, side)``. ``recent``: for each picture the labels seen before it, oldest first;
        None for one that must run whole. In order. Raises ``EngineError``."""
        caches = self.caches  # others may take their place meanwhile
        requests = [_Request(one or (), one is None, self._drawn() if one is not None else None) for one in recent]
        priors = np.stack([self.expectation.prior(one.recent) for one in requests])
        passed: dict[int, Passed] = {}
        left, held = np.arange(len(batch)), {self._image: batch}
        went_on: list[tuple[Cache, float, int]] = []
        for place, (segment, cache) in enumerate(zip(self._segments[:-1], caches, strict=True)):
            held |= segment.run(held)
            if cache.trusted and cache.worth.due():
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
            self._finish(held, priors, left, requests, passed, caches)
        ended = self._clock()
        for cache, begun, count in went_on:
            cache.worth.went_on(count, ended - begun)
        return [passed[row] for row in range(len(batch))]

    def _look(
        self,
        place: int,
        cache: Cache,
        held: dict[str, Batch],
        priors: Posterior,
        left: npt.NDArray[np.int64],
        requests: Sequence[_Request],
        passed: dict[int, Passed],
    ) -> npt.NDArray[np.bool_]:
        """Let a cache answer what it is sure of into ``passed``; which of the rows that are ``left`` it has."""
        word, seen = cache.look(held)
        belief = word * priors[left]
        belief /= belief.sum(1, keepdims=True)
        labels = belief.argmax(1)
        risks = 1.0 - belief.max(1)
        sure = risks <= cache.layer.threshold
        hit = np.zeros(len(left), np.bool_)
        for at, row in enumerate(left.tolist()):
            request = requests[row]
            if not sure[at] or request.whole or request.probed is not None or not cache.worth.pays:
                request.seen[place] = Seen(seen.features[at], seen.scores[at])
                if sure[at] and request.would is None:
                    request.would = place, int(labels[at])
            else:
                hit[at] = True
                logits = np.log(np.maximum(word[at], _NEVER)) * self._temperature
                passed[row] = Passed(logits.astype(np.float32), int(labels[at]), float(risks[at]), place)
        cache.worth.found(int(sure.sum()), len(left))
        return hit

    def _finish(
        self,
        held: dict[str, Batch],
        priors: Posterior,
        left: npt.NDArray[np.int64],
        requests: Sequence[_Request],
        passed: dict[int, Passed],
        caches: Sequence[Cache],
    ) -> None:
        """The last segment, and what it teaches."""
        scores = self._segments[-1].run(held)[self._output]
        words = posterior(scores, self._temperature)
        for at, row in enumerate(left.tolist()):
            request, label = requests[row], int((words[at] * priors[row]).argmax())
            weight = 1.0
            if request.probed is not None:
                self.expectation.learn(request.recent, int(scores[at].argmax()))
                if request.would is not None:
                    place, answer = request.would
                    caches[place].checked(answer != label)
                    weight = 1.0 / request.probed
            passed[row] = Passed(scores[at], label, seen=request.seen, weight=weight)

    def correct(self, corrections: Mapping[int, Correction]) -> None:
        """Correct these caches from the next batch on; from any thread."""
        found = enumerate(self.caches)
        self.caches = [one.corrected(corrections[at]) if at in corrections else one for at, one in found]
        self._seen = 0  # what is new is checked often at first

    def _drawn(self) -> float | None:
        """The chance with which this request was drawn to run whole; None if it was not."""
        self._seen += 1
        chance = max(_PROBES, _FIRST / (_FIRST + self._seen))
        return chance if self._draw() < chance else None


def load(bundle: Bundle, way: Way, provider: Provider, threads: int, draw: Callable[[], float]) -> Layered:
    """The full model of ``bundle``, cut, with its caches of that ``way``. Raises ``EngineError``."""
    manifest, name = bundle.manifest, bundle.manifest.only("full")
    if (layers := manifest.layers.get(way)) is None:
        has = f"it has {', '.join(manifest.layers)}" if manifest.layers else "'model-builder layers' makes them"
        raise EngineError(f"{manifest.name} has no {way} caches between its layers; {has}")
    model = manifest.models[name]
    try:
        whole = read(bundle.path(name).read_bytes())
        pieces = cut(whole, [layer.tensors for layer in layers.caches])
    except SegmentError as error:
        raise EngineError(f"{name} cannot be cut: {error}") from None
    segments = [Part(piece.model, name, provider, threads) for piece in pieces]
    caches = [
        Cache(layer, Part((bundle.directory / layer.file).read_bytes(), layer.file, "cpu", 1), layers.wrong)
        for layer in layers.caches
    ]
    return Layered(segments, caches, whole.image, model.temperature, len(manifest.labels), draw)
