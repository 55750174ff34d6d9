"""Context: what the recent past says about the next label, as a filter over labels.

A hidden Markov model with a sticky state: between two frames the object stays, or with a small probability another
takes its place, drawn from the working set (the labels seen lately) or, rarely, from all. Every frame multiplies in
the likelihood of the one most trusted model that saw it.

What makes it hold up on video, where the errors of neighbouring frames are the same error, is *novelty*: how much of
the picture changed since the frame before. A model that has spoken about a picture has nothing to add until the
picture has changed, so its word counts only as far as what it sees is new; the full model is heard on a picture that
so far only local models have spoken about. A cut ends the object's stay, so the state is let go. Where frames are
unrelated pictures novelty says nothing, and the caller passes None: then every frame is new, and nothing is a cut.

Costs a few vector operations of ``classes`` numbers; a thousand classes stay cheap.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np

from shared.gate import Posterior

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class ContextParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The filter's constants; part of a bundle, fitted on held-out streams.

    ``switch``: probability that the object changes between two frames, where the pictures do not tell. ``stranger``:
    probability that the new one is from outside the working set. ``memory``: new pictures until a label's weight in
    the working set has fallen to 1/e. ``tempering``: exponent of a new picture's likelihood. ``floor``: share of the
    belief that stays spread over all labels, so that the filter is never certain.
    """

    switch: _Share = 0.03
    stranger: _Share = 0.05
    memory: Annotated[float, msgspec.Meta(gt=0)] = 40.0
    tempering: _Share = 1.0
    floor: _Share = 1e-3


@dataclass(frozen=True, slots=True)
class _State:
    """The filter between two events. ``heard``: how much of the present picture a model has spoken about, 0..1;
    ``heard_full``: how much of it the full model has."""

    belief: Posterior
    heard: float = 0.0
    heard_full: float = 0.0


@dataclass(slots=True)
class _Frame:
    """What the filter must remember of a frame to run again from it."""

    index: int
    before: _State
    novelty: float | None
    likelihood: Posterior | None = None
    full: bool = False


#: No memory: the belief is what the model says, as if there were no context.
FORGETFUL = ContextParameters(switch=1.0, stranger=1.0, floor=0.0)


class Context:
    """The filter. ``advance`` once per frame, then ``observe`` at most once for that frame; ``revise`` corrects an
    earlier one."""

    def __init__(self, classes: int, parameters: ContextParameters | None = None, ring: int = 64) -> None:
        self._p = parameters or ContextParameters()
        self._classes = classes
        self._uniform = np.full(classes, 1.0 / classes)
        self._weights = np.zeros(classes)
        self._news = 1.0
        self._working_set = self._uniform
        self._ring: deque[_Frame] = deque(maxlen=ring)
        self._arrived = self._state = _State(self._uniform)
        #: The last likelihood that was fused, and what came of it.
        self._fused: tuple[Posterior | None, _State] = None, self._state

    @property
    def belief(self) -> Posterior:
        """What is believed about the present frame's label, ``(classes,)``."""
        return self._state.belief

    @property
    def settled(self) -> float:
        """How much of the present picture the full model has spoken about, 0..1: so far there is nothing left to ask
        it."""
        return self._arrived.heard_full

    def working_set(self) -> Posterior:
        """The prior over the label of a newly arrived object, ``(classes,)``."""
        return self._working_set

    def advance(self, index: int, novelty: float | None = None) -> Posterior:
        """Begin frame ``index``; return the belief about its label before any model has seen it.

        ``novelty`` 0..1: 0 an unchanged picture, 1 a cut; None where the pictures say nothing.
        """
        self._ring.append(_Frame(index, self._state, novelty))
        self._arrived = self._state = self._arrive(self._state, novelty)
        self._fused = None, self._state
        return self._state.belief

    def fuse(self, likelihood: Posterior) -> Posterior:
        """The belief about the present frame if a local model's ``likelihood`` were its evidence. Changes nothing."""
        if likelihood is not self._fused[0]:  # a model's guess is usually observed right after
            self._fused = likelihood, self._hear(self._arrived, likelihood, full=False)
        return self._fused[1].belief

    def observe(self, likelihood: Posterior, full: bool = False) -> Posterior:
        """Take ``likelihood`` as the present frame's evidence, in place of any before it; return the belief.

        ``full``: it is the full model's.
        """
        frame = self._ring[-1]
        frame.likelihood, frame.full = likelihood, full
        self._news = 1.0 - self._arrived.heard
        if full:
            self._state = self._hear(self._arrived, likelihood, full)
        else:
            self.fuse(likelihood)
            self._state = self._fused[1]
        return self._state.belief

    def revise(self, index: int, likelihood: Posterior) -> bool:
        """Replace the evidence of an earlier frame by the full model's and run the filter again from there. False if
        the frame is no longer in the ring."""
        place = next((i for i, frame in enumerate(self._ring) if frame.index == index), None)
        if place is None:
            return False
        self._ring[place].likelihood, self._ring[place].full = likelihood, True
        self._news = 1.0 - self._arrive(self._ring[place].before, self._ring[place].novelty).heard
        state = self._ring[place].before
        for frame in list(self._ring)[place:]:
            frame.before = state
            state = self._arrived = self._arrive(state, frame.novelty)
            if frame.likelihood is not None:
                state = self._hear(state, frame.likelihood, frame.full)
        self._state = state
        self._fused = None, state
        return True

    def learn(self, label: int) -> None:
        """Count the *verified* label, from a hit or the cloud, of what was last observed into the working set.

        It counts as much as its picture was new: an object that stays in view for a second is one thing seen, not
        thirty, or the set would be whatever came last.
        """
        self._weights *= np.exp(-self._news / self._p.memory)
        self._weights[label] += self._news
        total = float(self._weights.sum())
        if total <= 0.0:
            return
        # A label seen once or twice is not yet a working set: trust grows with what was seen.
        trust = (1.0 - self._p.stranger) * total / (total + 1.0)
        self._working_set = (trust / total) * self._weights + (1.0 - trust) / self._classes

    def _arrive(self, state: _State, novelty: float | None) -> _State:
        if novelty is None:
            switch, kept = self._p.switch, 0.0
        else:
            switch, kept = novelty * (self._p.switch + (1.0 - self._p.switch) * novelty), 1.0 - novelty
        belief = (1.0 - switch) * state.belief + switch * self._working_set
        return _State(belief, kept * state.heard, kept * state.heard_full)

    def _hear(self, state: _State, likelihood: Posterior, full: bool) -> _State:
        exponent = self._p.tempering * (1.0 - (state.heard_full if full else state.heard))
        if exponent == 0.0:
            return state
        fused = state.belief * (likelihood if exponent == 1.0 else likelihood**exponent)
        total = float(fused.sum())
        if total <= 0.0:  # belief and likelihood exclude each other: believe what was seen
            fused, total = likelihood.copy(), float(likelihood.sum())
        fused /= total
        fused += self._p.floor / self._classes
        fused /= 1.0 + self._p.floor
        return _State(fused, 1.0, 1.0 if full else state.heard_full)
