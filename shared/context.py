"""Context: what the recent past says about the next label, as a filter over labels.

A hidden Markov model with a sticky state: between two frames the object stays, or with a small probability another
takes its place, drawn from the working set (the labels seen lately) or, rarely, from all. A frame's evidence is the
likelihood of the one most trusted model that saw it.

What makes it hold up on video, where the errors of neighbouring frames are the same error, is *novelty*: how much of
a picture differs from another. All that is said about one object is one likelihood, the mean of the looks at it, as
far as they show the same; what the full model says takes the place of what local ones said. A cut ends the object's
stay, so the state is let go. Where frames are unrelated pictures novelty says nothing, and the caller gives no key:
then every frame is new, and nothing is a cut.

Costs a few vector operations of ``classes`` numbers; a thousand classes stay cheap.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import msgspec
import numpy as np

from shared.gate import Posterior, entropy

#: An object that moves changes the picture a little, another one changes it at a stroke.
_STEEPNESS = 4
#: For as many observations a bundle's parameter counts, and after how many one of the stream's own counts 1/e.
_PRIOR, _FADING = 8.0, 200.0
#: What may change in a frame though the picture does not tell: the object, and how a model sees it. So nothing that was
#: said is relied on for ever, and the sooner it is asked again the less sure it was.
_UNSEEN, _STALE = 0.001, 0.02
#: More frames than this no mistake is reckoned to last: caches ask again before.
_LONGEST_STAY = 300.0
#: From so many looks at one object on, the full model has made up its mind.
_INSISTENT = 8.0
#: The reference is the full model heard over a window of so many frames, begun afresh: what a false hit is told by.
WINDOW = 16
#: One over the looks that the reference has had at an object, on average over the frames of a window.
_REFERENCE = sum(1 / looks for looks in range(1, WINDOW + 1)) / WINDOW
#: Guesses that are asked about are in doubt. Surer ones err beyond their doubt by this power of what those do.
_DEPTH = 1.5
#: A likelihood that is as good as none.
_LEAST = 1e-6
#: A belief that is as good as none, far under what any word can do.
_NEVER = 1e-15
#: The most looks at one object that are remembered: what was said longer ago fades.
_MOST_LOOKS = 16.0
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class ContextParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the filter begins; part of a bundle, fitted on held-out streams. What a stream can show is learned from it:
    ``switch``, ``wander`` and ``caution``, which never falls below the bundle's.

    ``switch``: probability that the object changes between two frames, where the pictures do not tell. ``stranger``:
    probability that the new one is from outside the working set. ``memory``: new pictures until a label's weight in
    the working set has fallen to 1/e. ``tempering``: exponent of a new picture's likelihood. ``floor``: share of the
    belief that stays spread over all labels, so that the filter is never certain. ``still``, ``cut``: change between
    two pictures, grey levels, at or under which nothing moved but the sensor's noise, and at or over which they show
    different things. ``wander``: by how much, nats, the full model's margin differs from one view of an object to
    another (root mean square). ``caution``: how many times as often as a belief doubts itself the full model differs
    from it, where that has not spoken about the object.
    """

    switch: _Share = 0.03
    stranger: _Share = 0.05
    memory: Annotated[float, msgspec.Meta(gt=0)] = 40.0
    tempering: _Share = 1.0
    floor: _Share = 1e-3
    still: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    cut: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    wander: Annotated[float, msgspec.Meta(ge=0)] = 1.6
    caution: Annotated[float, msgspec.Meta(ge=1)] = 1.0


class Key(Protocol):
    """What tells two pictures apart."""

    def change(self, before: Any, /) -> float:
        """How much this picture differs from ``before``, grey levels."""


@dataclass(frozen=True, slots=True, eq=False)
class Word:
    """What a model said about a picture: its calibrated ``likelihood`` ``(classes,)``; whether it was the ``full``
    model; the picture's ``key``, None where pictures are not told apart."""

    likelihood: Posterior
    full: bool = False
    key: Key | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Belief:
    """What is believed about the present frame, ``(classes,)``, and the ``risk`` of answering with ``label``: the
    probability that the reference would say another."""

    posterior: Posterior
    label: int
    risk: float


@dataclass(frozen=True, slots=True, eq=False)
class _Heard:
    """The last word about the present object: ``same`` is the probability that it was about this one, ``covers`` how
    much of the present picture is what it was about, 0..1; ``age``: frames since it was said."""

    word: Word | None = None
    same: float = 0.0
    covers: float = 0.0
    age: int = 0

    @property
    def share(self) -> float:
        """How much of the present picture has been spoken about."""
        return self.same * self.covers

    @property
    def holds(self) -> float:
        """How much of it that was said may be relied on."""
        return self.share * float((1.0 - _UNSEEN) ** self.age)


