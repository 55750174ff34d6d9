"""Run a detector's cascade over recorded detections: to fit priors, to certify bundles and to measure."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.detect.detections import Detections, corners, counts, object_errors, pooled_f1
from cachenet.shared.cascade.detect.scene_cascade import SceneCascade
from cachenet.shared.cascade.detect.scene_estimator import SceneEstimator, SceneOutcome, scene_priors
from cachenet.shared.cascade.detect.scene_features import SceneModel, SceneStage
from cachenet.shared.cascade.detect.types import SceneAnswer, SceneFrame, SceneMiss, SceneReply
from cachenet.shared.cascade.risk_model import RiskPrior

#: Shares of frames that the full model answers, in the passes that fit priors: from no network to a busy stream.
_ASKED_SHARES = (0.0, 0.05, 0.2, 0.5)
#: Mean numbers of frames in a row without a detector's run, and with it, in these passes; 0 for a run on every frame.
_CARRIED_FRAMES = (0, 10)
#: Step between the frames that are marked right or wrong: neighbours are nearly equal.
_STEP = 3


@dataclass(frozen=True, eq=False)
class SceneTrace:
    """Recorded frames of one camera with the detections of its models.

    Attributes:
        frames: The frames in order; the view of each is its position.
        full: The full model's objects of each frame.
        base: The device's detections of each frame, with those of low score.
        answer_score: See ``LocalDetector``.
    """

    frames: Sequence[SceneFrame]
    full: Sequence[Detections]
    base: Sequence[Detections]
    answer_score: float | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def part(self, first: int, end: int) -> SceneTrace:
        """Frames ``first`` to ``end - 1``. Their views are still positions in the whole trace."""
        return SceneTrace(self.frames[first:end], self.full[first:end], self.base[first:end], self.answer_score)


@dataclass(frozen=True, eq=False)
class SceneRun:
    """Result of a cascade's run over a trace.

    Attributes:
        answers: The answer to each frame.
        counts: True positives, false positives and false negatives of each answer ``(n, 3)``.
        asked: Whether the full model was asked, for a miss or an audit ``(n,)``.
        probed: Whether a detector of the device ran ``(n,)``.
    """

    answers: list[SceneAnswer]
    counts: npt.NDArray[np.int64]
    asked: npt.NDArray[np.bool_]
    probed: npt.NDArray[np.bool_]

    @property
    def streaming_f1(self) -> float:
        """F1 score of the counts of all frames."""
        return pooled_f1(self.counts)

    @property
    def errors(self) -> npt.NDArray[np.float64]:
        """Object error of each answer, 1 - F1 ``(n,)``."""
        return object_errors(self.counts)


def objects_of(answer: SceneAnswer) -> Detections:
    """The objects of an answer as detections."""
    boxes = corners([one.box for one in answer.objects])
    labels = np.array([one.label for one in answer.objects], np.int64)
    return Detections(boxes, labels, np.array([one.confidence for one in answer.objects], np.float32))


def run(cascade: SceneCascade, trace: SceneTrace, delay: int, fps: float = 10.0) -> SceneRun:
    """Run a cascade of recorded models over a trace, in asynchronous mode.

    Args:
        cascade: Its base model's ``detect`` takes positions of the trace.
        delay: Frames from a question to the first frame that its reply precedes, at least 1.
        fps: Frame rate, frames per second.
    """
    answers: list[SceneAnswer] = []
    tallies, asked, probed = [], [], []
    late: deque[tuple[int, SceneReply]] = deque()
    audited: deque[tuple[int, SceneReply]] = deque()
    for at, frame in enumerate(trace.frames):
        now = at / fps
        while late and late[0][0] <= at:
            cascade.on_late_reply(late.popleft()[1], now)
        while audited and audited[0][0] <= at:
            cascade.on_audit_reply(audited.popleft()[1], now)
        step = cascade.lookup(frame, now)
        answer = cascade.complete(step, None, now, "to be answered later" if isinstance(step, SceneMiss) else "")
        reply = SceneReply(frame.index, trace.full[at])
        if isinstance(step, SceneMiss):
            late.append((at + delay, reply))
        elif answer.audit:
            audited.append((at + delay, reply))
        answers.append(answer)
        tallies.append(counts(objects_of(answer), trace.full[at]))
        asked.append(isinstance(step, SceneMiss) or answer.audit)
        probed.append(answer.model != "")
    return SceneRun(answers, np.array(tallies, np.int64).reshape(-1, 3), np.array(asked), np.array(probed))


def fit_scene_priors(
    traces: Sequence[SceneTrace], delay: int = 2, seed: int = 0, stage: SceneStage = "base"
) -> dict[SceneModel, RiskPrior]:
    """Fit the priors of the risk models to footage that the device's models were not trained on.

    Each pass asks the full model about another share of random frames, and lets the detector run on every frame or
    in stretches. The full model marks the candidates of every third frame right or wrong, whether it was asked or not.

    Args:
        delay: Frames from a question to its reply.
        seed: Seed of the draws.
        stage: Stage of the traces' ``base`` detections.
    """
    draws = random.Random(seed)
    collected: list[Mapping[SceneModel, SceneOutcome]] = []
    for trace in traces:
        for asked_share in _ASKED_SHARES:
            for carried_frames in _CARRIED_FRAMES:
                collected += _outcomes(trace, asked_share, carried_frames, delay, draws, stage)
    return scene_priors(collected)


def _outcomes(
    trace: SceneTrace, asked_share: float, carried_frames: int, delay: int, draws: random.Random, stage: SceneStage
) -> list[Mapping[SceneModel, SceneOutcome]]:
    """One pass over a trace."""
    estimator = SceneEstimator()
    collected: list[Mapping[SceneModel, SceneOutcome]] = []
    late: deque[int] = deque()
    first = draws.randrange(_STEP)
    runs = True
    for at, frame in enumerate(trace.frames):
        while late and late[0] <= at - delay:
            asked = late.popleft()
            moment = estimator.history.find(trace.frames[asked].index)
            if moment is not None:
                estimator.store(moment, trace.full[asked])
        moment = estimator.begin(frame)
        if carried_frames and draws.random() < 1.0 / carried_frames:
            runs = not runs
        if runs:
            estimator.observe(moment, trace.base[at], stage, trace.answer_score)
        if at % _STEP == first:
            collected.append(estimator.outcomes(moment, trace.full[at]))
        if draws.random() < asked_share:
            late.append(at)
    return collected
