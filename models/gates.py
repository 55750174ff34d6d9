"""Thresholds: the loosest risk at which false hits stay within a budget, found on held-out streams.

The very hierarchy that runs on a device is replayed over streams of images that no model was trained on; what it
decides is compared with the reference. The unit of the bound is a stream on its own disjoint pool of images, because
frames of one stream are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.core.frame import Frame, Signature
from edge_agent.core.frames import FrameCache
from edge_agent.core.hierarchy import Hierarchy, Rules
from edge_agent.core.submodels import LocalModel, Submodels
from edge_agent.core.types import Answer, Ask, Hit, LevelName, LocalName, Reply, Step
from shared.bundle import Manifest
from shared.context import Context, Memoryless
from shared.filter import Word
from shared.gate import posterior
from shared.habits import LEAST, ContextParameters
from shared.reference import WINDOW, reference
from shared.risk import below_zero, margin

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

#: A risk at which a guess may become a hit.
_LIKELY = 0.05
#: The share of streams that may be over the budget.
_EXCEPTIONS = 0.05
#: Thresholds on risk that are tried, strictest first; and on entropy, nats.
GRID = (
    0.001,
    0.002,
    0.004,
    0.007,
    0.01,
    0.014,
    0.02,
    0.025,
    0.03,
    0.035,
    0.04,
    0.045,
    0.05,
    0.06,
    0.08,
    0.1,
    0.14,
    0.2,
)
ENTROPIES = tuple(round(0.001 * 1.5**power, 4) for power in range(17))  # 0.001 to 0.66


@dataclass(frozen=True)
class Recorded:
    """A stream as its models saw it. ``logits``: per model name ``(frames, classes)``. ``signatures``: None where the
    pictures of neighbouring frames have nothing to do with each other."""

    truth: npt.NDArray[np.int64]
    logits: dict[str, Logits]
    signatures: list[Signature] | None

    def frame(self, index: int) -> Frame:
        return Frame(index, index, None if self.signatures is None else self.signatures[index])


@dataclass(frozen=True)
class Family:
    """The models of a bundle as a replay needs them: ``temperatures`` and ``coverage`` by name."""

    full: str
    base: str
    submodels: tuple[str, ...]
    temperatures: dict[str, float]
    coverage: dict[str, npt.NDArray[np.float64]]
    context: ContextParameters


def family(manifest: Manifest) -> Family:
    """What a replay needs of a finished bundle."""
    return Family(
        manifest.only("full"),
        manifest.only("base"),
        tuple(manifest.submodels()),
        {name: model.temperature for name, model in manifest.models.items()},
        {name: np.array(model.coverage) for name, model in manifest.models.items()},
        manifest.context,
    )


@dataclass(frozen=True)
class Replay:
    """What a replay decided, per frame: ``labels`` ``(frames,)``, whether each was a ``hit``, the answers' levels."""

    labels: Labels
    hit: npt.NDArray[np.bool_]
    levels: list[LevelName] = field(default_factory=list)

    def false_hits(self, reference: npt.NDArray[np.int64]) -> float:
        """Share of all frames that are hits with another label than the reference's."""
        return float((self.hit & (self.labels != reference)).mean())


@dataclass(frozen=True)
class Kind:
    """Held-out streams of one kind. ``apart``: each shows images of its own pool, which no other shows, so that they
    are independent. ``typical``: each may show any image, as in use, where pictures hardly ever come again; the same as
    ``apart`` where a stream shows few images of its pool."""

    apart: list[Recorded]
    typical: list[Recorded]


#: What decides over a stream, given a threshold.
Rule = Callable[[Recorded, Family, float], Hierarchy]


def ours(stream: Recorded, family: Family, threshold: float) -> Hierarchy:
    """A device's hierarchy with every submodel resident."""
    hierarchy = Hierarchy(
        _rules(family, threshold),
        Context(_classes(stream), family.context),
        FrameCache() if stream.signatures is not None else None,
        Submodels(1 << 40, family.coverage[family.base]),
        _model(stream, family, family.base),
    )
    for name in family.submodels:
        hierarchy.install(_model(stream, family, name))
    return hierarchy


def paper(stream: Recorded, family: Family, threshold: float) -> Hierarchy:
    """The rule of CacheNet as published: one submodel, trusted where the entropy of what it says is low. Better off
    than on a device: the one is the best of all, and is there without having been fetched."""
    hierarchy = Hierarchy(
        _rules(family, threshold),
        Memoryless(_classes(stream)),
        submodels=Submodels(1 << 40, np.zeros(_classes(stream))),
    )
    for name in family.submodels:
        hierarchy.install(_model(stream, family, name))
    return hierarchy


def full_alone(stream: Recorded, family: Family, context: ContextParameters, threshold: float = 0.0) -> Hierarchy:
    """The full model on every frame, with a context of these parameters."""
    return Hierarchy(_rules(family, threshold), Context(_classes(stream), context))


