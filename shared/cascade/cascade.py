"""The cascade: decides, for each frame, hit or miss, and learns from what comes back.

Whatever the full model has just said of a frame is that frame's answer. Everything here only decides when it need not
be asked. Pure: clock, randomness and models come from outside, so the code that runs on the device is the code that a
simulator replays. It is driven by ``lookup`` and ``complete`` once a frame, in order, and by ``on_late_reply`` and
``on_audit_reply`` in between.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import msgspec

from cachenet.shared.cascade.audits import Audits
from cachenet.shared.cascade.distribution import ASKED_FIRST, DistributionMonitor
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.model_cache import LocalModel, ModelCache
from cachenet.shared.cascade.offload import OffloadRouter
from cachenet.shared.cascade.probability import are_scores, softmax
from cachenet.shared.cascade.probe_order import ProbeOrder
from cachenet.shared.cascade.risk_budget import RiskBudget
from cachenet.shared.cascade.risk_estimator import Observation, RiskEstimator
from cachenet.shared.cascade.scene_change import SceneChangeDetector
from cachenet.shared.cascade.spec import CascadeSpec
from cachenet.shared.cascade.types import Answer, Hit, Level, Miss, Prediction, Reply, Step

#: Recent labels that travel with a question.
RECENT = 16
#: Questions and audits whose replies may still come.
_PENDING = 64
#: How often in a row a submodel is recommended before another one goes for it: or two that take turns would each be
#: fetched again and again.
_FETCH_HYSTERESIS = 3
#: Share of the threshold that a held answer's risk may have where no model has looked: a look costs little, and sees
#: what a picture's change does not tell. 0.05 to 0.15 do equally well on real clips, 0.25 costs 0.1 points.
_UNSEEN = 0.1
#: Share of the budget that an early exit between the full model's layers may take.
_EXIT_SHARE = 1 / 3
#: Least risk that is stated of a local answer to a picture out of distribution.
_OUT_OF_DISTRIBUTION = 0.5
#: What the priors count for after a change of scene. On fifteen changes of real clips shares of 0.1 to 1 keep the
#: budget alike, for the threshold is strict at first; at 0.1 a twentieth more is asked.
_PRIOR_SHARE = 0.5


@dataclass
class Tally:
    """How the frames ended.

    ``frames`` equals ``hits`` and ``full``, ``cloud`` and ``fallbacks`` together, always. ``late``: answers that came
    after their frame had ended as a fallback; ``corrections``: those of them that contradicted it; ``overruled``:
    answers that differ from what the full model has said of their frame, zero; ``unknown``: answers without a label;
    ``scene_changes``: alarms of the picture.
    """

    frames: int = 0
    hits: dict[Level, int] = field(default_factory=lambda: {"frames": 0, "submodels": 0, "base": 0})
    full: int = 0
    cloud: int = 0
    fallbacks: int = 0
    late: int = 0
    corrections: int = 0
    overruled: int = 0
    unknown: int = 0
    scene_changes: int = 0

    def levels(self) -> dict[Level, int]:
        """Frames by the level that answered."""
        return {**self.hits, "full": self.full, "cloud": self.cloud, "fallback": self.fallbacks}

    def count(self, answer: Answer) -> None:
        """A frame has ended."""
        self.frames += 1
        self.unknown += answer.label is None
        if answer.level == "full":
            self.full += 1
        elif answer.level == "cloud":
            self.cloud += 1
        elif answer.level == "fallback":
            self.fallbacks += 1
        else:
            self.hits[answer.level] += 1


@dataclass(slots=True)
class _Pending:
    """A frame that the full model may still judge: a question, whose fallback is ``prediction``, or an audited hit,
    drawn at the ``rate``."""

    observation: Observation
    prediction: Prediction
    rate: float = 0.0


class Cascade:
    """The levels of one device over one bundle, on one stream."""

    def __init__(
        self,
        spec: CascadeSpec,
        estimator: RiskEstimator,
        base: LocalModel | None = None,
        submodels: ModelCache | None = None,
        audits: Audits | None = None,
        distribution: DistributionMonitor | None = None,
        tally: Tally | None = None,
    ) -> None:
        """What is None does not exist. ``tally`` goes on counting across a change of bundle."""
        self.spec, self.estimator, self.tally = spec, estimator, tally or Tally()
        self.base, self.submodels, self.audits = base, submodels, audits
        #: The full model, where the device has it as well.
        self.full: LocalModel | None = None
        self.router = OffloadRouter()
        #: The submodel that the server recommends and that is not resident.
        self.pending_fetch: str | None = None
        self._budget = RiskBudget(spec.max_disagreement)
        self._scene = SceneChangeDetector()
        self._distribution = distribution
        self._probe_order = ProbeOrder()
        self._unfit: set[str] = set()
        self._recommended: tuple[str, int] = ("", 0)
        self._recent: deque[int] = deque(maxlen=RECENT)
        self._now: Observation | None = None
        self._asked: deque[_Pending] = deque(maxlen=_PENDING)
        self._audited: deque[_Pending] = deque(maxlen=_PENDING)

    @property
    def threshold(self) -> float:
        """The risk at or under which a candidate is a hit now."""
        return self._budget.threshold

    @property
    def out_of_distribution(self) -> bool:
        """Whether the stream shows what the bundle was not made for."""
        return self._distribution is not None and self._distribution.frames_out > 0

    def lookup(self, frame: Frame, now: float) -> Step:
        """Look at the picture, then with one model after the other, until a candidate's risk is small enough."""
        if self._scene.update(frame.signature):
            self._start_over()
        observation = self.estimator.begin(frame)
        audit = self.audits is not None and self.audits.due()
        prediction = self._held(observation)
        hit = prediction is not None and prediction.risk <= _UNSEEN * self.threshold
        if prediction is None or not hit or audit:
            # An audited frame is looked at for what it teaches; the answer stays what it would have been.
            seen = self._look(frame, observation, audit and hit)
            if not hit and seen is not None:
                prediction, hit = seen, seen.risk <= self.threshold
        if self._distribution is not None:
            self._distribution.count()
        if self._distribution is not None and self._distribution.frames_out > ASKED_FIRST:
            prediction, hit = Prediction(None, 1.0, 0.0, "base", ""), True
        elif self.out_of_distribution:
            hit = False
            if prediction is not None:  # the best guess that there is, if the full model cannot be asked
                prediction = msgspec.structs.replace(prediction, risk=max(prediction.risk, _OUT_OF_DISTRIBUTION))
        self._now = observation
        if prediction is not None and hit:
            return Hit(frame, prediction, audit)
        fallback = prediction or Prediction(self._recent[-1] if self._recent else 0, 1.0, 1.0, "frames", "")
        on_device = self.full is not None and self.router.on_device(self.full.seconds)
        exit_risk = min(1.0, _EXIT_SHARE * self.spec.max_disagreement)
        deadline = now + self.spec.deadline
        return Miss(frame, tuple(self._recent), now, deadline, fallback, self._reason(fallback), on_device, exit_risk)

    def on_device(self, miss: Miss, now: float) -> Reply | None:
        """The full model's answer on the device; None if it is not there, is damaged or would take longer than there
        is time."""
        full = self.full
        if full is None or now + full.seconds > miss.deadline:
            return None
        if full.judge is not None:
            logits, exit_risk = full.judge(miss.frame.view, miss.recent, miss.exit_risk)
        else:
            logits, exit_risk = full.score(miss.frame.view), None
        reply = Reply(miss.frame.index, logits, on_device=True, exit_risk=exit_risk)
        return reply if self._is_sound(reply) else None

    def complete(self, step: Step, reply: Reply | None, now: float, trouble: str = "") -> Answer:
        """End the frame of ``step``, and learn.

        Args:
            reply: The full model's; None if it was late or could not be reached, for the reason in ``trouble``. One
                whose scores are damaged counts as none.
            now: Seconds, on the clock of ``lookup``.
        """
        assert self._now is not None
        observation, self._now = self._now, None
        if reply is not None and not self._is_sound(reply):
            reply, trouble = None, "the full model's scores are damaged"
        if isinstance(step, Hit):
            answer = self._complete_hit(step, observation)
        elif reply is not None:
            answer = self._complete_miss(step, reply, observation, now)
        else:
            self._probe_order.record_round_trip(None)
            self.router.record_round_trip(self.spec.deadline)
            self._asked.append(_Pending(observation, step.fallback))
            reason = f"{step.reason}; {trouble}" if trouble else step.reason
            answer = _local(step.frame.index, step.fallback, "fallback", reason)
        self.tally.count(answer)
        if self.audits is not None and answer.level != "fallback":  # nobody knows whether a fallback agrees
            self.audits.count(answer.hit)
        return answer

    def on_late_reply(self, reply: Reply, now: float) -> Answer | None:  # noqa: ARG002
        """Learn from an answer that came after its frame had ended. The correction, if the answer was another."""
        pending = _take(self._asked, reply.frame)
        if pending is None or not self._is_sound(reply):
            return None
        self.tally.late += 1
        self._learn(pending.observation, reply)
        self._recommend(reply.submodel)
        if reply.label == pending.prediction.label:
            return None
        self.tally.corrections += 1
        return self._of_full(reply, "cloud", "correction")

    def on_audit_reply(self, reply: Reply, now: float) -> None:  # noqa: ARG002
        """Take the full model's judgement of a hit that was sent to be audited."""
        pending = _take(self._audited, reply.frame)
        if pending is None or self.audits is None or not self._is_sound(reply):
            return
        wrong = pending.prediction.label is not None and pending.prediction.label != reply.label
        self._learn(pending.observation, reply)
        if self.audits.judge(wrong, pending.rate):
            self._budget.restart(self.audits.scale)

    def install(self, model: LocalModel) -> list[str]:
        """Make a loaded model resident, a submodel or the full one; return the names of those to free."""
        if model.name == self.spec.full_model:
            self.full = model
            return []
        if self.pending_fetch == model.name:
            self.pending_fetch = None
        gone = [model.name] if self.submodels is None else self.submodels.admit(model)
        if model.name in gone:
            self._unfit.add(model.name)  # or it would be fetched again at every recommendation
        return gone

    def unload_full(self) -> None:
        """Let go of the full model on the device."""
        self.full = None

    def evict_to(self, budget: int) -> list[str]:
        """Let go of submodels until the rest costs at most ``budget`` bytes; return their names."""
        return self.submodels.evict_to(budget) if self.submodels is not None else []

    def _held(self, observation: Observation) -> Prediction | None:
        """The held answer that the picture alone suggests."""
        candidate = self.estimator.best(observation) if self.spec.hold else None
        return None if candidate is None else Prediction(*candidate, "frames", self.spec.full_model)

    def _look(self, frame: Frame, observation: Observation, base_only: bool) -> Prediction | None:
        """The best candidate after as many local models have looked as it takes. ``base_only``: the first is enough."""
        if self.base is None:
            return None
        best = self._run(self.base, frame, observation)
        if best is None or self.submodels is None or base_only:
            return best
        expected = self.estimator.filter.belief
        self.submodels.expect(expected)
        if best.risk <= self.threshold:
            return best
        for probe in self._probe_order.plan(self.submodels.residents, expected):
            seen = self._run(probe.model, frame, observation)
            hit = seen is not None and seen.risk <= self.threshold
            self._probe_order.record_outcome(probe, hit)
            if seen is not None and seen.risk < best.risk:
                best = seen
            if hit:
                break
        return best

    def _run(self, model: LocalModel, frame: Frame, observation: Observation) -> Prediction | None:
        """The best candidate after ``model`` has looked; None if its scores are damaged, which is no look."""
        looked = model.run(frame.view)
        if looked is None:
            return None
        logits, probabilities = looked
        if model.level == "base" and self._distribution is not None:
            self._distribution.update("base", logits)
        self.estimator.look(observation, probabilities)
        label = int(probabilities.argmax())
        candidate = self.estimator.best(observation, None if self.spec.hold else label)
        if candidate is None:  # no risk is known yet
            return Prediction(label, 1.0, 1.0, model.level, model.name)
        # What the model agrees with counts as the model's answer, another candidate as a held one.
        if candidate.label == label:
            return Prediction(*candidate, model.level, model.name)
        return Prediction(*candidate, "frames", self.spec.full_model)

    def _complete_hit(self, step: Hit, observation: Observation) -> Answer:
        self._budget.charge(step.prediction.expected_risk, self._scale)
        if step.prediction.level == "submodels" and self.submodels is not None:
            self.submodels.touch(step.prediction.model)
        if step.audit:
            assert self.audits is not None
            self._audited.append(_Pending(observation, step.prediction, self.audits.rate))
            self.audits.sent += 1
        if step.prediction.label is not None:
            self._remember(step.prediction.label)
        return _local(step.frame.index, step.prediction, step.prediction.level, "", step.audit)

    def _complete_miss(self, step: Miss, reply: Reply, observation: Observation, now: float) -> Answer:
        self._probe_order.record_round_trip(now - step.begun)
        if not reply.on_device:
            self.router.record_round_trip(now - step.begun)
        self._learn(observation, reply)
        self._recommend(reply.submodel)
        self._budget.charge(reply.exit_risk or 0.0, self._scale)
        answer = self._of_full(reply, "full" if reply.on_device else "cloud", step.reason)
        self._remember(reply.label)
        self.tally.overruled += answer.label != reply.label
        return answer

    def _is_sound(self, reply: Reply) -> bool:
        return are_scores(reply.logits, len(self.estimator.filter.belief))

    def _learn(self, observation: Observation, reply: Reply) -> None:
        if self._distribution is not None:
            self._distribution.update("full", reply.logits)
        self.estimator.learn(observation, reply.label)

    def _of_full(self, reply: Reply, level: Level, reason: str) -> Answer:
        confidence = float(softmax(reply.logits, self.spec.full_temperature)[reply.label])
        risk, model = reply.exit_risk or 0.0, self.spec.full_model
        return Answer(reply.frame, reply.label, confidence, risk, level, model, reason)

    def _start_over(self) -> None:
        """The scene has changed: what was remembered and learned of it no longer holds."""
        self.tally.scene_changes += 1
        self.estimator.reset(_PRIOR_SHARE)
        self._budget.restart(self._scale)
        if self.audits is not None:
            self.audits.raise_rate()

    @property
    def _scale(self) -> float:
        return 1.0 if self.audits is None else self.audits.scale

    def _reason(self, fallback: Prediction) -> str:
        if self.out_of_distribution:
            return "out of distribution"
        if not self.estimator.ready:
            return "no risk is known yet"
        return f"risk {fallback.risk:.3f} over {self.threshold:.3f}"

    def _remember(self, label: int) -> None:
        # An object that stays in view is one thing seen, not thirty: the server wants to know what comes together.
        if not self._recent or self._recent[-1] != label:
            self._recent.append(label)

    def _recommend(self, name: str | None) -> None:
        """The server recommends the submodel ``name``."""
        if name is None or self.submodels is None or name in self._unfit:
            return
        if self.submodels.touch(name):
            self._recommended = ("", 0)
            return
        self._recommended = (name, self._recommended[1] + 1 if self._recommended[0] == name else 1)
        if self._recommended[1] >= (_FETCH_HYSTERESIS if self.submodels.is_full else 1):
            self.pending_fetch = name


def _local(frame: int, prediction: Prediction, level: Level, reason: str, audit: bool = False) -> Answer:
    return Answer(
        frame, prediction.label, 1.0 - prediction.risk, prediction.risk, level, prediction.model, reason, audit
    )


def _take(pending: deque[_Pending], index: int) -> _Pending | None:
    """Remove the frame ``index`` and return it; None if it is not there."""
    for place, one in enumerate(pending):
        if one.observation.frame.index == index:
            del pending[place]
            return one
    return None
