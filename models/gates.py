"""Gates: how much risk hits may claim so that false hits stay within a budget, found on held-out streams.

The very hierarchy that runs on a device is replayed over streams of images that no model was trained on; what it
decides is compared with the reference. The unit of the bound is a stream on its own disjoint pool of images, because
frames of one stream are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_agent.core.types import Hit
from models.replay import Family, Labels, Logits, Recorded, Rule, ours, paper, reference_labels, run, settle
from models.scores import softmax
from shared.cascade.rates import clopper_pearson_upper
from shared.habits import LEAST
from shared.risk import below_zero, margin

#: What hits may claim where it is not known yet.
_LIKELY = 0.01
#: The share of streams that may be over the budget.
_EXCEPTIONS = 0.05
#: Claims that are tried, strictest first; and thresholds on entropy, nats.
GRID = tuple(round(0.0005 * 1.25**power, 5) for power in range(23))  # 0.0005 to 0.068
ENTROPIES = tuple(round(0.001 * 1.5**power, 4) for power in range(17))  # 0.001 to 0.66


class Search(NamedTuple):
    """What a ``rule`` is tried with, the strictest first."""

    rule: Rule
    grid: Sequence[float]


OURS, PAPER = Search(ours, GRID), Search(paper, ENTROPIES)


@dataclass(frozen=True)
class Kind:
    """Held-out streams of one kind. ``apart``: each shows images of its own pool, which no other shows, so that they
    are independent. ``typical``: each may show any image, as in use, where pictures hardly ever come again; the same as
    ``apart`` where a stream shows few images of its pool."""

    apart: list[Recorded]
    typical: list[Recorded]


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
                guess = step.guess if isinstance(step, Hit) else step.last
                doubt = guess.belief.doubt
                if not hierarchy.context.owed(guess.word) and hierarchy.context.habits.tells(doubt):
                    doubts.append(doubt)
                    right.append(guess.label == expected[index])
                settle(stream, family, hierarchy, step)
        if not all(right):
            candidates = [0.01 * hundredth for hundredth in range(round(100 * LEAST), 101)]
            worst = min(worst, max(candidates, key=lambda power: _log_likelihood([d**power for d in doubts], right)))
    return worst


def fit(
    kinds: Sequence[Kind],
    family: Family,
    budgets: Sequence[float],
    confidence: float,
    searches: Sequence[Search] = (OURS,),
    workers: int = 1,
    tried: Callable[[], object] = lambda: None,
) -> list[list[float]]:
    """For each search, for each budget, the largest of its claims (or thresholds) at which its rule keeps within it; 0
    if it does at none.

    To keep within it is two things: on every kind of stream the mean over streams is within the budget, by Student's
    one-sided bound at ``confidence`` (approximate, for a stream's rate of false hits is not normal); and of the typical
    streams of every kind no more are over it than ``exceptions`` lets be.

    Fixed-sequence testing (A. Angelopoulos et al., "Learn then Test", arXiv 2110.01052, section 2.2): they are
    tried from the strictest and the first that cannot be shown to hold ends the search, so no correction for their
    number is due. ``workers``: processes to replay with; they change nothing but the time. ``tried`` is called after
    each.
    """
    every = {id(stream): stream for kind in kinds for stream in kind.apart + kind.typical}
    with _each(list(every.values()), family, workers) as each:
        references = list(each(_reference, range(len(every))))

        def rates(rule: Rule, gate: float) -> dict[int, float]:
            tasks = [(number, rule, gate, expected) for number, expected in enumerate(references)]
            return dict(zip(every, each(_rate, tasks), strict=True))

        return [_search(kinds, budgets, confidence, partial(rates, rule), grid, tried) for rule, grid in searches]


def _search(
    kinds: Sequence[Kind],
    budgets: Sequence[float],
    confidence: float,
    rates: Callable[[float], dict[int, float]],
    grid: Sequence[float],
    tried: Callable[[], object],
) -> list[float]:
    """``rates``: of false hits at a gate, by the streams' identities."""
    proven = dict.fromkeys(budgets, 0.0)
    open_ = set(budgets)
    for gate in grid:
        seen = rates(gate)
        worst = max(upper_bound([seen[id(stream)] for stream in kind.apart], confidence) for kind in kinds)
        typical = [[seen[id(stream)] for stream in kind.typical] for kind in kinds]
        open_ = {
            budget
            for budget in open_
            if worst <= budget and all(_rarely_over(budget, several, confidence) for several in typical)
        }
        proven |= dict.fromkeys(open_, gate)
        tried()
        if not open_:
            break
    return [proven[budget] for budget in budgets]


#: What the tasks of a process are about: it is sent once, not with every task.
_ABOUT: list[tuple[list[Recorded], Family]] = []


@contextmanager
def _each(
    streams: list[Recorded], family: Family, workers: int
) -> Iterator[Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]]:
    """``map`` for ``_reference`` and ``_rate``, over so many processes."""
    if workers == 1:
        _know(streams, family)
        try:
            yield map
        finally:
            _ABOUT.clear()
        return
    # A copy of this process would have its threads' locks and not its threads.
    with ProcessPoolExecutor(workers, get_context("spawn"), _know, (streams, family)) as pool:
        yield pool.map


def _know(streams: list[Recorded], family: Family) -> None:
    _ABOUT[:] = [(streams, family)]


def _reference(number: int) -> Labels:
    streams, family = _ABOUT[0]
    return reference_labels(streams[number], family)


def _rate(task: tuple[int, Rule, float, Labels]) -> float:
    """False hits of a stream by a rule at a gate, given its reference."""
    number, rule, gate, expected = task
    streams, family = _ABOUT[0]
    return run(streams[number], family, rule(streams[number], family, gate)).false_hits(expected)


def _rarely_over(budget: float, rates: list[float], confidence: float) -> bool:
    return sum(rate > budget for rate in rates) <= exceptions(len(rates), confidence)


def exceptions(count: int, confidence: float) -> int:
    """How many of ``count`` streams may be over the budget to show at ``confidence`` that of all such streams no more
    than ``_EXCEPTIONS`` are; one where ``count`` streams cannot show it whatever they do."""
    if clopper_pearson_upper(0, count, confidence) > _EXCEPTIONS:
        return 1
    return next(over for over in range(count) if clopper_pearson_upper(over + 1, count, confidence) > _EXCEPTIONS)


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
    word = softmax(logits, temperature)
    good = (1 - word.max(1) <= threshold) & (word.argmax(1) == answers)
    return np.array([good[answers == c].mean() if (answers == c).any() else 0.0 for c in range(full.shape[1])])