def replay(stream: Recorded, family: Family, hierarchy: Hierarchy) -> Replay:
    """Run a hierarchy over a recorded stream, the cloud always there."""
    answers = [
        _settle(stream, family, hierarchy, hierarchy.look(stream.frame(index), float(index)))
        for index in range(len(stream.truth))
    ]
    labels = np.array([answer.label for answer in answers], np.int64)
    hit = np.array([answer.hit for answer in answers], np.bool_)
    return Replay(labels, hit, [answer.level for answer in answers])


def reference_labels(stream: Recorded, family: Family) -> npt.NDArray[np.int64]:
    """What the full model with a context of its own says, begun afresh every ``WINDOW`` frames: it never hears a
    local model, so a mistake that a cache has talked itself into shows."""
    temperature = family.temperatures[family.full]
    words = [
        Word(posterior(logits, temperature), True, stream.frame(index).signature)
        for index, logits in enumerate(stream.logits[family.full])
    ]
    everything = Context(_classes(stream), family.context)
    labels = []
    for index, word in enumerate(words):
        if index % WINDOW == 0:
            labels += reference(words[index : index + WINDOW], everything.habits.parameters)
        everything.advance(index, word.key)
        everything.learn(everything.observe(word).label)
    return np.array(labels, np.int64)


def wander(kinds: Sequence[list[Recorded]], family: Family) -> float:
    """By how much, nats, the full model's margin differs from one view of an object to another: what explains best how
    often its first label changes, on the kind of stream where it changes most. The default where no stream tells."""
    middle = (family.context.still + family.context.cut) / 2
    worst = 0.0
    for several in kinds:
        margins, kept = [], []
        for stream in several:
            if stream.signatures is None:
                continue  # nobody knows which frames show one object
            words = stream.logits[family.full].astype(np.float64) / family.temperatures[family.full]
            pairs = [(first, first + lag) for lag in (1, 8) for first in range(len(words) - lag)]
            for first, second in pairs:
                if stream.signatures[second].change(stream.signatures[first]) > middle:
                    continue  # another object
                label = int(words[first].argmax())
                margins.append(margin(words[first], label))
                kept.append(int(words[second].argmax()) == label)
        if not all(kept):
            candidates = [0.1 * 1.1**power for power in range(45)]  # 0.1 to 6.6
            worst = max(worst, max(candidates, key=lambda sigma: _log_likelihood(_flips(margins, sigma), kept)))
    return worst or family.context.wander


def _flips(margins: list[float], sigma: float) -> list[float]:
    return [below_zero(value / sigma) for value in margins]


def _log_likelihood(errs: Sequence[float], right: Sequence[bool]) -> float:
    """Of what was right and what was not, where each was expected to err with that probability."""
    terms = (1.0 - err if good else err for err, good in zip(errs, right, strict=True))
    return sum(math.log(max(term, 1e-6)) for term in terms)


def candour(kinds: Sequence[list[Recorded]], family: Family) -> float:
    """The power of its doubt with which what local models lead to differs from the reference, where the full model has
    not spoken about the picture: what explains best how those guesses turn out, on the kind of stream where they err
    most; at most 1.

    A belief counts on errors that are independent of one another, and on a world like the calibration's; 1 if it may.
    """
    worst = 1.0
    for several in kinds:
        doubts, right = [], []
        for stream in several:
            expected = reference_labels(stream, family)
            hierarchy = ours(stream, family, _LIKELY)
            for index in range(len(expected)):
                step = hierarchy.look(stream.frame(index), float(index))
                guess = step.guess if isinstance(step, Hit) else step.best
                doubt = guess.belief.doubt
                if not hierarchy.context.owed(guess.word) and hierarchy.context.habits.tells(doubt):
                    doubts.append(doubt)
                    right.append(guess.label == expected[index])
                _settle(stream, family, hierarchy, step)
        if not all(right):
            candidates = [0.01 * hundredth for hundredth in range(round(100 * LEAST), 101)]
            worst = min(worst, max(candidates, key=lambda power: _log_likelihood([d**power for d in doubts], right)))
    return worst


def fit(
    kinds: Sequence[Kind],
    family: Family,
    budgets: Sequence[float],
    confidence: float,
    rule: Rule = ours,
    grid: Sequence[float] = GRID,
    workers: int = 1,
) -> list[float]:
    """For each budget the loosest threshold of ``grid`` at which ``rule`` keeps within it; 0 if it does at none.

    To keep within it is two things: on every kind of stream the mean over streams is within the budget, by Student's
    one-sided bound at ``confidence`` (approximate, for a stream's rate of false hits is not normal); and of the typical
    streams of every kind no more than ``_EXCEPTIONS`` are over it, or one where they are few.

    Fixed-sequence testing (A. Angelopoulos et al., "Learn then Test", arXiv 2110.01052, section 2.2): thresholds are
    tried from the strictest and the first that cannot be shown to hold ends the search, so no correction for their
    number is due. ``workers``: processes to replay with; they change nothing but the time.
    """
    every = {id(stream): stream for kind in kinds for stream in kind.apart + kind.typical}
    streams = list(every.values())
    with _each(streams, family, rule, workers) as each:
        references = list(each(_reference, range(len(streams))))
        return _search(
            kinds,
            budgets,
            confidence,
            grid,
            lambda threshold: dict(
                zip(every, each(_rate, [(n, threshold, own) for n, own in enumerate(references)]), strict=True)
            ),
        )


