"""The rivals: decisions for all episodes of a world at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.literature.learned_offloading.answers import PRECISIONS
from benchmarks.literature.learned_offloading.links import DEADLINE_S
from benchmarks.literature.learned_offloading.world import ASK, DEVICE, LOCAL, Floats, Numbers, Outcome, World
from cachenet.shared.cascade.circuit_breaker import CircuitBreaker
from cachenet.shared.cascade.offload import OffloadRouter

#: Edges of the bins of the risk, which HI-LCB-lite takes as its confidence.
_BINS = np.geomspace(1e-3, 0.5, 10)
#: Weight of the exploration of HI-LCB-lite; its regret bound needs more than a half.
_EXPLORATION = 0.51


class Policy(Protocol):
    """Chooses legal actions, and learns from their outcomes."""

    def act(self, world: World) -> Numbers:
        """An action for each episode ``(b,)``."""

    def learn(self, world: World, actions: Numbers, outcome: Outcome) -> None:
        """Take the outcome of the frame before the present one."""


class Static:
    """The local answer where it is legal, else the one action of each episode."""

    def __init__(self, other: Numbers) -> None:
        """``other``: ``DEVICE``, or ``ASK`` plus a precision, which the full picture replaces where it is illegal."""
        self._other = other

    def act(self, world: World) -> Numbers:
        rows = np.arange(len(self._other))
        other = np.where(world.legal[rows, self._other], self._other, ASK)
        return np.where(world.legal[:, LOCAL], LOCAL, other)

    def learn(self, world: World, actions: Numbers, outcome: Outcome) -> None:
        """Learn nothing."""


class FixedRule:
    """The product's rule: the local answer where its risk is within the threshold; else a question, or the full model
    on the device while the server is known to be slower or while the circuit breaker is open."""

    def __init__(self, world: World, precision: int = 0) -> None:
        """``precision``: that of the questions; the product has one, which is 0."""
        count = len(world.episodes)
        self._routers = [OffloadRouter() for _ in range(count)]
        self._breakers = [CircuitBreaker() for _ in range(count)]
        self._precision, self._began = precision, world.now

    def act(self, world: World) -> Numbers:
        self._began = world.now
        return np.where(world.legal[:, LOCAL], LOCAL, self.ask(world, ~world.legal[:, LOCAL]))

    def ask(self, world: World, wanted: np.ndarray) -> Numbers:
        """Where to ask the full model, in the episodes that are ``wanted``."""
        action = np.where(world.legal[:, ASK + self._precision], ASK + self._precision, ASK)
        full_s = world.durations.full
        for row in np.flatnonzero(wanted):
            now = float(world.now[row])
            if self._routers[row].use_device(full_s) or not self._breakers[row].allows(now):
                action[row] = DEVICE
        return action

    def learn(self, world: World, actions: Numbers, outcome: Outcome) -> None:  # noqa: ARG002
        for row in np.flatnonzero(outcome.asked):
            if outcome.timeout[row]:
                self._breakers[row].failed(float(self._began[row]) + DEADLINE_S)
                self._routers[row].record_round_trip(DEADLINE_S)
            else:
                self._breakers[row].succeeded()
                self._routers[row].record_round_trip(float(outcome.latency[row]))


class Greedy:
    """The local answer where it is legal, else the legal action of least estimated time."""

    def act(self, world: World) -> Numbers:
        seconds = np.concatenate([np.full((len(world.now), 1), world.durations.full), world.predicted], 1)
        seconds[~world.legal[:, DEVICE:]] = np.inf
        return np.where(world.legal[:, LOCAL], LOCAL, DEVICE + seconds.argmin(1))

    def learn(self, world: World, actions: Numbers, outcome: Outcome) -> None:
        """Learn nothing beyond what the world estimates."""


@dataclass(frozen=True)
class Knowledge:
    """What HI-LCB-lite has learned: of each bin of the risk, the answers of the full model and the wrong local answers
    among them ``(bins, 2)``; total time of these answers, seconds, and their number."""

    counts: Floats
    seconds: float
    number: float


class HiLcbLite(FixedRule):
    """HI-LCB-lite (arXiv 2508.08985): keep the local answer if it costs less than a question at the lower confidence
    bounds of both costs. The confidence is the risk, in bins, each with a bound of its own; the cost of an error is its
    price, and that of a question its time. Where the rule sends a question is the product's."""

    def __init__(self, world: World, price: Floats, precision: int = 0, start: Knowledge | None = None) -> None:
        """
        Args:
            price: Price of an error in each episode, seconds ``(b,)``.
            precision: See ``FixedRule``.
            start: Knowledge to start from.
        """
        super().__init__(world, precision)
        count, start = len(world.episodes), start or Knowledge(np.zeros((len(_BINS) + 1, 2)), 0.0, 0.0)
        self._price, self._counts = price, np.tile(start.counts, (count, 1, 1))
        self._seconds, self._number = np.full(count, start.seconds), np.full(count, start.number)
        self._bin, self._frames = np.zeros(count, np.int64), start.number

    @property
    def knowledge(self) -> Knowledge:
        """The sum over all episodes."""
        return Knowledge(self._counts.sum(0), float(self._seconds.sum()), float(self._number.sum()))

    def act(self, world: World) -> Numbers:
        self._began, self._frames = world.now, self._frames + 1.0
        self._bin = np.searchsorted(_BINS, world.risk)
        explored = _EXPLORATION * np.log(self._frames + 1.0)
        answers, wrong = self._counts[np.arange(len(self._bin)), self._bin].T
        accuracy = 1.0 - wrong / np.maximum(answers, 1.0) - np.sqrt(explored / np.maximum(answers, 1e-9))
        seconds = self._seconds / np.maximum(self._number, 1.0)
        seconds -= self._price * np.sqrt(explored / np.maximum(self._number, 1e-9))
        asks = self._price * (1.0 - np.maximum(0.0, accuracy)) >= np.maximum(0.0, seconds)
        asks = (asks & world.legal[:, DEVICE]) | ~world.legal[:, LOCAL]
        return np.where(asks, self.ask(world, asks), LOCAL)

    def learn(self, world: World, actions: Numbers, outcome: Outcome) -> None:
        super().learn(world, actions, outcome)
        rows = np.flatnonzero(actions != LOCAL)
        self._counts[rows, self._bin[rows], 0] += 1
        self._counts[rows, self._bin[rows], 1] += outcome.local_wrong[rows]
        self._seconds[rows] += outcome.latency[rows]
        self._number[rows] += 1


#: Where a static policy may ask: the device, and the server at each precision.
STATIC = (DEVICE, *range(ASK, ASK + PRECISIONS))
