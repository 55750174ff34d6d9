"""Context: what the recent past says about the next label, as a filter over labels.

A hidden Markov model with a sticky state: between two frames the object stays, or with a small probability another
takes its place, drawn from the working set (the labels seen lately) or, rarely, from all. Every frame multiplies in
the likelihood of the one most trusted model that saw it.

What makes it hold up on video, where the errors of neighbouring frames are the same error, is *novelty*: how much of
the picture changed since the frame before. An unchanged frame is no new evidence, so its likelihood is raised to a
small exponent; a cut ends the object's stay, so the state is let go. Where frames are unrelated pictures novelty
says nothing, and the caller passes None.

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
    probability that the new one is from outside the working set. ``memory``: frames until a label's weight in the
    working set has fallen to 1/e. ``tempering``: exponent of a new picture's likelihood; ``still``: of an unchanged
    one's. ``floor``: share of the belief that stays spread over all labels, so that the filter is never certain.
    """

    switch: _Share = 0.03
    stranger: _Share = 0.05
    memory: Annotated[float, msgspec.Meta(gt=0)] = 300.0
    tempering: _Share = 1.0
    still: _Share = 0.05
    floor: _Share = 1e-3


@dataclass(slots=True)
class _Frame:
    """What the filter must remember of a frame to run again from it."""

    index: int
    before: Posterior
    switch: float
    exponent: float
    likelihood: Posterior | None


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
        self._decay = float(np.exp(-1.0 / self._p.memory))
        self._ring: deque[_Frame] = deque(maxlen=ring)
        self._working_set = self._predicted = self.belief = self._uniform
        #: The last likelihood that was fused, and what came out.
        self._fused: tuple[Posterior | None, Posterior] = None, self._uniform

    def working_set(self) -> Posterior:
        """The prior over the label of a newly arrived object, ``(classes,)``."""
        return self._working_set

    def advance(self, index: int, novelty: float | None = None) -> Posterior:
        """Begin frame ``index``; return the belief about its label before any model has seen it.

        ``novelty`` 0..1: 0 an unchanged picture, 1 a cut; None where the pictures say nothing.
        """
        if novelty is None:
            switch, exponent = self._p.switch, self._p.tempering
        else:
            switch = novelty * (self._p.switch + (1.0 - self._p.switch) * novelty)
            exponent = self._p.still + (self._p.tempering - self._p.still) * novelty
        self._ring.append(_Frame(index, self.belief, switch, exponent, None))
        self.belief = self._predicted = self._predict(self.belief, switch)
        self._fused = None, self._predicted
        return self.belief

    def fuse(self, likelihood: Posterior) -> Posterior:
        """The belief about the present frame if ``likelihood`` were its evidence. Changes nothing."""
        if likelihood is not self._fused[0]:  # a model's guess is usually observed right after
            frame = self._ring[-1]
            self._fused = likelihood, self._update(self._predicted, likelihood, frame.exponent)
        return self._fused[1]

    def observe(self, likelihood: Posterior) -> Posterior:
        """Take ``likelihood`` as the present frame's evidence, in place of any before it; return the belief."""
        self._ring[-1].likelihood = likelihood
        self.belief = self.fuse(likelihood)
        return self.belief

    def revise(self, index: int, likelihood: Posterior) -> bool:
        """Replace the evidence of an earlier frame and run the filter again from there. False if it is no longer in
        the ring."""
        place = next((i for i, frame in enumerate(self._ring) if frame.index == index), None)
        if place is None:
            return False
        self._ring[place].likelihood = likelihood
        belief = self._ring[place].before
        for i in range(place, len(self._ring)):
            frame = self._ring[i]
            frame.before = belief
            belief = self._predicted = self._predict(belief, frame.switch)
            if frame.likelihood is not None:
                belief = self._update(belief, frame.likelihood, frame.exponent)
        self.belief = belief
        self._fused = None, belief
        return True

    def learn(self, label: int) -> None:
        """Count a *verified* label, from a hit or the cloud, into the working set."""
        self._weights *= self._decay
        self._weights[label] += 1.0
        total = float(self._weights.sum())
        # A label seen once or twice is not yet a working set: trust grows with what was seen.
        trust = (1.0 - self._p.stranger) * total / (total + 1.0)
        self._working_set = (trust / total) * self._weights + (1.0 - trust) / self._classes

    def _predict(self, belief: Posterior, switch: float) -> Posterior:
        return (1.0 - switch) * belief + switch * self._working_set

    def _update(self, belief: Posterior, likelihood: Posterior, exponent: float) -> Posterior:
        fused = belief * likelihood**exponent
        total = float(fused.sum())
        if total <= 0.0:  # belief and likelihood exclude each other: believe what was seen
            fused, total = likelihood.copy(), float(likelihood.sum())
        fused /= total
        fused += self._p.floor * self._uniform
        fused /= 1.0 + self._p.floor
        return fused
