"""Context: what the recent past says about the next label, as a filter over labels.

Between two frames the object stays, or another takes its place, drawn from the working set (the labels seen lately)
or, rarely, from all. The transitions are ``shared.filter``'s, the risk of an answer is ``shared.risk``'s, and what the
stream shows of itself is learned in ``shared.habits``; here is what must be remembered: the present state, the working
set, and a ring of recent frames in which a late word takes its own place.

Costs a few vector operations of ``classes`` numbers; a thousand classes stay cheap.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shared.filter import Filter, Key, Stay, Word, another
from shared.gate import Posterior, entropy
from shared.habits import ContextParameters, Habits
from shared.risk import Belief, differs, lasting, margin, turns
from shared.working_set import WorkingSet

#: From so many looks at one object on, the full model has made up its mind.
_INSISTENT = 8.0


@dataclass(slots=True)
class _Frame:
    """What the filter must remember of a frame to run again from it."""

    index: int
    before: Stay
    key: Key | None
    word: Word | None = None


class Guessed(NamedTuple):
    """A guess: the ``word`` that it came from, None if from none, and the ``belief`` that it led to."""

    word: Word | None
    belief: Belief


#: No memory: the belief is what the model says, as if there were no context.
FORGETFUL = ContextParameters(switch=1.0, stranger=1.0, floor=0.0, still=0.0, cut=0.0)


class Context:
    """The filter. ``advance`` once per frame, then ``observe`` at most once for that frame; ``revise`` corrects an
    earlier one."""

    def __init__(self, classes: int, parameters: ContextParameters | None = None, ring: int = 64) -> None:
        self._p = parameters or ContextParameters()
        self.habits = Habits(self._p)
        self._filter = Filter(classes, self._p, self.habits)
        self._working_set = WorkingSet(classes, self._p, self.habits)
        self._news = 1.0
        self._ring: deque[_Frame] = deque(maxlen=ring)
        self._arrived = self._stay = self._filter.begin(self._working_set.prior)
        #: The last word that was fused into this frame, and what came of it.
        self._fused: tuple[Word, Stay, Belief] | None = None

    @property
    def belief(self) -> Belief:
        """What is believed about the present frame."""
        return self._belief(self._stay)

    @property
    def least_risk(self) -> float:
        """What a local word that agrees with the full one cannot get the risk of the present frame under."""
        arrived = self._arrived
        if (holds := arrived.full.holds) == 0.0:
            return 0.0
        return holds * lasting(turns(arrived, int(arrived.mean.argmax()), self.habits.wander), self.habits)

    @property
    def heard(self) -> float:
        """How much of the present picture the full model had spoken about when the frame began, 0..1."""
        return self._arrived.full.share

    def owed(self, word: Word | None) -> bool:
        """Whether a guess from ``word`` about the present frame owes anything to the full model."""
        return self.heard > 0.0 or (word is not None and word.full)

    @property
    def verdict(self) -> Belief | None:
        """What the full model by itself has come to about the object in view, which it has looked at often; None if it
        has not."""
        if self.heard <= 0.5 or self._stay.looks < _INSISTENT:
            return None
        return self._belief(self._stay, int(self._stay.mean.argmax()))

    def working_set(self) -> Posterior:
        """The prior over the label of a newly arrived object, ``(classes,)``."""
        return self._working_set.prior

    def advance(self, index: int, key: Key | None = None) -> None:
        """Begin frame ``index``. The ``belief`` is then what is expected before any model has seen it."""
        self._ring.append(_Frame(index, self._stay, key))
        self._arrived = self._stay = self._filter.arrive(self._stay, key, self._working_set.prior)
        self.habits.arrived(self._arrived.arrival)
        self._fused = None

    def fuse(self, word: Word) -> Belief:
        """The belief about the present frame if ``word`` were its evidence. Changes nothing."""
        return self._fuse(word)[1]

    def observe(self, word: Word, guess: Guessed | None = None, verified: bool = True) -> Belief:
        """Take ``word`` as the present frame's evidence, in place of any before it; return the belief. ``guess``: what
        it takes the place of. Habits are learned from it where it is ``verified``: the full model's, or a hit's."""
        self._ring[-1].word = word
        self._news = 1.0 - self._arrived.any.share
        self._stay, belief = self._fuse(word)
        if verified:
            self._learn_habits(self._ring[-1], self._arrived, belief, guess)
        return belief

    def revise(self, index: int, word: Word, guess: Word | None = None, learn: bool = True) -> Belief | None:
        """Replace the evidence of an earlier frame and run the filter again from there; the belief about that frame,
        or None if it is no longer in the ring. ``guess``: a local word about it, whose guess the new one judges.
        ``learn``: whether its habits have yet to be learned."""
        place = next((i for i, frame in enumerate(self._ring) if frame.index == index), None)
        if place is None:
            return None
        first, *others = list(self._ring)[place:]
        first.word = word
        arrived = self._arrived = self._filter.arrive(first.before, first.key, self._working_set.prior)
        self._news = 1.0 - arrived.any.share
        stay = self._filter.hear(arrived, word)
        belief = self._belief(stay)
        if learn:
            guessed = None if guess is None else Guessed(guess, self._belief(self._filter.hear(arrived, guess)))
            self._learn_habits(first, arrived, belief, guessed)
        for frame in others:
            frame.before = stay
            stay = self._arrived = self._filter.arrive(stay, frame.key, self._working_set.prior)
            if frame.word is not None:
                stay = self._filter.hear(stay, frame.word)
        self._stay = stay
        self._fused = None
        return belief

    def learn(self, label: int) -> None:
        """Count the *verified* label, from a hit or the cloud, of what was last observed into the working set."""
        self._working_set.learn(label, self._news)

    def _fuse(self, word: Word) -> tuple[Stay, Belief]:
        if self._fused is None or word is not self._fused[0]:  # a guess is usually observed right after
            stay = self._filter.hear(self._arrived, word)
            self._fused = word, stay, self._belief(stay)
        return self._fused[1:]

    def _belief(self, stay: Stay, label: int | None = None) -> Belief:
        """With the most probable label, if with no other."""
        belief = self._filter.alive(stay.belief)
        label = int(belief.argmax()) if label is None else label
        return Belief(belief, label, self._risk(stay, label, float(belief[label])))

    def _risk(self, stay: Stay, label: int, believed: float) -> float:
        return differs(stay, label, believed, self._working_set.prior, self.habits)

    def _learn_habits(self, frame: _Frame, arrived: Stay, belief: Belief, guess: Guessed | None) -> None:
        """Let the stream correct what the bundle began with. ``belief``: what the frame's word led to; ``guess``: what
        one before it, that it has replaced, had led to."""
        word, before = frame.word, arrived.full
        if word is None or word.key is not frame.key:  # one that was remembered
            return
        prior = self._working_set.prior
        if word.key is None:
            # Online expectation maximisation: how probable it is that this frame's object is a new one.
            kept = self._filter.alive(frame.before.belief)
            arrival = another(self.habits.switch, word, kept, prior)
            self.habits.switched(arrival)
        else:
            arrival = arrived.arrival
        if word.key is not None and word.full and before.word is not None:
            # A second word about one object, or the first about another.
            if 0.0 < before.share < 1.0:
                expected = 1.0 - before.share
                self.habits.renewed(another(expected, word, arrived.said, prior), expected)
            if before.share > 0.5:
                most = int(arrived.mean.argmax())
                self.habits.wandered(margin(word.logs, most) - margin(arrived.mean, most), arrived.looks)
        stranger, either = self._working_set.explain(word.likelihood)
        self.habits.met(arrival * stranger, arrival * either)
        if word.full and before.share == 0.0 and guess is not None and guess.word is not None and not guess.word.full:
            # What a local model alone led to, and what the full one left of it.
            said = guess.belief.posterior
            label = guess.belief.label
            news = np.log(said) - np.log(self._filter.alive(arrived.belief))
            backing = float(news[label]) - float(said.dot(news))
            self.habits.guessed(guess.belief.doubt, 1.0 - float(belief.posterior[label]), backing)


class Memoryless(Context):
    """No context, and for a risk the entropy, nats, of what the model says: the rule of CacheNet as published (arXiv
    2007.01793, section IV)."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes, FORGETFUL)

    def _risk(self, stay: Stay, label: int, believed: float) -> float:  # noqa: ARG002 - the entropy is of no label
        return entropy(stay.belief)

    def _learn_habits(self, frame: _Frame, arrived: Stay, belief: Belief, guess: Guessed | None) -> None:
        """Nothing is learned where nothing is remembered."""