_SILENCE = _Heard()


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """The filter between two events. ``mean``: what was said about the present object, log-likelihoods over ``looks``;
    it is in the belief already. ``any`` model's last word and the ``full`` model's; ``arrival``: the probability that
    the object came with this frame."""

    belief: Posterior
    mean: Posterior
    looks: float = 0.0
    key: Key | None = None
    arrival: float = 1.0
    any: _Heard = _SILENCE
    full: _Heard = _SILENCE


class _Learned:
    """A ratio of two sums in which what is long ago fades, and that begins at ``prior``."""

    def __init__(self, prior: float) -> None:
        self._over, self._under = _PRIOR * prior, _PRIOR

    @property
    def value(self) -> float:
        return self._over / self._under

    def learn(self, over: float, under: float = 1.0) -> None:
        fading = math.exp(-1.0 / _FADING)
        self._over = fading * self._over + over
        self._under = fading * self._under + under


@dataclass(slots=True)
class _Frame:
    """What the filter must remember of a frame to run again from it."""

    index: int
    before: _State
    key: Key | None
    word: Word | None = None


#: No memory: the belief is what the model says, as if there were no context.
FORGETFUL = ContextParameters(switch=1.0, stranger=1.0, floor=0.0, still=0.0, cut=0.0)


class Context:
    """The filter. ``advance`` once per frame, then ``observe`` at most once for that frame; ``revise`` corrects an
    earlier one."""

    def __init__(self, classes: int, parameters: ContextParameters | None = None, ring: int = 64) -> None:
        self._p = parameters or ContextParameters()
        self._classes = classes
        self._uniform = np.full(classes, 1.0 / classes)
        self._nothing = np.zeros(classes)
        self._weights = np.zeros(classes)
        self._news = 1.0
        self._working_set = self._uniform
        self._frames = self._arrivals = 0.0
        self._switch, self._wander, self._doubt = (
            _Learned(prior) for prior in (self._p.switch, self._p.wander**2, 1.0)
        )
        self._ring: deque[_Frame] = deque(maxlen=ring)
        self._arrived = self._state = _State(self._uniform, self._nothing)
        #: The last word that was fused into this frame, and what came of it.
        self._fused: tuple[Word, _State, Belief] | None = None

    @property
    def belief(self) -> Belief:
        """What is believed about the present frame."""
        return self._belief(self._state)

    @property
    def least_risk(self) -> float:
        """What a local word cannot get the risk of the present frame under, however sure it is."""
        holds = self._arrived.full.holds
        return holds * self._turns(self._arrived, int(self._arrived.mean.argmax())) if holds else 0.0

    @property
    def heard(self) -> float:
        """How much of the present picture the full model had spoken about when the frame began, 0..1."""
        return self._arrived.full.share

    @property
    def verdict(self) -> Belief | None:
        """What the full model by itself has come to about the object in view, which it has looked at often; None if it
        has not."""
        if self.heard <= 0.5 or self._state.looks < _INSISTENT:
            return None
        return self._belief(self._state, int(self._state.mean.argmax()))

    @property
    def wander(self) -> float:
        """By how much, nats, the full model's margin differs from one view of an object to another."""
        return math.sqrt(self._wander.value)

    @property
    def switch(self) -> float:
        """Probability that the object changes between two frames, where the pictures do not tell."""
        return self._switch.value

    @property
    def caution(self) -> float:
        """How many times as often as a belief doubts itself the full model differs from it."""
        return self._p.caution * math.pow(max(1.0, self._doubt.value), _DEPTH)

    @property
    def learned(self) -> ContextParameters:
        """Where a reference begins: with the bundle's parameters, but for the switch rate that the stream has shown,
        which no window of it is long enough to show again."""
        return msgspec.structs.replace(self._p, switch=self.switch)

    @property
    def stay(self) -> float:
        """For how many frames an object stays, as far as the pictures have told; 1 where they tell nothing."""
        return (self._frames + 1.0) / (self._arrivals + 1.0)

    def working_set(self) -> Posterior:
        """The prior over the label of a newly arrived object, ``(classes,)``."""
        return self._working_set

    def advance(self, index: int, key: Key | None = None) -> None:
        """Begin frame ``index``. The ``belief`` is then what is expected before any model has seen it."""
        self._ring.append(_Frame(index, self._state, key))
        self._arrived = self._state = self._arrive(self._state, key)
        fading = math.exp(-self._arrived.arrival / self._p.memory)
        self._arrivals = fading * self._arrivals + self._arrived.arrival
        # A quiet night says little about the day.
        self._frames = min(fading * self._frames + 1.0, _LONGEST_STAY * (self._arrivals + 1.0))
        self._fused = None

    def fuse(self, word: Word) -> Belief:
        """The belief about the present frame if ``word`` were its evidence. Changes nothing."""
        return self._fuse(word)[1]

    def observe(self, word: Word) -> Belief:
        """Take ``word`` as the present frame's evidence, in place of any before it; return the belief."""
        self._ring[-1].word = word
        self._news = 1.0 - self._arrived.any.share
        guess = None if self._fused is None else (self._fused[0], self._fused[2])
        self._state, belief = self._fuse(word)
        self._learn_parameters(self._ring[-1], self._arrived, belief, guess)
        return belief

    def revise(self, index: int, word: Word) -> Belief | None:
        """Replace the evidence of an earlier frame and run the filter again from there; the belief about that frame,
        or None if it is no longer in the ring."""
        place = next((i for i, frame in enumerate(self._ring) if frame.index == index), None)
        if place is None:
            return None
        first, *others = list(self._ring)[place:]
        guess = first.word
        first.word = word
        arrived = self._arrived = self._arrive(first.before, first.key)
        self._news = 1.0 - arrived.any.share
        state = self._hear(arrived, word)
        belief = self._belief(state)
        guessed = None if guess is None else (guess, self._belief(self._hear(arrived, guess)))
        if guess is not word:
            self._learn_parameters(first, arrived, belief, guessed)
        for frame in others:
            frame.before = state
            state = self._arrived = self._arrive(state, frame.key)
            if frame.word is not None:
                state = self._hear(state, frame.word)
        self._state = state
        self._fused = None
        return belief

    def learn(self, label: int) -> None:
        """Count the *verified* label, from a hit or the cloud, of what was last observed into the working set.

        It counts as much as its picture was new: an object that stays in view for a second is one thing seen, not
        thirty, or the set would be whatever came last.
        """
        self._weights *= math.exp(-self._news / self._p.memory)
        self._weights[label] += self._news
        total = float(self._weights.sum())
        if total <= 0.0:
            return
        # A label seen once or twice is not yet a working set: trust grows with what was seen.
        trust = (1.0 - self._p.stranger) * total / (total + 1.0)
        self._working_set = (trust / total) * self._weights + (1.0 - trust) / self._classes

    def _arrive(self, state: _State, key: Key | None) -> _State:
        if key is None:
            switch = self.switch
            return _State((1.0 - switch) * self._alive(state.belief) + switch * self._working_set, self._nothing)
        new = self._novelty(state.key, key)
        switch = new * (self._p.switch + (1.0 - self._p.switch) * new)
        belief = state.belief if switch == 0.0 else (1.0 - switch) * state.belief + switch * self._working_set

        def carry(heard: _Heard) -> _Heard:
            if heard.word is None:
                return heard
            # Pictures are dear to compare, and mostly it is the same two again.
            covers = 1.0 - new if heard.word.key is state.key else self._covers(heard.word, key)
            return _Heard(heard.word, (1.0 - switch) * heard.same, covers, heard.age + 1)

        last = carry(state.any)
        full = last if state.full is state.any else carry(state.full)
        return _State(belief, state.mean, state.looks, key, switch, last, full)

    def _fuse(self, word: Word) -> tuple[_State, Belief]:
        if self._fused is None or word is not self._fused[0]:  # a guess is usually observed right after
            state = self._hear(self._arrived, word)
            self._fused = word, state, self._belief(state)
        return self._fused[1:]

    def _hear(self, state: _State, word: Word) -> _State:
        """Count ``word`` into what was said about the present object. Looks at one object err alike, so all of them
        together are one likelihood, their mean; the full model's takes the place of what local ones said."""
        spoken = state.full.share if word.full else state.any.share
        new = 1.0 if word.key is state.key else 1.0 - spoken  # what is remembered was heard when it was said
        weight = new if word.full else new * (1.0 - state.full.share)
        before = spoken * state.looks
        looks = before + weight
        mean = state.mean if looks == 0.0 else (before * state.mean + weight * _said(word)) / looks
        news = self._p.tempering * (mean - state.any.share * state.mean)
        belief = np.maximum(state.belief * np.exp(news - news.max()), _NEVER)
        belief /= belief.sum()
        if word is state.any.word:  # remembered: it was compared when the frame arrived
            covers = state.any.covers
        else:
            covers = 1.0 if state.key is None else self._covers(word, state.key)
        last = state.full if word.full else state.any
        heard = _Heard(word, 1.0, covers, 0 if word.key is state.key else last.age)
        full = heard if word.full else state.full
        return _State(belief, mean, min(looks, _MOST_LOOKS), state.key, state.arrival, heard, full)

    def _alive(self, belief: Posterior) -> Posterior:
        """``belief`` with the floor under every label. What is kept from frame to frame has none, for what a word has
        put in must come out again when another takes its place."""
        alive = np.maximum(belief, self._p.floor / self._classes)
        alive /= alive.sum()
        return alive

    def _belief(self, state: _State, label: int | None = None) -> Belief:
        """With the most probable label, if with no other."""
        belief = self._alive(state.belief)
        label = int(belief.argmax()) if label is None else label
        return Belief(belief, label, self._risk(state, label, float(belief[label])))

    def _risk(self, state: _State, label: int, believed: float) -> float:
        """A false hit is one that the reference would not have given. Where the full model has spoken about this very
        object it says the same unless its margin has wandered below zero. Elsewhere the belief is all there is to go
        by; and a mistake about an object is repeated for as long as it stays, so one question saves that much."""
        alone = min(1.0, self.caution * self.stay * (1.0 - believed))
        if (holds := state.full.holds) == 0.0:
            return alone
        return holds * self._turns(state, label) + (1.0 - holds) * alone

    def _turns(self, state: _State, label: int) -> float:
        """Probability that the reference does not rank ``label`` first, after what the full model has said about the
        object. Both are means of looks, and ``wander`` is how far two single looks are apart."""
        looks = max(1.0, state.looks * (1.0 - _STALE) ** state.full.age)
        apart = self.wander * math.sqrt((1.0 / looks + _REFERENCE) / 2.0)
        return below_zero(margin(state.mean, label) / max(apart, 1e-6))

    def _learn_parameters(
        self, frame: _Frame, arrived: _State, belief: Belief, guess: tuple[Word, Belief] | None
    ) -> None:
        """Let the stream correct what the bundle began with. ``belief``: what the frame's word led to; ``guess``: what
        one before it, that it has replaced, had led to."""
        word, before = frame.word, arrived.full
        if word is None or word.key is not frame.key:  # one that was remembered
            return
        if word.key is None:
            # Online expectation maximisation: how probable it is that this frame's object is a new one.
            switch, kept = self.switch, self._alive(frame.before.belief)
            new = switch * float(np.dot(self._working_set, word.likelihood))
            same = (1.0 - switch) * float(np.dot(kept, word.likelihood))
            self._switch.learn(new / (new + same) if new > 0.0 else 0.0)
        elif word.full and before.word is not None and before.share > 0.5:
            # A second word about one object.
            first, second = _said(before.word), _said(word)
            most = int(first.argmax())
            self._wander.learn((margin(second, most) - margin(first, most)) ** 2)
        if word.full and before.share == 0.0 and guess is not None and not guess[0].full:
            # What a local model alone led to, and what the full one did; only of guesses that are somewhat sure.
            doubt = 1.0 - float(guess[1].posterior[guess[1].label])
            if self._p.caution * doubt < 1.0:
                self._doubt.learn(float(guess[1].label != belief.label), doubt)

    def _covers(self, word: Word, key: Key) -> float:
        return 1.0 - self._novelty(word.key, key)

    def _novelty(self, before: Key | None, key: Key) -> float:
        """How much of the picture ``key`` is new after the one ``before``: 0 unchanged, 1 a cut."""
        if before is None or self._p.cut == 0.0:
            return 1.0
        change = 0.0 if before is key else key.change(before)
        if change >= self._p.cut:
            return 1.0
        if change <= self._p.still:
            return 0.0
        return ((change - self._p.still) / (self._p.cut - self._p.still)) ** _STEEPNESS


class Memoryless(Context):
    """No context, and for a risk the entropy, nats, of what the model says: the rule of CacheNet as published (arXiv
    2007.01793, section IV)."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes, FORGETFUL)

    def _risk(self, state: _State, label: int, believed: float) -> float:  # noqa: ARG002 - the entropy is of no label
        return entropy(state.belief)


def _said(word: Word) -> Posterior:
    """The word's log-likelihoods."""
    said: Posterior = np.log(np.maximum(word.likelihood, _LEAST))
    return said


def margin(said: Posterior, label: int) -> float:
    """By how many nats ``label`` is ahead of all others in log-likelihoods ``(classes,)``; negative where it is not."""
    others = said.copy()
    others[label] = -np.inf
    return float(said[label] - others.max())


def below_zero(standardised: float) -> float:
    """Probability that a normal variable of mean ``standardised`` and variance 1 is below zero."""
    return 0.5 * math.erfc(standardised / math.sqrt(2.0))