def _search(
    kinds: Sequence[Kind],
    budgets: Sequence[float],
    confidence: float,
    grid: Sequence[float],
    measure: Callable[[float], dict[int, float]],
) -> list[float]:
    """``measure``: a threshold's rate of false hits for every stream, by the stream's ``id``."""
    proven = dict.fromkeys(budgets, 0.0)
    open_ = set(budgets)
    for threshold in grid:
        rates = measure(threshold)
        worst = max(upper_bound([rates[id(stream)] for stream in kind.apart], confidence) for kind in kinds)
        typical = [np.array([rates[id(stream)] for stream in kind.typical]) for kind in kinds]
        open_ = {budget for budget in open_ if worst <= budget and all(_rare(several > budget) for several in typical)}
        proven |= dict.fromkeys(open_, threshold)
        if not open_:
            break
    return [proven[budget] for budget in budgets]


#: What the tasks of a process are about: it is sent once, not with every task.
_ABOUT: list[tuple[list[Recorded], Family, Rule]] = []


@contextmanager
def _each(
    streams: list[Recorded], family: Family, rule: Rule, workers: int
) -> Iterator[Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]]:
    """``map`` for ``_reference`` and ``_rate``, over so many processes."""
    if workers == 1:
        _know(streams, family, rule)
        try:
            yield map
        finally:
            _ABOUT.clear()
        return
    # A copy of this process would have its threads' locks and not its threads.
    with ProcessPoolExecutor(workers, get_context("spawn"), _know, (streams, family, rule)) as pool:
        yield pool.map


def _know(streams: list[Recorded], family: Family, rule: Rule) -> None:
    _ABOUT[:] = [(streams, family, rule)]


def _reference(number: int) -> npt.NDArray[np.int64]:
    streams, family, _ = _ABOUT[0]
    return reference_labels(streams[number], family)


def _rate(task: tuple[int, float, npt.NDArray[np.int64]]) -> float:
    """False hits of a stream at a threshold, given its reference."""
    number, threshold, expected = task
    streams, family, rule = _ABOUT[0]
    return replay(streams[number], family, rule(streams[number], family, threshold)).false_hits(expected)


def _rare(over: npt.NDArray[np.bool_]) -> bool:
    return int(over.sum()) <= max(1, int(_EXCEPTIONS * len(over)))


def upper_bound(rates: list[float], confidence: float) -> float:
    """Student's one-sided upper confidence bound on the mean of ``rates``."""
    n = len(rates)
    return float(np.mean(rates)) + student(confidence, n - 1) * float(np.std(rates, ddof=1)) / math.sqrt(n)


def student(confidence: float, freedom: int) -> float:
    """Quantile of Student's t, by the expansion of Abramowitz and Stegun (26.7.5): to 1 % for 5 degrees of freedom
    and more."""
    z = NormalDist().inv_cdf(confidence)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def coverage(logits: Logits, temperature: float, full: Logits, threshold: float) -> npt.NDArray[np.float64]:
    """Per label of the full model, the share of images on which the model alone is sure enough and agrees."""
    answers = full.argmax(1)
    word = np.stack([posterior(row, temperature) for row in logits])
    good = (1 - word.max(1) <= threshold) & (word.argmax(1) == answers)
    return np.array([good[answers == c].mean() if (answers == c).any() else 0.0 for c in range(full.shape[1])])


def _settle(stream: Recorded, family: Family, hierarchy: Hierarchy, step: Step) -> Answer:
    """End the frame of ``step``, the cloud always there."""
    index = step.frame.index
    reply = Reply(index, stream.logits[family.full][index])
    answer = hierarchy.settle(step, reply if isinstance(step, Ask) else None, float(index))
    if answer.audit:
        hierarchy.audited(reply, float(index))
    return answer


def _rules(family: Family, threshold: float) -> Rules:
    return Rules(threshold, 1.0, family.full, family.temperatures[family.full])


def _classes(stream: Recorded) -> int:
    return int(next(iter(stream.logits.values())).shape[1])


def _model(stream: Recorded, family: Family, name: str) -> LocalModel:
    table = stream.logits[name]

    def score(view: Any) -> Logits:
        row: Logits = table[view]
        return row

    level: LocalName = "base" if name == family.base else "submodels"
    return LocalModel(name, score, family.temperatures[name], family.coverage[name], level=level)
