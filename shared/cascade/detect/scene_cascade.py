"""The cascade of a detector: answers each frame with objects, locally (hit) or after the full model (miss).

The caller calls ``lookup`` and ``complete`` once for each frame, in order, and ``on_late_reply`` and ``on_audit_reply``
at any time between frames. Time, models and motion come from the caller, randomness from ``spec.seed``.
"""

from __future__ import annotations

from collections import OrderedDict, deque

import numpy as np

from cachenet.shared.cascade.audits import Audits
from cachenet.shared.cascade.decision import Attempt, Decision
from cachenet.shared.cascade.detect.detections import Detections, iou
from cachenet.shared.cascade.detect.history import HISTORY, Moment
from cachenet.shared.cascade.detect.scene_estimator import SceneEstimate, SceneEstimator
from cachenet.shared.cascade.detect.scene_features import SceneStage
from cachenet.shared.cascade.detect.spec import SceneSpec
from cachenet.shared.cascade.detect.tracks import ASSOCIATED, Tracks
from cachenet.shared.cascade.detect.types import (
    LocalDetector,
    SceneAnswer,
    SceneFrame,
    SceneHit,
    SceneMiss,
    ScenePrediction,
    SceneReply,
    SceneStep,
    TrackedObject,
)
from cachenet.shared.cascade.model_cache import ResidentModels
from cachenet.shared.cascade.offload import OffloadRouter
from cachenet.shared.cascade.risk_budget import RiskBudget
from cachenet.shared.cascade.scene_change import SceneChangeDetector
from cachenet.shared.cascade.tally import Tally
from cachenet.shared.cascade.types import Level, LocalLevel

#: Share of the budget that the threshold aims at, so that most blocks of frames keep the budget.
_AIM = 0.7
#: First threshold, as a multiple of that aim.
_INITIAL = 1.8
#: Step size of the budget. Errors are averages over objects and vary less than those of labels, so it may be larger.
_RATE = 0.02
#: Least threshold, as a multiple of that aim: a frame whose expected error is within the budget is not asked about.
_LEAST = 1.0 / _AIM
#: Largest expected error of a hit without a detector's run, as a share of the threshold.
_UNPROBED_SHARE = 0.1
#: Factor on the precision of the priors after a scene change; as for classifiers.
_RESET_FACTOR = 0.5
#: Frames for which a question without a reply holds back others, as a multiple of the usual delay of a reply.
_PATIENT_DELAYS = 2.0
#: Weight of the held-out footage, on which detections alone were good enough, replies.
_DIRECT_PRIOR = 20.0
#: Replies to frames with such answers that count, the newest.
_DIRECT_REPLIES = 200
#: Mean delay from which replies count as late, frames; a reply in time has a delay of one frame.
_LATE = 1.2
#: Weight of the newest reply in the running mean of the delay.
_NEWEST_DELAY = 0.2
#: Frames over which the floor is averaged.
_FLOOR_FRAMES = 300
#: Multiple of the budget over which the floor ends questions.
_UNATTAINABLE = 1.25
#: Frames after which questions are tried again.
_RETRY_FRAMES = 3000
#: Most tracks whose numbers are remembered.
_MAX_NUMBERS = 4096


