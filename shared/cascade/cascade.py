"""The cascade: answers each frame locally (hit) or by the full model (miss), and learns from the full model.

The caller calls ``lookup`` and ``complete`` once for each frame, in order, and ``on_late_reply`` and ``on_audit_reply``
at any time between frames. Time and models come from the caller, randomness from ``spec.seed``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import msgspec

from cachenet.shared.cascade.audits import Audits
from cachenet.shared.cascade.decision import Attempt, Decision
from cachenet.shared.cascade.distribution import MISSES_BEFORE_UNKNOWN, DistributionMonitor
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.model_cache import LocalModel, ModelCache
from cachenet.shared.cascade.offload import OffloadRouter
from cachenet.shared.cascade.probability import Probabilities, are_scores, softmax
from cachenet.shared.cascade.probe_order import ProbeOrder
from cachenet.shared.cascade.risk_budget import RiskBudget
from cachenet.shared.cascade.risk_estimator import Lookup, RiskEstimator
from cachenet.shared.cascade.scene_change import SceneChangeDetector
from cachenet.shared.cascade.spec import CascadeSpec
from cachenet.shared.cascade.tally import Tally
from cachenet.shared.cascade.types import Answer, Hit, Level, Miss, Prediction, Reply, Scores, Step

#: Most recent labels that a request to the server carries.
RECENT_LABELS = 16
#: Most requests, and most audits, whose replies are awaited after their frames have ended.
_MAX_PENDING = 64
#: Consecutive recommendations of a submodel before another one is evicted for it. Prevents two submodels that are
#: recommended in turn from replacing each other again and again.
_FETCH_HYSTERESIS = 3
#: Largest risk of a hit without a probe, as a share of the threshold. A probe is cheap and sees more than the change of
#: the picture. 0.05 to 0.15 give equal results on real clips; 0.25 costs 0.1 points of agreement.
_UNPROBED_SHARE = 0.1
#: Largest risk of an early exit's answer, as a share of the budget.
_EXIT_SHARE = 1 / 3
#: Least stated risk of a fallback while the stream is out of distribution.
_OUT_OF_DISTRIBUTION_RISK = 0.5
#: Factor on the precision of the priors after a scene change. On fifteen scene changes of real clips, factors of 0.1 to
#: 1 keep the budget equally well, because the threshold restarts low; 0.1 asks the full
#: model 5 % more often.
_RESET_FACTOR = 0.5


@dataclass(slots=True)
class _Pending:
    """A completed frame whose reply of the full model may still come.

    Attributes:
        lookup: The frame's lookup.
        prediction: The frame's answer: a fallback, or an audited hit.
        rate: Share of hits that were audited at that frame; 0 for a fallback.
    """

    lookup: Lookup
    prediction: Prediction
    rate: float = 0.0


class Cascade:
    """The cascade of one stream over one bundle.

    Attributes:
        estimator: Candidates and their risks.
        base: The base model; None for none.
        submodels: The resident submodels; None for none.
        audits: The audits; None for none.
        full: The full model, if it is on the device.
        router: Chooses between the full model on the device and on the server.
        pending_fetch: Name of the recommended submodel to load, until it is installed; None for none.
        explains: Whether ``lookup`` records its ``decision``.
        decision: What the last lookup has tried; None before the first one, and where nothing is recorded.
    """

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
        """Assemble a cascade; ``build_cascade.build_cascade`` creates the parts. Each part that is None is left out."""
        self.spec, self.estimator, self.tally = spec, estimator, tally or Tally()
        self.base, self.submodels, self.audits = base, submodels, audits
        self.full: LocalModel | None = None
        self.router = OffloadRouter()
        self.pending_fetch: str | None = None
        self.explains = False
        self.decision: Decision | None = None
        self._attempts: list[Attempt] = []
        self._budget = RiskBudget(spec.max_disagreement)
        self._scene = SceneChangeDetector()
        self._distribution = distribution
        self._probe_order = ProbeOrder()
        self._oversized: set[str] = set()  # submodels that exceed the memory budget alone
        self._recommended: tuple[str, int] = ("", 0)  # last recommendation that is not resident, times in a row
        self._recent: deque[int] = deque(maxlen=RECENT_LABELS)
        self._lookup: Lookup | None = None  # of the frame between lookup and complete
        self._late: deque[_Pending] = deque(maxlen=_MAX_PENDING)
        self._audited: deque[_Pending] = deque(maxlen=_MAX_PENDING)

    @property
    def threshold(self) -> float:
        """Largest risk of a hit now."""
        return self._budget.threshold

    @property
    def out_of_distribution(self) -> bool:
        """Whether the stream is out of the bundle's distribution."""
        return self._distribution is not None and self._distribution.frames_out > 0

    # A frame: lookup, then complete.

    def lookup(self, frame: Frame, now: float) -> Step:
        """Answer the frame from the device, or decide to ask the full model.

        The answer is the recalled answer if its risk is at most a tenth of the threshold. Otherwise it is the candidate
        of least risk after the probes, if its risk is at most the threshold. Without a base model there are no probes.

        Args:
            now: Time, seconds.
        """
        if self._scene.update(frame.signature):
            self._on_scene_change()
        lookup = self._lookup = self.estimator.begin(frame)
        audit = self.audits is not None and self.audits.due()
        self._attempts = []
        prediction, hit = self._predict(frame, lookup, audit)
        if self.explains:
            self.decision = Decision(self.threshold, tuple(self._attempts))
        prediction, hit = self._check_distribution(prediction, hit)
        return Hit(frame, prediction, audit) if prediction is not None and hit else self._miss(frame, prediction, now)

    def complete(self, step: Step, reply: Reply | None, now: float, failure: str = "") -> Answer:
        """End the frame of ``step`` with an answer, and learn from the reply.

        Args:
            step: Result of ``lookup`` for the frame.
            reply: The full model's reply to a miss; None if none came in time. A damaged reply counts as none.
            now: Time, seconds.
            failure: Why there is no reply.
        """
        assert self._lookup is not None
        lookup, self._lookup = self._lookup, None
        if reply is not None and not self._is_sound(reply):
            reply, failure = None, "the full model's scores are damaged"
        if isinstance(step, Hit):
            answer = self._complete_hit(step, lookup)
        elif reply is not None:
            answer = self._complete_miss(step, reply, lookup, now)
        else:
            answer = self._fall_back(step, lookup, failure)
        self.tally.count(answer)
        if self.audits is not None and answer.level != "fallback":
            self.audits.count(answer.hit)
        return answer

    def on_late_reply(self, reply: Reply, now: float) -> Answer | None:  # noqa: ARG002
        """Learn from a reply to a frame that has ended as a fallback.

        Returns:
            The correction, if the label differs from the fallback; None otherwise, and if the reply is damaged or the
            frame is no longer known.
        """
        pending = _take(self._late, reply.frame)
        if pending is None or not self._is_sound(reply):
            return None
        self.tally.late += 1
        self._learn(pending.lookup, reply)
        self._on_recommendation(reply.submodel)
        if reply.label == pending.prediction.label:
            return None
        self.tally.corrections += 1
        return self._full_answer(reply, "cloud", "correction")

    def on_audit_reply(self, reply: Reply, now: float) -> None:  # noqa: ARG002
        """Learn from the full model's reply to an audited hit."""
        pending = _take(self._audited, reply.frame)
        if pending is None or self.audits is None or not self._is_sound(reply):
            return
        wrong = pending.prediction.label is not None and pending.prediction.label != reply.label
        self._learn(pending.lookup, reply)
        if self.audits.judge(wrong, pending.rate):
            self._budget.restart(self.audits.scale)

    # Models on the device.

    def run_full(self, miss: Miss, now: float) -> Reply | None:
        """Run the full model on the device; None if it is absent or damaged, or would exceed the deadline."""
        full = self.full
        if full is None or now + full.seconds > miss.deadline:
            return None
        if full.score_with_exits is not None:
            logits, exit_risk = full.score_with_exits(miss.frame.view, miss.recent, miss.max_exit_risk)
        else:
            logits, exit_risk = full.score(miss.frame.view), None
        reply = Reply(miss.frame.index, logits, on_device=True, exit_risk=exit_risk)
        return reply if self._is_sound(reply) else None

    def install(self, model: LocalModel) -> list[str]:
        """Make a loaded submodel or full model resident; return the names of the models to free."""
        if model.name == self.spec.full_model:
            self.full = model
            return []
        if self.pending_fetch == model.name:
            self.pending_fetch = None
        evicted = [model.name] if self.submodels is None else self.submodels.admit(model)
        if model.name in evicted:
            self._oversized.add(model.name)  # do not fetch it again
        return evicted

    def unload_full(self) -> None:
        """Release the full model on the device."""
        self.full = None

    def evict_to(self, max_bytes: int) -> list[str]:
        """Evict submodels until the rest takes at most ``max_bytes`` bytes; return the names of those evicted."""
        return self.submodels.evict_to(max_bytes) if self.submodels is not None else []

    # Steps of a lookup.

    def _predict(self, frame: Frame, lookup: Lookup, audit: bool) -> tuple[Prediction | None, bool]:
        """The candidate of least risk, and whether it is a hit: by the picture alone, else by probes."""
        recalled = self._predict_recalled(lookup)
        hit = recalled is not None and recalled.risk <= _UNPROBED_SHARE * self.threshold
        if hit and not audit:
            return recalled, True
        # An unprobed hit that is audited is probed by the base model after all, so that the audit trains stage
        # ``base``. Its answer does not change.
        probed = self._probe(frame, lookup, base_only=hit)
        if hit or probed is None:
            return recalled, hit
        return probed, probed.risk <= self.threshold

    def _predict_recalled(self, lookup: Lookup) -> Prediction | None:
        """The recalled answer of the full model, with its risk at stage ``picture``."""
        candidate = self.estimator.best(lookup) if self.spec.reuse_answers else None
        if candidate is None:
            return None
        prediction = Prediction(*candidate, "frames", self.spec.full_model)
        self._record(lookup, prediction, _UNPROBED_SHARE * self.threshold)
        return prediction

    def _probe(self, frame: Frame, lookup: Lookup, base_only: bool) -> Prediction | None:
        """The candidate of least risk after probes by the base model and, unless ``base_only``, by submodels."""
        if self.base is None:
            return None
        best = self._run(self.base, frame, lookup)
        if best is None or self.submodels is None or base_only:
            return best
        labels = self.estimator.filter.belief
        self.submodels.count_labels(labels)
        if best.risk <= self.threshold:
            return best
        for probe in self._probe_order.plan(self.submodels.residents, labels):
            prediction = self._run(probe.model, frame, lookup)
            hit = prediction is not None and prediction.risk <= self.threshold
            self._probe_order.record_outcome(probe, hit)
            if prediction is not None and prediction.risk < best.risk:
                best = prediction
            if hit:
                break
        return best

    def _run(self, model: LocalModel, frame: Frame, lookup: Lookup) -> Prediction | None:
        """The candidate of least risk after a run of ``model``; None if its scores are damaged."""
        output = model.run(frame.view)
        if output is None:
            return None
        prediction = self._predict_output(model, *output, lookup)
        self._record(lookup, prediction, self.threshold, model.name, output[1])
        return prediction

    def _predict_output(
        self, model: LocalModel, logits: Scores, probabilities: Probabilities, lookup: Lookup
    ) -> Prediction:
        """The candidate of least risk after the output of ``model``."""
        if model.level == "base" and self._distribution is not None:
            self._distribution.update("base", logits)
        self.estimator.add_output(lookup, probabilities)
        label = int(probabilities.argmax())
        candidate = self.estimator.best(lookup, None if self.spec.reuse_answers else label)
        if candidate is None:  # no risk model yet
            return Prediction(label, 1.0, 1.0, model.level, model.name)
        # A candidate with the model's own label is the model's answer. The others are held and recalled answers of the
        # full model; after a submodel has run, one may be the base model's label.
        if candidate.label == label:
            return Prediction(*candidate, model.level, model.name)
        return Prediction(*candidate, "frames", self.spec.full_model)

    def _record(
        self,
        lookup: Lookup,
        prediction: Prediction,
        limit: float,
        model: str = "",
        probabilities: Probabilities | None = None,
    ) -> None:
        """Record an attempt; ``model`` and ``probabilities``: the model that ran and its output."""
        if not self.explains or prediction.label is None:
            return
        output = None
        if probabilities is not None:
            output = int(probabilities.argmax()), float(probabilities.max())
        causes = self.estimator.causes(lookup, prediction.label)
        self._attempts.append(
            Attempt(prediction.level, model, prediction.label, prediction.risk, limit, output, causes=causes)
        )

    def _check_distribution(self, prediction: Prediction | None, hit: bool) -> tuple[Prediction | None, bool]:
        """While the stream is out of distribution: no hits at first, then the answer ``unknown``."""
        if self._distribution is None:
            return prediction, hit
        self._distribution.count()
        if self._distribution.frames_out > MISSES_BEFORE_UNKNOWN:
            # A hit at level ``base`` that costs no budget and that no audit counts as wrong.
            return Prediction(None, 1.0, 0.0, "base", ""), True
        if not self.out_of_distribution:
            return prediction, hit
        if prediction is not None:
            prediction = msgspec.structs.replace(prediction, risk=max(prediction.risk, _OUT_OF_DISTRIBUTION_RISK))
        return prediction, False

    def _miss(self, frame: Frame, prediction: Prediction | None, now: float) -> Miss:
        fallback = prediction or Prediction(self._recent[-1] if self._recent else 0, 1.0, 1.0, "frames", "")
        on_device = self.full is not None and self.router.use_device(self.full.seconds)
        exit_risk = min(1.0, _EXIT_SHARE * self.spec.max_disagreement)
        deadline = now + self.spec.deadline
        return Miss(frame, tuple(self._recent), now, deadline, fallback, self._reason(fallback), on_device, exit_risk)

    def _reason(self, fallback: Prediction) -> str:
        if self.out_of_distribution:
            return "out of distribution"
        if not self.estimator.ready:
            return "no risk is known yet"
        return f"risk {fallback.risk:.3f} over {self.threshold:.3f}"

    # Ends of a frame.

    def _complete_hit(self, step: Hit, lookup: Lookup) -> Answer:
        self._budget.charge(step.prediction.charge, self._scale)
        if step.prediction.level == "submodels" and self.submodels is not None:
            self.submodels.touch(step.prediction.model)
        if step.audit:
            assert self.audits is not None
            self._audited.append(_Pending(lookup, step.prediction, self.audits.rate))
            self.audits.sent += 1
        if step.prediction.label is not None:
            self._add_recent(step.prediction.label)
        return _local_answer(step.frame.index, step.prediction, step.prediction.level, "", step.audit)

    def _complete_miss(self, step: Miss, reply: Reply, lookup: Lookup, now: float) -> Answer:
        self._probe_order.record_round_trip(now - step.begun)
        if not reply.on_device:
            self.router.record_round_trip(now - step.begun)
        self._learn(lookup, reply)
        self._on_recommendation(reply.submodel)
        self._budget.charge(reply.exit_risk or 0.0, self._scale)
        answer = self._full_answer(reply, "full" if reply.on_device else "cloud", step.reason)
        self._add_recent(reply.label)
        self.tally.overruled += answer.label != reply.label
        return answer

    def _fall_back(self, step: Miss, lookup: Lookup, failure: str) -> Answer:
        self._probe_order.record_round_trip(None)
        self.router.record_round_trip(self.spec.deadline)
        self._late.append(_Pending(lookup, step.fallback))
        reason = f"{step.reason}; {failure}" if failure else step.reason
        return _local_answer(step.frame.index, step.fallback, "fallback", reason)

    def _full_answer(self, reply: Reply, level: Level, reason: str) -> Answer:
        confidence = float(softmax(reply.logits, self.spec.full_temperature)[reply.label])
        risk, model = reply.exit_risk or 0.0, self.spec.full_model
        return Answer(reply.frame, reply.label, confidence, risk, level, model, reason)

    def _is_sound(self, reply: Reply) -> bool:
        return are_scores(reply.logits, len(self.estimator.filter.belief))

    def _learn(self, lookup: Lookup, reply: Reply) -> None:
        if self._distribution is not None:
            self._distribution.update("full", reply.logits)
        self.estimator.learn(lookup, reply.label)

    def _on_scene_change(self) -> None:
        """Forget what depends on the scene, restart the threshold, and raise the audit rate for a while."""
        self.tally.scene_changes += 1
        self.estimator.reset(_RESET_FACTOR)
        self._budget.restart(self._scale)
        if self.audits is not None:
            self.audits.raise_rate()

    @property
    def _scale(self) -> float:
        """Factor of the budget after alarms of the audits."""
        return 1.0 if self.audits is None else self.audits.scale

    def _add_recent(self, label: int) -> None:
        """Add a label to the recent labels, unless it equals the last one: the server needs no runs of a label."""
        if not self._recent or self._recent[-1] != label:
            self._recent.append(label)

    def _on_recommendation(self, name: str | None) -> None:
        """Request the submodel that the server recommends, after enough recommendations in a row."""
        if name is None or self.submodels is None or name in self._oversized:
            return
        if self.submodels.touch(name):
            self._recommended = ("", 0)
            return
        self._recommended = (name, self._recommended[1] + 1 if self._recommended[0] == name else 1)
        if self._recommended[1] >= (_FETCH_HYSTERESIS if self.submodels.has_evicted else 1):
            self.pending_fetch = name


def _local_answer(frame: int, prediction: Prediction, level: Level, reason: str, audit: bool = False) -> Answer:
    return Answer(
        frame, prediction.label, 1.0 - prediction.risk, prediction.risk, level, prediction.model, reason, audit
    )


def _take(pending: deque[_Pending], index: int) -> _Pending | None:
    """Remove and return the entry of the frame ``index``; None if there is none."""
    for at, one in enumerate(pending):
        if one.lookup.frame.index == index:
            del pending[at]
            return one
    return None
