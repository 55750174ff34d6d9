"""The filter's transitions, pure: from one frame to the next, and on hearing a word.

A hidden Markov model with a sticky state: between two frames the object stays, or with a small probability another
takes its place, drawn from a prior. A frame's evidence is the likelihood of the one most trusted model that saw it.

What makes it hold up on video, where the errors of neighbouring frames are the same error, is *novelty*: how much of
a picture differs from another. All that is said about one object is one likelihood, the mean of the looks at it, as
far as they show the same; what the full model says takes the place of what local ones said. A cut ends the object's
stay, so the state is let go. Where frames are unrelated pictures novelty says nothing, and the caller gives no key:
then every frame is new, and nothing is a cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import numpy as np

from shared.gate import Posterior, largest
from shared.habits import ContextParameters, Habits

#: An object that moves changes the picture a little, another one changes it at a stroke.
_STEEPNESS = 4
#: What may change in a frame though the picture does not tell: so nothing that was said is relied on for ever.
_UNSEEN = 0.001
#: A likelihood that is as good as none. Arrays, for NumPy takes longer to make one of a float than to compare with it.
_LEAST = np.array(1e-6)
#: A belief that is as good as none, far under what any word can do.
_NEVER = np.array(1e-15)
#: The most looks at one object that are remembered: what was said longer ago fades.
_MOST_LOOKS = 16.0


class Key(Protocol):
    """What tells two pictures apart."""

    def change(self, before: Any, /) -> float:
        """How much this picture differs from ``before``, grey levels."""


@dataclass(slots=True, eq=False)
class Word:
    """What a model said about a picture: its calibrated ``likelihood`` ``(classes,)``; whether it was the ``full``
    model; the picture's ``key``, None where pictures are not told apart. ``logs``: the logarithms of the likelihood."""

    likelihood: Posterior
    full: bool = False
    key: Key | None = None
    logs: Posterior = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.logs = np.log(np.maximum(self.likelihood, _LEAST))


class Heard(msgspec.Struct, frozen=True, eq=False):
    """The last word about the present object: ``same`` is the probability that it was about this one, ``covers`` how
    much of the present picture is what it was about, 0..1; ``age``: frames since it was said."""

    word: Word | None = None
    same: float = 0.0
    covers: float = 0.0
    age: int = 0

    def carry(self, switch: float, changed: float) -> Heard:
        """To the next frame, in which the object is another with the probability ``switch`` and the picture differs by
        ``changed`` from the one that was spoken about."""
        return Heard(self.word, (1.0 - switch) * self.same, 1.0 - changed, self.age + 1)

    @property
    def share(self) -> float:
        """How much of the present picture has been spoken about."""
        return self.same * self.covers

    @property
    def holds(self) -> float:
        """How much of it that was said may be relied on."""
        return self.same * self.covers * float((1.0 - _UNSEEN) ** self.age)


_SILENCE = Heard()


class Stay(msgspec.Struct, frozen=True, eq=False):
    """What the filter knows at one point of a stream. ``belief``: over the label of the present object. ``mean``: what
    was said about that object, log-likelihoods over ``looks``; it is in the belief already. ``any`` model's last word
    and the ``full`` model's; ``arrival``: the probability that the object came with this frame."""

    belief: Posterior
    mean: Posterior
    looks: float = 0.0
    key: Key | None = None
    arrival: float = 1.0
    any: Heard = _SILENCE
    full: Heard = _SILENCE

    @property
    def said(self) -> Posterior:
        """What was said about the object, as probabilities."""
        said: Posterior = np.exp(self.mean - largest(self.mean))
        said /= np.add.reduce(said)
        return said


def another(expected: float, word: Word, known: Posterior, prior: Posterior) -> float:
    """The probability that a word is about another object, drawn from ``prior``, than the one of which ``known`` was
    believed, after it was ``expected`` with that probability."""
    new = expected * float(prior.dot(word.likelihood))
    same = (1.0 - expected) * float(known.dot(word.likelihood))
    return new / (new + same) if new > 0.0 else 0.0


