"""Audits: windows of frames that the full model judges as well, so that the promise on false hits is checked while the
device runs.

A window is 16 frames in a row, drawn at random: single frames would say too much about streams in which the full model
errs now and then, and too little about those in which it errs for long. The reference over a window is the full model
with a context of its own; it never hears a local model, so a mistake that a cache has talked itself into shows.

Two questions are asked of the windows' shares of false hits, both by betting, so that they may be asked after every
window. *How large can the rate be?* is a confidence bound and may take its time. *Has it risen?* makes the gate
stricter at once and spends what was saved on more windows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edge_agent.core.frame import Frame
from edge_agent.core.types import Answer, LevelName, Reply
from shared.betting import Bound, Detector
from shared.filter import Word
from shared.gate import posterior
from shared.habits import ContextParameters
from shared.reference import WINDOW, reference
from shared.risk import Belief

#: Windows that wait for their last answers; and of how many the savings pay.
_PENDING, _SAVINGS = 8, 20
#: Where local models are trusted less than this the world is another than the bundle was made for: a time to look.
_TRUSTED = 0.9
#: At what evidence the gate is made stricter for now, and for good. False alarms are 1/100 windows at most.
_DOUBT, _ALARM = 3.0, 100.0
#: How much stricter doubt makes the gate, and every alarm; how much looser a certificate; and how far that may go.
_STRICTER, _LOOSER, _LOOSEST = 0.25, 2.0, 4.0


@dataclass(slots=True)
class _Window:
    frames: list[Frame] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    guesses: list[Belief | None] = field(default_factory=list)
    said: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict)
    #: Frames that a cache has answered, here or between the full model's layers.
    cached: set[int] = field(default_factory=set)
    #: Whether it was drawn because of doubt, and so under a gate that was stricter for a while.
    doubtful: bool = False

    @property
    def complete(self) -> bool:
        return len(self.frames) == WINDOW == len(self.said)


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a window: per frame the full model's ``words``, the reference's ``labels``, the ``answers`` that
    were given and the local ``guesses``; ``false`` are the places of false hits."""

    frames: list[Frame]
    answers: list[Answer]
    guesses: list[Belief | None]
    words: list[Word]
    labels: list[int]
    false: list[int]


class Audits:
    """Draws the windows, judges them, and says by what factor the risk that may be claimed should differ from the
    bundle's."""

    def __init__(self, allowed: float, budget: float, temperature: float, draw: Callable[[], float]) -> None:
        """``allowed``: the false hits that were promised, per frame. ``budget``: the share of frames that may be sent
        to be audited. ``temperature``: the full model's. ``draw``: random numbers in 0..1."""
        self._allowed, self._budget, self._temperature, self._draw = allowed, budget, temperature, draw
        self._saved = 0.0
        self._open: _Window | None = None
        self._pending: deque[_Window] = deque(maxlen=_PENDING)
        self._detector, self._bound = Detector(allowed), Bound()
        self._factor = 1.0
        #: What the device reports: frames sent (``note`` counts each that is to be sent; the caller subtracts those
        #: that could not be), windows judged, false hits found by level, alarms raised.
        self.sent = self.windows = self.alarms = 0
        self.false: dict[LevelName, int] = {}

    @property
    def doubtful(self) -> bool:
        """Whether the last windows speak against the promise."""
        return self._detector.evidence >= _DOUBT

    @property
    def factor(self) -> float:
        """What the claim, and the threshold at once, is to be multiplied by."""
        return self._factor * (_STRICTER if self.doubtful else 1.0)

    @property
    def rate(self) -> float | None:
        """False hits per frame in the windows so far; None without one."""
        return sum(self.false.values()) / (WINDOW * self.windows) if self.windows else None

    @property
    def bound(self) -> float:
        """Upper bound on the false hits per frame since the gate was last changed for good, from the windows that were
        drawn without doubt."""
        return self._bound.value

    def note(
        self, frame: Frame, answer: Answer, reply: Reply | None, guess: Belief | None = None, trust: float = 1.0
    ) -> bool:
        """Take in how a frame ended; whether it is to be sent to the full model as well. ``guess``: what local models
        led to by themselves, None where the full model had a part in it. ``trust``: how far they are trusted, 0..1."""
        self._saved = min(self._saved + self._budget, float(_SAVINGS * WINDOW))
        if self._open is None and self._saved >= WINDOW and self._draw() < self._chance(trust):
            self._open = _Window(doubtful=self.doubtful)
        window = self._open
        if window is None:
            return False
        window.frames.append(Frame(frame.index, None, frame.signature))
        window.answers.append(answer)
        window.guesses.append(guess)
        # What the full model has answered it has judged, and a fallback's answer may come late. A cache between its
        # layers is to be checked like those here.
        cut = reply is not None and not reply.whole
        if reply is not None and reply.whole:
            window.said[frame.index] = reply.logits
        elif answer.hit or cut:
            window.cached.add(frame.index)
            self._saved -= 1.0
            self.sent += 1
        if len(window.frames) == WINDOW:
            self._open = None
            self._pending.append(window)
        return answer.hit or cut

    def hear(self, reply: Reply) -> None:
        """Take the full model's scores for a frame that was sent."""
        for window in (*self._pending, self._open):
            if window is not None and any(frame.index == reply.frame for frame in window.frames):
                window.said[reply.frame] = reply.logits

    @property
    def ready(self) -> bool:
        """Whether there is a window to judge."""
        return any(window.complete for window in self._pending)

    def finding(self, parameters: ContextParameters) -> Finding | None:
        """Judge a window that has become complete, if there is one. ``parameters``: of the reference's context."""
        window = next((window for window in self._pending if window.complete), None)
        if window is None:
            return None
        self._pending.remove(window)
        return self._judge(window, parameters)

    def _chance(self, trust: float) -> float:
        """Of a window beginning now. Half of the budget is saved for doubt, as long as local models are trusted."""
        return 1.0 / WINDOW if self.doubtful or trust < _TRUSTED else 1.0 / (2.0 * WINDOW / self._budget - WINDOW)

    def _judge(self, window: _Window, parameters: ContextParameters) -> Finding:
        words = [
            Word(posterior(window.said[frame.index], self._temperature), True, frame.signature)
            for frame in window.frames
        ]
        labels = reference(words, parameters)
        false = [
            place
            for place, (answer, label) in enumerate(zip(window.answers, labels, strict=True))
            if answer.frame in window.cached and answer.label != label
        ]
        self.windows += 1
        for place in false:
            level = window.answers[place].level
            self.false[level] = self.false.get(level, 0) + 1
        self._weigh(len(false) / WINDOW, window.doubtful)
        return Finding(window.frames, window.answers, window.guesses, words, labels, false)

    def _weigh(self, share: float, doubtful: bool) -> None:
        self._detector.add(share)
        if not doubtful:
            self._bound.add(share)
        if self._detector.evidence >= _ALARM:
            self.alarms += 1
            self._change(self._factor * _STRICTER)
        elif self._bound.value <= self._allowed and self._factor < _LOOSEST:
            self._change(min(_LOOSEST, self._factor * _LOOSER))

    def _change(self, factor: float) -> None:
        """What was seen under another gate says nothing about this one."""
        self._factor = factor
        self._detector.forget()
        self._bound = Bound()
