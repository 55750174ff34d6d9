"""The hierarchy: decides, for each frame, hit or miss, and learns from what comes back.

Pure: clock, randomness and models come in from outside, so the code that runs on the device is the code that a
simulator replays. Driven by ``look`` and ``settle`` once per frame, in order, and ``late`` and ``audited`` in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from edge_agent.core.allowance import Allowance
from edge_agent.core.audits import Audits
from edge_agent.core.frame import Frame
from edge_agent.core.frames import FrameCache
from edge_agent.core.probing import Probing
from edge_agent.core.routes import Routes
from edge_agent.core.submodels import LocalModel, Submodels
from edge_agent.core.types import Answer, Ask, Guess, Hit, LevelName, LocalName, Reply, Step
from shared.context import Context, Guessed
from shared.filter import Word
from shared.gate import posterior
from shared.protocol import RECENT

_ASKED = 64
#: How often in a row a submodel must be recommended before another goes for it: or two that take turns would each be
#: fetched again and again.
_INSISTENCE = 3
#: How much of the risk that may be claimed a cache between the full model's layers may take. What it doubts is whether
#: that would put the same label first; how sure the full model would be of it matters as well, where the context is of
#: another mind, and devices ask about just such frames.
_CUT = 1 / 3


@dataclass
class Tally:
    """How the frames ended. ``frames`` always equals the sum of the rest but ``late``, which are answers that came
    after their frame had ended as a fallback, and ``corrections``, which are those that contradicted it. ``full``:
    answered by the full model on the device itself."""

    frames: int = 0
    hits: dict[LevelName, int] = field(default_factory=lambda: {"frames": 0, "submodels": 0, "base": 0})
    full: int = 0
    cloud: int = 0
    fallbacks: int = 0
    late: int = 0
    corrections: int = 0

    def levels(self) -> dict[LevelName, int]:
        """Frames by the level that answered."""
        return {**self.hits, "full": self.full, "cloud": self.cloud, "fallback": self.fallbacks}

    def count(self, level: LevelName) -> None:
        self.frames += 1
        if level == "full":
            self.full += 1
        elif level == "cloud":
            self.cloud += 1
        elif level == "fallback":
            self.fallbacks += 1
        else:
            self.hits[level] += 1


@dataclass(frozen=True)
class Rules:
    """What the hierarchy must hold to. ``claim``: the risk that hits may claim, a frame on average (see ``Allowance``).
    ``deadline``: seconds a frame may take. ``threshold``: the risk at or under which a guess is a hit, whatever is
    claimed; None where the allowance says it."""

    claim: float
    deadline: float
    full_model: str
    full_temperature: float
    threshold: float | None = None


class _Asked(NamedTuple):
    """A ``frame`` whose answer may still come, the guess that is ``given`` if it is late, and the ``last`` one.

    It is learned from the last: an earlier look's guess stands only where all later looks were in doubt as well, which
    is where it is wrong more often than it says, though it is as right as it says where it is a hit."""

    frame: Frame
    given: Guess
    last: Guess


class Hierarchy:
    """The levels of one device over one bundle."""

    def __init__(
        self,
        rules: Rules,
        context: Context,
        frames: FrameCache | None = None,
        submodels: Submodels | None = None,
        base: LocalModel | None = None,
        tally: Tally | None = None,
        audits: Audits | None = None,
    ) -> None:
        """What is None does not exist. ``tally`` goes on counting across a change of bundle."""
        self.rules, self.context, self.tally = rules, context, tally or Tally()
        self.frames, self.submodels, self.base = frames, submodels, base
        self.audits = audits
        self._allowance = Allowance(rules.claim)
        #: The full model, where the device has it as well.
        self.full: LocalModel | None = None
        self.routes = Routes()
        #: The submodel that the server recommends and that is not resident.
        self.wanted: str | None = None
        self._unfit: set[str] = set()
        #: What was recommended last and is not resident, and how often in a row.
        self._urged: tuple[str, int] = ("", 0)
        self._probing = Probing()
        self._recent: deque[int] = deque(maxlen=RECENT)
        self._asked: deque[_Asked] = deque(maxlen=_ASKED)

    @property
    def contradictions(self) -> int:
        """How often a model below has contradicted what the frame cache remembered."""
        return self.frames.contradictions if self.frames is not None else 0

    @property
    def threshold(self) -> float:
        """The risk at or under which a guess is a hit now, as the audits have corrected it."""
        fixed = self.rules.threshold
        return self._factor * (self._allowance.threshold if fixed is None else fixed)

    @property
    def _factor(self) -> float:
        return 1.0 if self.audits is None else self.audits.factor

    def look(self, frame: Frame, now: float) -> Step:
        """Try the levels in order; the first whose guess carries little enough risk is a hit."""
        self.context.advance(frame.index, frame.signature)
        threshold = self.threshold
        best = last = None
        for level, guess in self._guesses(frame, threshold):
            if guess.belief.risk <= threshold:
                return Hit(frame, guess, level)
            if best is None or guess.belief.risk < best.belief.risk:
                best = guess
            last = guess
        if best is None or last is None:
            best = last = Guess(self.context.belief, "context")
        reason = f"risk {best.belief.risk:.3f} over {threshold:.3f}"
        # Without its picture: a late answer needs none.
        self._asked.append(_Asked(Frame(frame.index, None, frame.signature), best, last))
        here = self.full is not None and self.routes.here(self.full.seconds)
        risk = min(1.0, _CUT * self.rules.claim * self._factor)
        return Ask(frame, tuple(self._recent), now, now + self.rules.deadline, best, last, reason, here, risk)

    def here(self, step: Ask, now: float) -> Reply | None:
        """The full model's own word on the device; None if it is not there or would take longer than there is time."""
        full = self.full
        if full is None or now + full.seconds > step.deadline:
            return None
        view, risk = step.frame.view, None
        if full.judge is not None:
            logits, risk = full.judge(view, step.recent, step.risk)
        else:
            logits = full.score(view)
        return Reply(step.frame.index, logits, here=True, risk=risk)

    def settle(self, step: Step, reply: Reply | None, now: float, trouble: str = "") -> Answer:
        """End the frame of ``step``; learn. ``reply`` None: late or unreachable, for the reason in ``trouble``."""
        if isinstance(step, Hit):
            answer = self._answer(step.frame, step.guess, step.level)
            if step.level == "submodels" and self.submodels is not None:
                self.submodels.touch(step.guess.model)
            if step.guess.word is not None:
                self.context.observe(step.guess.word)
            # What the frame cache said itself confirms nothing.
            fresh = step.guess.word if step.level != "frames" else None
            self._learn(step.frame, step.guess.label, fresh, step.guess.model)
        elif reply is not None:
            self._forget(step.frame.index)
            self._probing.waited(now - step.begun)
            if not reply.here:
                self.routes.waited(now - step.begun)
            word = self._full_word(reply, step.frame)
            belief = self.context.observe(word, Guessed(step.last.word, step.last.belief))
            guess = self._heed(Guess(belief, self.rules.full_model, word), self.threshold)
            level: LevelName = "full" if reply.here else "cloud"
            answer = self._answer(step.frame, guess, level, step.reason, int(reply.logits.argmax()))
            self._learn(step.frame, guess.label, word, guess.model)
            self._recommend(reply.submodel)
        else:
            self._probing.waited(None)
            self.routes.waited(self.rules.deadline)
            # The filter hears every frame; nothing is learned from an unverified one.
            if step.best.word is not None:
                self.context.observe(step.best.word, verified=False)
            reason = f"{step.reason}; {trouble}" if trouble else step.reason
            answer = self._answer(step.frame, step.best, "fallback", reason)
        self.tally.count(answer.level)
        # What a cache between the full model's layers has answered claims of the same allowance as hits do; and never
        # more than a frame may on average, so that it cannot use up what hits are to have.
        claimed = answer.risk if answer.hit else reply.risk if reply is not None else None
        self._allowance.spend(claimed or 0.0, self._factor)
        if self.audits is not None:
            guess = step.guess if isinstance(step, Hit) else step.last
            alone = None if self.context.owed(guess.word) else guess.belief
            if self.audits.note(step.frame, answer, reply, alone, self.context.habits.trust):
                answer = msgspec.structs.replace(answer, audit=True)
            self._review()
        return answer

    def late(self, reply: Reply, now: float) -> Answer | None:  # noqa: ARG002
        """Learn from an answer that came after its frame had ended, at that frame's own place in time. The answer that
        should have been given, if it is another."""
        asked = self._forget(reply.frame)
        if asked is None:
            return None
        frame = asked.frame
        self.tally.late += 1
        word = self._full_word(reply, frame)
        self._recommend(reply.submodel)
        if reply.risk is None:
            self._judge(reply)
        else:
            self._allowance.spend(reply.risk, self._factor)
        belief = self.context.revise(frame.index, word, asked.last.word)
        if belief is None:
            return None
        self._learn(frame, belief.label, word, self.rules.full_model)
        if belief.label == asked.given.label:
            return None
        self.tally.corrections += 1
        guess = Guess(belief, self.rules.full_model, word)
        return self._answer(frame, guess, "cloud", "correction", int(reply.logits.argmax()))

    def audited(self, reply: Reply, now: float) -> None:  # noqa: ARG002
        """Take the full model's scores for a frame that was sent to be audited."""
        self._judge(reply)

    def install(self, model: LocalModel) -> list[str]:
        """Make a loaded model resident, a submodel or the full one; return the names of those to free."""
        if model.name == self.rules.full_model:
            self.full = model
            return []
        if self.wanted == model.name:
            self.wanted = None
        gone = [model.name] if self.submodels is None else self.submodels.admit(model)
        if model.name in gone:
            self._unfit.add(model.name)  # or it would be fetched again at every recommendation
        return gone

    def forgo(self) -> None:
        """Let go of the full model on the device."""
        self.full = None

    def shrink(self, budget: int) -> list[str]:
        """Let go of submodels until the rest costs at most ``budget`` bytes; return their names."""
        return self.submodels.shrink(budget) if self.submodels is not None else []

    def _guesses(self, frame: Frame, threshold: float) -> Iterator[tuple[LocalName, Guess]]:
        """What the levels would answer, one after the other."""
        if self.frames is not None and (remembered := self.frames.lookup(frame, self.context)) is not None:
            yield "frames", self._heed(remembered, threshold)
        if self.context.least_risk > threshold:
            return  # the full model was unsure of this very object: no local word makes up for that
        expected = self.context.working_set()
        models: tuple[LocalModel, ...] = () if self.base is None else (self.base,)
        if self.submodels is not None:
            self.submodels.expect(expected)
            models = self.submodels.residents + models
        for probe in self._probing.plan(models, expected):
            guess = probe.model.guess(frame, self.context)
            self._probing.tried(probe, guess.belief.risk <= threshold)
            yield probe.model.level, guess

    def _forget(self, index: int) -> _Asked | None:
        """Take an asked frame off the list of those that an answer may still come for; None if it is not there."""
        for place, asked in enumerate(self._asked):
            if asked.frame.index == index:
                del self._asked[place]
                return asked
        return None

    def _full_word(self, reply: Reply, frame: Frame) -> Word:
        return Word(posterior(reply.logits, self.rules.full_temperature), True, frame.signature)

    def _answer(
        self, frame: Frame, guess: Guess, level: LevelName, reason: str = "", bare: int | None = None
    ) -> Answer:
        confidence = float(guess.belief.posterior[guess.label])
        return Answer(frame.index, guess.label, confidence, guess.belief.risk, level, guess.model, reason, bare)

    def _judge(self, reply: Reply) -> None:
        """Let the audits have the full model's word on a frame that has ended."""
        if self.audits is not None:
            self.audits.hear(reply)
            self._review()

    def _review(self) -> None:
        """Judge the windows that are complete. They tell how honest doubt is; and where hits were false, what led to
        them is corrected."""
        assert self.audits is not None
        while self.audits.ready and (finding := self.audits.finding(self.context.habits.parameters)):
            for guess, label in zip(finding.guesses, finding.labels, strict=True):
                if guess is not None:
                    self.context.habits.audited(guess.doubt, guess.label != label)
            for place in finding.false:
                if self.frames is not None:
                    self.frames.learn(
                        finding.frames[place], finding.words[place], finding.labels[place], self.rules.full_model
                    )
            if finding.false:
                self.context.revise(finding.frames[-1].index, finding.words[-1], learn=False)

    def _heed(self, guess: Guess, threshold: float) -> Guess:
        """The context may doubt what the full model says of an object, but not for ever: a verdict after many looks
        stands, if the reference is as good as certain to share it. Otherwise every frame of the object would be asked
        about, and every answer be set aside."""
        if guess.word is None or not guess.word.full or guess.belief.risk <= threshold:
            return guess
        verdict = self.context.verdict
        if verdict is None or verdict.risk > threshold:
            return guess
        return Guess(verdict, guess.model, guess.word)

    def _learn(self, frame: Frame, label: int, word: Word | None, model: str) -> None:
        """Count a verified ``label``; keep the ``word`` that led to it, if that is new."""
        self.context.learn(label)
        # An object that stays in view is one thing seen, not thirty: the server needs to know what the set is.
        if not self._recent or self._recent[-1] != label:
            self._recent.append(label)
        if self.frames is not None and word is not None:
            self.frames.learn(frame, word, label, model)

    def _recommend(self, name: str | None) -> None:
        if name is None or self.submodels is None or name in self._unfit:
            return
        if self.submodels.touch(name):
            self._urged = ("", 0)
            return
        self._urged = (name, self._urged[1] + 1 if self._urged[0] == name else 1)
        if self._urged[1] >= (_INSISTENCE if self.submodels.tight else 1):
            self.wanted = name