class SceneCascade:
    """The cascade of one stream over one bundle of detectors.

    Attributes:
        estimator: Tracks and their risks.
        base: The base model; None for none.
        submodels: The resident submodels; None for none. The one that was used last runs in place of the base model.
        audits: The audits; None for none.
        full: The full model, if it is on the device.
        router: Chooses between the full model on the device and on the server.
        pending_fetch: Name of the recommended submodel to load, until it is installed; None for none.
        floor: Expected object error while questions were as frequent as they can be; None before that was necessary.
        unattainable: Whether the floor is over the budget, so that questions are not worth their cost.
        explains: Whether ``lookup`` records its ``decision``.
        decision: What the last lookup has tried; None before the first one, and where nothing is recorded.
    """

    def __init__(
        self,
        spec: SceneSpec,
        estimator: SceneEstimator,
        base: LocalDetector | None = None,
        submodels: ResidentModels[LocalDetector] | None = None,
        audits: Audits | None = None,
        tally: Tally | None = None,
    ) -> None:
        """Assemble a cascade; ``build_cascade.build_scene_cascade`` creates the parts."""
        self.spec, self.estimator, self.tally = spec, estimator, tally or Tally()
        self.tally.hits.setdefault("tracks", 0)
        self.base, self.submodels, self.audits = base, submodels, audits
        self.full: LocalDetector | None = None
        self.router = OffloadRouter()
        self.pending_fetch: str | None = None
        self.floor: float | None = None
        self.unattainable = False
        self.explains = False
        self.decision: Decision | None = None
        self._budget = RiskBudget(_AIM * spec.max_object_error, _INITIAL, _RATE, _LEAST)
        self._scene = SceneChangeDetector()
        self._oversized: set[str] = set()
        self._moment: Moment | None = None  # of the frame between lookup and complete
        self._asked: OrderedDict[int, None] = OrderedDict()  # frames with a question and no reply yet
        self._delay = 1.0  # frames from a question to its reply, running mean
        self._direct_errors: deque[float] = deque(maxlen=_DIRECT_REPLIES)
        self._exhausted_frames = 0  # frames at the least threshold; while unattainable, frames until the next trial
        self._audited: OrderedDict[int, float] = OrderedDict()  # share of audits at each audited frame without a reply
        self._numbers: OrderedDict[int, int] = OrderedDict()  # number of each answered track by its key
        self._next_number = 1
        self._shown: list[tuple[int, int, tuple[float, ...]]] = []  # last answer: key, label, box of each object

    @property
    def threshold(self) -> float:
        """Largest expected object error of a hit now."""
        return self._budget.threshold

    # A frame: lookup, then complete.

    def lookup(self, frame: SceneFrame, now: float) -> SceneStep:
        """Answer the frame from the device, or decide to ask the full model.

        Carried tracks answer alone if their expected error is at most a tenth of the threshold. Otherwise a detector
        of the device runs. The frame is a hit if the expected error is then at most the threshold, or a question is on
        its way.

        Args:
            now: Time, seconds.
        """
        if self._scene.update(frame.signature):
            self._on_scene_change()
        moment = self._moment = self.estimator.begin(frame)
        audit = self.audits is not None and self.audits.due()
        estimate = self.estimator.estimate(moment)
        level: LocalLevel = "tracks" if len(estimate.rows) and frame.moved.any() else "frames"
        model = ""
        attempts = self._attempts(estimate, level, model, _UNPROBED_SHARE * self.threshold)
        alone = self.spec.reuse_tracks and self.estimator.ready
        if not alone or audit or estimate.error > _UNPROBED_SHARE * self.threshold:
            detector = self._detector()
            found = detector.detect(frame.view) if detector is not None else None
            if detector is not None and found is not None:
                stage: SceneStage = "base" if detector is self.base else "submodel"
                answer_score = detector.answer_score if self._direct_error <= self.spec.max_object_error else None
                self.estimator.observe(moment, found, stage, answer_score)
                estimate, level, model = self.estimator.estimate(moment), detector.level, detector.name
                attempts += self._attempts(estimate, level, model, self.threshold)
        moment.answer = estimate.objects
        moment.raw_error = estimate.raw_error if self.estimator.ready else None  # nothing to calibrate yet
        if moment.answer_score is None:
            self._update_floor(estimate.error)
        objects = self._objects(estimate)
        prediction = ScenePrediction(objects, estimate.error, level, model)
        reason, not_asked = self._reason(prediction, moment)
        if self.explains:
            self.decision = Decision(self.threshold, attempts, not_asked)
        if not reason:
            return SceneHit(frame, prediction, audit)
        on_device = self.full is not None and self.router.use_device(self.full.seconds)
        return SceneMiss(frame, now, now + self.spec.deadline, prediction, reason, on_device)

    def complete(self, step: SceneStep, reply: SceneReply | None, now: float, failure: str = "") -> SceneAnswer:
        """End the frame of ``step`` with an answer, and learn from the reply.

        Args:
            step: Result of ``lookup`` for the frame.
            reply: The full model's reply to a miss; None if none came in time, as always in asynchronous mode.
            now: Time, seconds.
            failure: Why there is no reply.
        """
        assert self._moment is not None
        moment, self._moment = self._moment, None
        if isinstance(step, SceneHit):
            answer = self._complete_hit(step)
        elif reply is not None:
            answer = self._complete_miss(step, reply, moment, now)
        else:
            answer = self._fall_back(step, failure)
        self.tally.count(answer)
        if self.audits is not None and answer.level != "fallback":
            self.audits.count(answer.hit)
        return answer

    def on_late_reply(self, reply: SceneReply, now: float) -> SceneAnswer | None:  # noqa: ARG002
        """Learn from a reply to an earlier frame. The next frames show its objects, carried; so there is no
        correction, and the result is always None."""
        if self._asked.pop(reply.frame, 0) is None:
            self.tally.late += 1
        self._learn(reply)
        return None

    def on_audit_reply(self, reply: SceneReply, now: float) -> None:  # noqa: ARG002
        """Learn from the full model's reply to an audited hit."""
        rate = self._audited.pop(reply.frame, None)
        error = self._learn(reply)
        if rate is not None and self.audits is not None and error is not None and self.audits.judge(error, rate):
            self._budget.restart(self.audits.scale)

    # Models.

    def install(self, model: LocalDetector) -> list[str]:
        """Use a loaded submodel, or the full model on the device. Returns the names of the submodels evicted for it."""
        if model.name == self.spec.full_model:
            self.full = model
            return []
        if self.pending_fetch == model.name:
            self.pending_fetch = None
        if self.submodels is None:
            return [model.name]
        evicted = self.submodels.admit(model)
        if model.name in evicted:
            self._oversized.add(model.name)
        return evicted

    def unload_full(self) -> None:
        """Stop using the full model on the device."""
        self.full = None

    def evict_to(self, max_bytes: int) -> list[str]:
        """Evict submodels until the rest takes at most ``max_bytes`` bytes; return the names of those evicted."""
        return [] if self.submodels is None else self.submodels.evict_to(max_bytes)

    def _detector(self) -> LocalDetector | None:
        """The detector that runs on the device: the submodel that was used last, or the base model."""
        residents = self.submodels.residents if self.submodels is not None else ()
        return residents[-1] if residents else self.base

    # The decision.

    def _attempts(self, estimate: SceneEstimate, level: LocalLevel, model: str, limit: float) -> tuple[Attempt, ...]:
        """The record of an attempt; empty where nothing is recorded, and where carried tracks may not answer."""
        if not self.explains or not (model or self.spec.reuse_tracks):
            return ()
        causes = self.estimator.causes(estimate)
        return (Attempt(level, model, None, estimate.error, limit, objects=len(estimate.rows), causes=causes),)

    def _reason(self, prediction: ScenePrediction, moment: Moment) -> tuple[str, str]:
        """Why the full model is asked about the frame; empty for a hit. And why not, where the risk would ask.

        A late reply changes only tracks. So nothing is asked where detections are answered as they are and replies are
        late. Audits go on; once they show more error than the budget, tracks answer.
        """
        if not prediction.model and not self.spec.reuse_tracks:
            return "no level of the device may answer", ""
        over = prediction.risk > self.threshold
        if self._is_waiting(moment.frame.index):
            return "", "an earlier question is still on its way" if over else ""
        if not self.estimator.ready:
            return "no risk is known yet", ""
        if not over:
            return "", ""
        if self.unattainable:
            return "", "the budget cannot be met here, however often the full model is asked"
        if moment.answer_score is not None and self._delay > _LATE:
            return "", "replies come late, and a late reply does not change detections that are answered as they are"
        return f"expected error {prediction.risk:.3f} over {self.threshold:.3f}", ""

    def _is_waiting(self, index: int) -> bool:
        """Whether a question is on its way whose reply may still come."""
        while self._asked and index - next(iter(self._asked)) > HISTORY:
            self._asked.popitem(last=False)
        newest = next(reversed(self._asked), None)
        return newest is not None and index - newest <= _PATIENT_DELAYS * self._delay

    def _update_floor(self, error: float) -> None:
        """Average the expected error while questions are as frequent as they can be, and compare it to the budget."""
        if self.unattainable:
            self._exhausted_frames -= 1
            self.unattainable = self._exhausted_frames > 0
        elif self._budget.exhausted and self.estimator.ready:
            self._exhausted_frames += 1
            mean = error if self.floor is None else self.floor
            self.floor = mean + (error - mean) / min(self._exhausted_frames, _FLOOR_FRAMES)
            if self._exhausted_frames >= _FLOOR_FRAMES and self.floor > _UNATTAINABLE * self.spec.max_object_error:
                self.unattainable, self._exhausted_frames = True, _RETRY_FRAMES

    # Ends of a frame.

    def _complete_hit(self, step: SceneHit) -> SceneAnswer:
        prediction = step.prediction
        self._budget.charge(prediction.risk, self._scale)
        if prediction.level == "submodels" and self.submodels is not None:
            self.submodels.touch(prediction.model)
        if step.audit:
            assert self.audits is not None
            self._audited[step.frame.index] = self.audits.rate
            while len(self._audited) > HISTORY:
                self._audited.popitem(last=False)
            self.audits.sent += 1
        return _answer(step.frame.index, prediction, prediction.level, "", step.audit)

    def _complete_miss(self, step: SceneMiss, reply: SceneReply, moment: Moment, now: float) -> SceneAnswer:
        if not reply.on_device:
            self.router.record_round_trip(now - step.begun)
        self._learn(reply)
        self._budget.charge(0.0, self._scale)
        objects = self._full_objects(moment.tracks, reply.detections)
        level: Level = "full" if reply.on_device else "cloud"
        return SceneAnswer(step.frame.index, objects, 0.0, level, self.spec.full_model, step.reason)

    def _fall_back(self, step: SceneMiss, failure: str) -> SceneAnswer:
        self._asked[step.frame.index] = None
        self._budget.charge(step.fallback.risk, self._scale)
        reason = f"{step.reason}; {failure}" if failure else step.reason
        return _answer(step.frame.index, step.fallback, "fallback", reason)

    def _learn(self, reply: SceneReply) -> float | None:
        """Learn from a reply to an earlier or the present frame; the object error of that frame's answer."""
        self._on_recommendation(reply.submodel)
        newest = self.estimator.newest
        if newest is not None:
            self._delay += _NEWEST_DELAY * (max(1.0, newest + 1.0 - reply.frame) - self._delay)
        moment = self.estimator.history.find(reply.frame)
        error = self.estimator.learn(reply.frame, reply.detections)
        if moment is not None and moment.answer_score is not None and error is not None:
            self._direct_errors.append(error)
        return error

    @property
    def _direct_error(self) -> float:
        """Mean object error of detections that were answered as they are, as far as replies and audits show it."""
        known = self._direct_errors
        prior = _AIM * self.spec.max_object_error
        return (_DIRECT_PRIOR * prior + sum(known)) / (_DIRECT_PRIOR + len(known))

    def _on_scene_change(self) -> None:
        """Forget what depends on the scene, restart the threshold, and raise the audit rate for a while."""
        self.tally.scene_changes += 1
        self.estimator.reset(_RESET_FACTOR)
        self._budget.restart(self._scale)
        self._asked.clear()
        self._direct_errors.clear()
        self.floor, self.unattainable, self._exhausted_frames = None, False, 0
        if self.audits is not None:
            self.audits.raise_rate()

    @property
    def _scale(self) -> float:
        """Factor of the budget after alarms of the audits."""
        return 1.0 if self.audits is None else self.audits.scale

    def _on_recommendation(self, name: str | None) -> None:
        """Request the submodel that the server recommends."""
        if name is None or self.submodels is None or name in self._oversized or name in self.submodels.names():
            return
        self.pending_fetch = name

    # Numbers of tracks.

    def _objects(self, estimate: SceneEstimate) -> tuple[TrackedObject, ...]:
        """The answered objects with the numbers of their tracks, by number."""
        tracks = estimate.tracks.take(estimate.rows)
        return self._numbered(tracks, estimate.risks.tolist())

    def _full_objects(self, tracks: Tracks, found: Detections) -> tuple[TrackedObject, ...]:
        """The full model's objects with the numbers of their tracks: each has a track with its very box."""
        rows = []
        for box, label in zip(found.boxes, found.labels, strict=True):
            same = (tracks.boxes == box).all(1) & (tracks.labels == label)
            rows.append(int(same.argmax()))
        return self._numbered(tracks.take(np.array(rows, np.int64)), [0.0] * len(rows))

    def _numbered(self, tracks: Tracks, risks: list[float]) -> tuple[TrackedObject, ...]:
        """Objects of ``tracks`` with numbers. A track that replaces one of the last answer takes over its number."""
        keys, labels, boxes = tracks.keys.tolist(), tracks.labels.tolist(), tracks.visible
        present = set(keys)
        free = [one for one in self._shown if one[0] not in present]
        for row, key in enumerate(keys):
            if key in self._numbers:
                self._numbers.move_to_end(key)
                continue
            rivals = [at for at, one in enumerate(free) if one[1] == labels[row]]
            if rivals:
                overlap = iou(boxes[row : row + 1], np.array([free[at][2] for at in rivals], np.float32))[0]
                if overlap.max() >= ASSOCIATED:
                    self._numbers[key] = self._numbers.pop(free.pop(rivals[int(overlap.argmax())])[0])
                    continue
            self._numbers[key] = self._next_number
            self._next_number += 1
        while len(self._numbers) > _MAX_NUMBERS:
            self._numbers.popitem(last=False)
        corners = [tuple(box) for box in boxes.astype(float).tolist()]
        self._shown = list(zip(keys, labels, corners, strict=True))
        objects = [
            TrackedObject(self._numbers[key], label, 1.0 - risk, (x, y, right - x, bottom - y), risk)
            for key, label, (x, y, right, bottom), risk in zip(keys, labels, corners, risks, strict=True)
        ]
        return tuple(sorted(objects, key=lambda one: one.track))


def _answer(frame: int, prediction: ScenePrediction, level: Level, reason: str, audit: bool = False) -> SceneAnswer:
    return SceneAnswer(frame, prediction.objects, prediction.risk, level, prediction.model, reason, audit)