class Filter:
    """The transitions, as the parameters and the stream's habits have them."""

    def __init__(self, classes: int, parameters: ContextParameters, habits: Habits) -> None:
        self._p, self._habits = parameters, habits
        self._least = np.array(parameters.floor / classes)
        self._nothing = np.zeros(classes)

    def begin(self, prior: Posterior) -> Stay:
        """Before anything was seen."""
        return Stay(prior, self._nothing)

    def alive(self, belief: Posterior) -> Posterior:
        """``belief`` with the floor under every label. What is kept from frame to frame has none, for what a word has
        put in must come out again when another takes its place."""
        alive: Posterior = np.maximum(belief, self._least)
        alive /= np.add.reduce(alive)
        return alive

    def arrive(self, stay: Stay, key: Key | None, prior: Posterior) -> Stay:
        """The next frame has come, no model has seen it yet. ``prior``: over the label of another object."""
        if key is None:
            switch = self._habits.switch
            return Stay((1.0 - switch) * self.alive(stay.belief) + switch * prior, self._nothing)
        # Pictures are dear to compare, and mostly this is the very one that was spoken about.
        word = stay.any.word
        changed = self._novelty(stay.key if word is None else word.key, key)
        compared = word is None or word.key is stay.key or changed == 0.0
        new = changed if compared else self._novelty(stay.key, key)
        switch = new * (self._p.switch + (1.0 - self._p.switch) * new)
        belief = stay.belief if switch == 0.0 else (1.0 - switch) * stay.belief + switch * prior
        last = full = stay.any.carry(switch, changed)
        if stay.full.word is not word:
            full = stay.full.carry(switch, self._novelty(stay.full.word.key, key) if stay.full.word else 1.0)
        return Stay(belief, stay.mean, stay.looks, key, switch, last, full)

    def hear(self, stay: Stay, word: Word) -> Stay:
        """Count ``word`` into what was said about the present object. Looks at one object err alike, so all of them
        together are one likelihood, their mean; the full model's takes the place of what local ones said."""
        spoken = stay.full.share if word.full else stay.any.share
        if spoken == 1.0 and word is stay.any.word:  # remembered, and nothing has changed since
            return stay
        new = 1.0 if word.key is stay.key else 1.0 - spoken  # what is remembered was heard when it was said
        weight = new if word.full else new * (1.0 - stay.full.share)
        before = spoken * stay.looks
        looks = before + weight
        mean = stay.mean if looks == 0.0 else (before * stay.mean + weight * word.logs) / looks
        news = self._p.tempering * (mean - stay.any.share * stay.mean)
        news -= largest(news)
        belief = np.maximum(stay.belief * np.exp(news), _NEVER)
        belief /= np.add.reduce(belief)
        if word is stay.any.word:  # remembered: it was compared when the frame arrived
            covers = stay.any.covers
        else:
            covers = 1.0 if stay.key is None else 1.0 - self._novelty(word.key, stay.key)
        last = stay.full if word.full else stay.any
        heard = Heard(word, 1.0, covers, 0 if word.key is stay.key else last.age)
        full = heard if word.full else stay.full
        return Stay(belief, mean, min(looks, _MOST_LOOKS), stay.key, stay.arrival, heard, full)

    def join(self, before: Stay, after: Stay, prior: Posterior) -> Posterior:
        """What is believed about a frame in the middle, in logarithms and not normalised, from two filters that met
        there: one came from ``before`` and has heard the frame's word, one came backwards from ``after`` and has only
        arrived. Both began with ``prior``. What was said of one object on either side is one mean over all looks: of
        what either still believes of it, for a belief leaks from frame to frame, and to take out of it all that was
        once said would leave it speaking for whatever nobody has named."""
        base = np.log(prior)
        own, others = np.log(before.belief) - base, np.log(after.belief) - base
        joint: Posterior = base + own + others
        share = after.any.share
        if (looks := before.looks + share * after.looks) > 0.0:
            mean = (before.looks * own + share * after.looks * others) / looks
            joint += share * (mean - own - others)
        return joint

    def _novelty(self, before: Key | None, key: Key) -> float:
        """How much of the picture ``key`` is new after the one ``before``: 0 unchanged, 1 a cut."""
        if before is None or self._p.cut == 0.0:
            return 1.0
        change = 0.0 if before is key else key.change(before)
        if change >= self._p.cut:
            return 1.0
        if change <= self._p.still:
            return 0.0
        part = (change - self._p.still) / (self._p.cut - self._p.still)
        return min(1.0, self._habits.newness * part**_STEEPNESS)
