"""Many episodes in lockstep: a stream over a varying link, the decisions of a policy, and the budget outside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.literature.learned_offloading import links
from benchmarks.literature.learned_offloading.answers import FRAMES, PRECISIONS, Stream
from benchmarks.literature.learned_offloading.links import DEADLINE_S, FPS, Durations
from cachenet.shared.cascade.risk_budget import RiskBudget

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]

#: Actions: the local answer, the full model on the device, and a question at precision ``action - ASK``.
LOCAL, DEVICE, ASK = 0, 1, 2
ACTIONS = ASK + PRECISIONS
#: Values of an observation.
FEATURES = 6 + PRECISIONS + (PRECISIONS - 1)
#: Slots of a link: more than frames, since a slow answer delays the next frame.
SLOTS = FRAMES + 100
#: Largest risk of an answer without the base model, as a share of the threshold (``shared.cascade.cascade``).
_UNPROBED_SHARE = 0.1
#: Time in which what is known of a link is forgotten, by a factor of e, seconds.
_FORGET_S = 10.0
#: Prior of the estimated question time: seconds at no byte, and for each 10 kB; weight of the prior, in questions.
_PRIOR, _WEIGHT = np.array([0.06, 0.02]), 0.3
_UNIT = 1e4


@dataclass(frozen=True, eq=False)
class Episodes:
    """Streams over links, ``b`` episodes.

    Attributes:
        streams: The streams.
        which: Index of each episode's stream ``(b,)``.
        total, line: Times of questions, see ``links.question_times`` ``(b, SLOTS, precisions)``.
        budget: Risk budget of each episode ``(b,)``.
    """

    streams: Sequence[Stream]
    which: Numbers
    total: Floats
    line: Floats
    budget: Floats

    def __len__(self) -> int:
        return len(self.which)

    def take(self, rows: Numbers, budget: Floats) -> Episodes:
        """The episodes of ``rows`` with other budgets."""
        return Episodes(self.streams, self.which[rows], self.total[rows], self.line[rows], budget)


def episodes(streams: Sequence[Stream], seeds: Sequence[int]) -> Episodes:
    """Every stream over the link of every seed, stream by stream; budgets are 0."""
    total, line = [], []
    for stream in streams:
        sizes = stream.nbytes[np.arange(SLOTS) % len(stream.nbytes)]
        for seed in seeds:
            times = links.question_times(links.draw(SLOTS, seed), sizes, seed)
            total.append(times[0])
            line.append(times[1])
    which = np.repeat(np.arange(len(streams)), len(seeds))
    return Episodes(streams, which, np.stack(total), np.stack(line), np.zeros(len(which)))


@dataclass(frozen=True, eq=False)
class Outcome:
    """The outcome of a step, for each episode ``(b,)``.

    Attributes:
        latency: Time to the answer, seconds.
        charge: Risk that the budget was charged.
        wrong: Whether the answer differs from the reference.
        asked: Whether the server was asked.
        local_wrong: Whether the local answer was, or would have been, wrong.
        reply: Time of the question until its reply, at most that to the deadline, seconds; meaningless unless asked.
        timeout: Whether no reply came until the deadline.
    """

    latency: Floats
    charge: Floats
    wrong: Flags
    asked: Flags
    local_wrong: Flags
    reply: Floats
    timeout: Flags


class World:
    """The episodes from their first frame to their last.

    A local answer, and a question at a reduced precision, are legal if their risk is at most the threshold. The
    threshold is that of the product's budget; the budget is charged with the risk of the answer. Where the picture has
    hardly changed, the held answer is given without the base model, as the product does, and nothing else is legal.
    A question without a reply at the deadline is answered by the full model on the device.

    Attributes:
        threshold: Largest risk of an answer ``(b,)``.
        risk: Risk of the local answer ``(b,)``.
        legal: Legal actions ``(b, ACTIONS)``.
        predicted: Estimated time of a question at each precision ``(b, precisions)``, seconds.
        now: Time at which the present frame is looked up ``(b,)``, seconds.
        frame: Number of the present frame.
    """

    def __init__(
        self, episodes: Episodes, durations: Durations, thresholds: Floats | None = None, local: bool = True
    ) -> None:
        """Start at the first frame.

        Args:
            thresholds: Fixed thresholds ``(b,)`` in place of the budget's.
            local: Whether there are local answers; without, the base model never runs.
        """
        self.durations, self.episodes, self._fixed, self._local = durations, episodes, thresholds, local
        self._budgets = [RiskBudget(budget) for budget in episodes.budget.tolist()] if thresholds is None else []
        count = len(episodes)
        names = ("picture_risk", "risk", "held_wrong", "wrong", "reply_risk", "reply_wrong", "nbytes")
        self._tables = {name: np.stack([getattr(one, name) for one in episodes.streams]) for name in names}
        self._rows = np.arange(count)
        self.frame, self._last = 0, self._tables["nbytes"].shape[1]
        self._due, self._free, self._line_free = np.zeros(count), np.zeros(count), np.zeros(count)
        self._held, self._precision = np.full(count, self._last), np.zeros(count, np.int64)
        self._asked_at = np.full(count, -60.0)
        self._timeout = np.zeros(count, np.bool_)
        self._known, self._sum = np.zeros((count, 2, 2)), np.zeros((count, 2))
        self._begin()

    @property
    def done(self) -> bool:
        """Whether every frame is answered."""
        return bool(self.frame >= self._last)

    def observe(self) -> npt.NDArray[np.float32]:
        """What a policy may know ``(b, FEATURES)``: logarithms of risks over the threshold, of the threshold over the
        budget, of estimated times over that of the full model on the device; the age of the last question, and whether
        it had no reply; the queue on the line; the age of the held answer."""
        full, budget = self.durations.full, np.maximum(self.episodes.budget, 1e-9)
        age = np.where(self._held == self._last, 100, self.frame - self._held)
        columns = [
            np.log(np.maximum(self.risk, 1e-6) / self.threshold),
            np.log(self.threshold / budget),
            *np.log(np.maximum(self.reply_risk[:, 1:], 1e-6) / self.threshold[:, None]).T,
            *np.log(self.predicted / full).T,
            np.log1p(self.now - self._asked_at),
            self._timeout.astype(np.float64),
            np.maximum(0.0, self._line_free - self.now) / full,
            np.log1p(age) / 2,
        ]
        observed: npt.NDArray[np.float32] = np.clip(np.stack(columns, 1), -5, 5).astype(np.float32)
        return observed

    def step(self, actions: Numbers) -> Outcome:
        """Answer the present frame, and go on to the next one."""
        durations, rows, which, i = self.durations, self._rows, self.episodes.which, self.frame
        asks = actions >= ASK
        precision = np.where(asks, actions - ASK, 0)
        slot = np.minimum(SLOTS - 1, (self.now * FPS).astype(np.int64))
        sent = self.now + self._local_s + durations.encode
        starts = np.maximum(sent, self._line_free)
        replied = starts + self.episodes.total[rows, slot, precision]
        timeout = asks & (replied > self.now + DEADLINE_S)
        asked_s = np.where(timeout, DEADLINE_S + durations.full, replied - self.now)
        local = actions == LOCAL
        own_s = np.where(local, self._local_s, self._local_s + durations.full)
        latency = np.where(asks, asked_s, own_s)
        answered = asks & ~timeout
        charge = np.where(local, self.risk, np.where(answered, self.reply_risk[rows, precision], 0.0))
        wrong = np.where(local, self._local_wrong, answered & self._tables["reply_wrong"][which, precision, i])
        reply = np.minimum(replied, self.now + DEADLINE_S) - sent
        outcome = Outcome(latency, charge, wrong, asks, self._local_wrong, reply, timeout)
        self._line_free = np.where(asks, starts + self.episodes.line[rows, slot, precision], self._line_free)
        self._held = np.where(local, self._held, i)
        self._precision = np.where(local, self._precision, np.where(timeout, 0, precision))
        self._note(asks, precision, sent, starts, outcome)
        if self._fixed is None:
            for budget, one in zip(self._budgets, charge.tolist(), strict=True):
                budget.charge(one)
        self._free = self.now + latency
        self._due = np.maximum(self._due, self.now) + 1.0 / FPS
        self.frame += 1
        if not self.done:
            self._begin()
        return outcome

    def _begin(self) -> None:
        """Look the present frame up."""
        tables, which, i = self._tables, self.episodes.which, self.frame
        self.now = np.maximum(self._due, self._free)
        own = [budget.threshold for budget in self._budgets]
        self.threshold = np.array(own) if self._fixed is None else self._fixed
        at = which, self._precision, self._held, i
        picture_risk = tables["picture_risk"][which, self._held, i]
        unprobed = picture_risk <= _UNPROBED_SHARE * self.threshold
        self.risk = np.where(unprobed, picture_risk, tables["risk"][at]).astype(np.float64)
        self._local_wrong = np.where(unprobed, tables["held_wrong"][at], tables["wrong"][at])
        self.reply_risk = tables["reply_risk"][which, :, i].astype(np.float64)
        self._local_s = self.durations.frame + np.where(unprobed, 0.0, self.durations.base)
        self.legal = np.ones((len(which), ACTIONS), np.bool_)
        self.legal[:, LOCAL] = self.risk <= self.threshold
        self.legal[:, ASK:] = self.reply_risk <= self.threshold[:, None]
        self.legal[unprobed, LOCAL + 1 :] = False
        if not self._local:
            self._local_s = np.full(len(which), self.durations.frame)
            self.legal[:] = True
            self.legal[:, LOCAL] = False
        self._predict()

    def _predict(self) -> None:
        """Estimate question times from the last questions: least squares of seconds over bytes, with forgetting."""
        weight = np.exp(-(self.now - self._asked_at) / _FORGET_S)
        known = weight[:, None, None] * self._known + _WEIGHT * np.eye(2)
        line = np.linalg.solve(known, (weight[:, None] * self._sum + _WEIGHT * _PRIOR)[:, :, None])[:, :, 0]
        sizes = self._tables["nbytes"][self.episodes.which, self.frame] / _UNIT
        queue = np.maximum(0.0, self._line_free - self.now)
        self.predicted = np.maximum(0.005, line[:, :1] + np.maximum(0.0, line[:, 1:]) * sizes) + queue[:, None]

    def _note(self, asks: Flags, precision: Numbers, sent: Floats, starts: Floats, outcome: Outcome) -> None:
        """Note the times of questions."""
        size = self._tables["nbytes"][self.episodes.which, self.frame, precision] / _UNIT
        x = np.stack([np.ones(len(size)), size], 1)
        weight = np.exp(-(sent - self._asked_at) / _FORGET_S)
        seconds = np.maximum(0.0, outcome.reply - (starts - sent))
        known = weight[:, None, None] * self._known + x[:, :, None] * x[:, None, :]
        total = weight[:, None] * self._sum + x * seconds[:, None]
        self._known = np.where(asks[:, None, None], known, self._known)
        self._sum = np.where(asks[:, None], total, self._sum)
        self._asked_at = np.where(asks, sent, self._asked_at)
        self._timeout = np.where(asks, outcome.timeout, self._timeout)
