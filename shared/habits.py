"""Habits: what a stream shows of itself while it runs, so that no constant has to fit every stream.

How often its objects change where no pictures tell, how long they stay where they do, how far the full model wanders
from one look at an object to the next, how much less often than the picture the object changes, and how much more often
than they doubt it local models err. Each begins with the bundle's parameters.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

#: For as many observations a bundle's parameter counts, and after how many one of the stream's own counts 1/e.
_PRIOR, _FADING = 8.0, 200.0
_KEPT = math.exp(-1.0 / _FADING)
#: The same of ``newness``, in new pictures: a change of picture that is none of the object costs a question each time.
_NEWNESS_PRIOR = 2.0
#: More frames than this no mistake is reckoned to last: caches ask again before.
_LONGEST_STAY = 300.0
#: Guesses that are asked about are in doubt. Surer ones err beyond their doubt by this power of what those do.
_DEPTH = 1.5
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class ContextParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the filter begins; part of a bundle, fitted on held-out streams. What a stream can show is learned from it
    (``Habits``).

    ``switch``: probability that the object changes between two frames, where the pictures do not tell. ``stranger``:
    probability that the new one is from outside the working set. ``memory``: new pictures until a label's weight in
    the working set has fallen to 1/e. ``tempering``: exponent of a new picture's likelihood. ``floor``: share of the
    belief that stays spread over all labels, so that the filter is never certain. ``still``, ``cut``: change between
    two pictures, grey levels, at or under which nothing moved but the sensor's noise, and at or over which they show
    different things. ``newness``: how many times as often the object is another as a change between the two tells.
    ``wander``: by how much, nats, the full model's margin differs from one view of an object to another (root mean
    square). ``caution``: how many times as often as a belief doubts itself the full model differs from it, where that
    has not spoken about the object; what is learned never falls below it.
    """

    switch: _Share = 0.03
    stranger: _Share = 0.05
    memory: Annotated[float, msgspec.Meta(gt=0)] = 40.0
    tempering: _Share = 1.0
    floor: _Share = 1e-3
    still: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    cut: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    newness: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    wander: Annotated[float, msgspec.Meta(ge=0)] = 1.6
    caution: Annotated[float, msgspec.Meta(ge=1)] = 1.0


class Learned:
    """A ratio of two sums in which what is long ago fades, and that begins at ``value``."""

    __slots__ = ("_over", "_under", "value")

    def __init__(self, value: float, weight: float = _PRIOR) -> None:
        self.value = value
        self._over, self._under = weight * value, weight

    def learn(self, over: float, under: float = 1.0) -> None:
        self._over = _KEPT * self._over + over
        self._under = _KEPT * self._under + under
        self.value = self._over / self._under


class Habits:
    """The habits of one stream."""

    def __init__(self, parameters: ContextParameters) -> None:
        self._p = parameters
        self._switch, self._stranger, self._squares, self._doubt = (
            Learned(value) for value in (parameters.switch, parameters.stranger, parameters.wander**2, 1.0)
        )
        self._newness = Learned(parameters.newness, _NEWNESS_PRIOR)
        self._frames = self._arrivals = 0.0

    @property
    def switch(self) -> float:
        """Probability that the object changes between two frames, where the pictures do not tell."""
        return self._switch.value

    @property
    def stranger(self) -> float:
        """Probability that an object which comes is from outside the working set."""
        return self._stranger.value

    @property
    def newness(self) -> float:
        """How many times as often the object is another as a change between the pictures tells."""
        return self._newness.value

    @property
    def wander(self) -> float:
        """By how much, nats, the full model's margin differs from one view of an object to another."""
        return math.sqrt(self._squares.value)

    @property
    def caution(self) -> float:
        """How many times as often as a belief doubts itself the full model differs from it."""
        return self._p.caution * math.pow(max(1.0, self._doubt.value), _DEPTH)

    @property
    def stay(self) -> float:
        """For how many frames an object stays, as far as the pictures have told; 1 where they tell nothing."""
        return (self._frames + 1.0) / (self._arrivals + 1.0)

    @property
    def parameters(self) -> ContextParameters:
        """Where a reference begins: with the bundle's parameters, but for what a stream has shown that no window of it
        is long enough to show again."""
        return msgspec.structs.replace(self._p, switch=self.switch, stranger=self.stranger, newness=self.newness)

    def arrived(self, probability: float) -> None:
        """A frame has come, and with it, this probably, another object."""
        fading = math.exp(-probability / self._p.memory)
        self._arrivals = fading * self._arrivals + probability
        # A quiet night says little about the day.
        self._frames = min(fading * self._frames + 1.0, _LONGEST_STAY * (self._arrivals + 1.0))

    def switched(self, probability: float) -> None:
        """Between two frames whose pictures tell nothing the object was another, this probably."""
        self._switch.learn(probability)

    def met(self, stranger: float, either: float) -> None:
        """An object has come that was a stranger, or else known, with these probabilities."""
        self._stranger.learn(stranger, either)

    def renewed(self, probability: float, expected: float) -> None:
        """The full model's word showed how probable it is that the object is another, where the picture had told how
        probable it would be."""
        self._newness.learn(probability, expected / max(self.newness, 1e-6))

    def wandered(self, nats: float) -> None:
        """The full model's margin was another, by so much, at a second look at the same object."""
        self._squares.learn(nats * nats)

    def guessed(self, doubt: float, wrong: bool) -> None:
        """A local model's guess, in such doubt, turned out right or wrong. Only guesses that are somewhat sure tell."""
        if self.caution * doubt < 1.0:
            self._doubt.learn(float(wrong), doubt)
