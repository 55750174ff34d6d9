"""Habits: what a stream shows of itself while it runs, so that no constant has to fit every stream.

How often its objects change where no pictures tell, how long they stay where they do, how far the full model wanders
from one look at an object to the next, how much less often than the picture the object changes, how much of what local
models say is to be believed, and how honest the doubt is that remains. Each begins with the bundle's parameters.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

#: For as many observations a bundle's parameter counts, and after how many one of the stream's own counts 1/e.
_PRIOR, _FADING = 8.0, 200.0
_KEPT = math.exp(-1.0 / _FADING)
#: The same of what costs much for as long as it is wrong: ``switch``, and ``newness``, in new pictures.
_HASTY = 2.0
#: More frames than this no mistake is reckoned to last: caches ask again before.
_LONGEST_STAY = 300.0
#: What an exponent begins with is worth so much information (R. Fisher's), that of many outcomes, and what fades never
#: falls below it: or after a quiet time a single outcome would turn everything over.
_INFORMATION = 64.0
#: The least exponent, that of a belief which is hardly better than none; and guesses in more doubt than this are nearly
#: tosses of a coin.
LEAST, _UNSURE = 0.2, 0.1
#: A doubt that is as good as none.
_CERTAIN = 1e-6
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
    square). ``candour``: the power of its doubt with which a belief turns out wrong, where the full model has not
    spoken about the object: 1 if it errs as often as it doubts itself, less if more often.
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
    candour: Annotated[float, msgspec.Meta(ge=LEAST, le=1)] = 1.0


class Learned:
    """A ratio of two sums in which what is long ago fades, and that begins at ``value``. What was observed under little
    (``under``) makes little fade: a night in which nothing happens says nothing."""

    __slots__ = ("_over", "_under", "value")

    def __init__(self, value: float, weight: float = _PRIOR) -> None:
        self.value = value
        self._over, self._under = weight * value, weight

    def learn(self, over: float, under: float = 1.0) -> None:
        kept = _KEPT if under == 1.0 else math.exp(-under / _FADING)
        self._over = kept * self._over + over
        self._under = kept * self._under + under
        self.value = self._over / self._under


class Exponent:
    """The power of a probability that outcomes show it should be raised to, by recursive maximum likelihood in which
    what is long ago fades. It never rises over where it begins: a stream may be harder than the bundle's, not easier.
    """

    __slots__ = ("_information", "_most", "value")

    def __init__(self, value: float) -> None:
        self.value = self._most = value
        self._information = _INFORMATION

    def learn(self, wrong: float, expected: float, slope: float) -> None:
        """An outcome, ``wrong`` with this probability, where it was ``expected`` with that. ``slope``: the derivative
        of the logarithm of ``expected`` with respect to this exponent."""
        odds = expected / (1.0 - expected)
        self._information = max(_INFORMATION, _KEPT * self._information + slope * slope * odds)
        step = slope * (wrong - (1.0 - wrong) * odds) / self._information
        self.value = min(self._most, max(LEAST, self.value + step))


class Habits:
    """The habits of one stream."""

    def __init__(self, parameters: ContextParameters) -> None:
        self._p = parameters
        self._stranger, self._squares = Learned(parameters.stranger), Learned(parameters.wander**2)
        self._switch = Learned(parameters.switch, _HASTY)
        self._trust, self._candour = Exponent(1.0), Exponent(parameters.candour)
        self._newness = Learned(parameters.newness, _HASTY)
        self._frames = self._arrivals = 0.0

    @property
    def switch(self) -> float:
        """Probability that the object changes between two frames, where the pictures do not tell."""
        return self._switch.value

    @property
    def stranger(self) -> float:
        """Probability that an object which comes is from outside the working set."""
        return min(1.0, self._stranger.value)

    @property
    def newness(self) -> float:
        """How many times as often the object is another as a change between the pictures tells."""
        return self._newness.value

    @property
    def wander(self) -> float:
        """By how much, nats, the full model's margin differs from one view of an object to another."""
        return math.sqrt(self._squares.value)

    @property
    def trust(self) -> float:
        """The exponent of what local models say, 0..1: less than 1 where they are surer than they should be."""
        return self._trust.value

    def errs(self, doubt: float) -> float:
        """The probability that a belief in such ``doubt``, in which the full model has no part, is wrong."""
        return float(doubt**self._candour.value)

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

    def wandered(self, nats: float, looks: float) -> None:
        """The full model's margin was another, by so much, than the mean of its ``looks`` at the same object before.

        Not than the last of them: looks at neighbouring frames err alike, and wander for all that.
        """
        self._squares.learn(2.0 * nats * nats / (1.0 + 1.0 / max(1.0, looks)))

    def guessed(self, doubt: float, wrong: float, backing: float) -> None:
        """A guess that a local model's word led to, in such doubt, was wrong with this probability, after what the full
        model then said. ``backing``: by how many nats the word spoke for the guess's label rather than for all, each
        as likely as it then was.

        Where the word was the ground of a guess that is wrong more often than expected, it weighs less from now on.
        Where the context overruled it, it weighs more: or what the context gets wrong would be laid to the model, which
        would be heard less and less, and the context err all the more.
        """
        if self.tells(doubt):
            candour = self._p.candour
            slope = -candour * backing * (1.0 - doubt) / (doubt * self._trust.value)
            self._trust.learn(wrong, doubt**candour, slope)

    def audited(self, doubt: float, wrong: bool) -> None:
        """The reference said that a guess in such doubt was right or wrong. It shares no past with the guess, as an
        answer does, which is why the two are not counted together."""
        if self.tells(doubt):
            self._candour.learn(float(wrong), self.errs(doubt), math.log(doubt))

    def tells(self, doubt: float) -> bool:
        """Whether outcomes of guesses in such doubt tell how honest it is: not where it is the floor's, or nearly a
        toss of a coin."""
        return max(_CERTAIN, 2.0 * self._p.floor) < doubt < _UNSURE
