"""The policy ``cachenet`` for detectors: the cascade itself, which a recording drives as a device's loop does."""

from __future__ import annotations

from cachenet.shared.cascade.detect.build_cascade import cascade_of
from cachenet.shared.cascade.detect.detections import Detections
from cachenet.shared.cascade.detect.scene_cascade import SceneCascade
from cachenet.shared.cascade.detect.scene_features import ScenePriors, SceneStage
from cachenet.shared.cascade.detect.scene_replay import SceneTrace, fit_scene_priors, objects_of
from cachenet.shared.cascade.detect.spec import SceneSpec
from cachenet.shared.cascade.detect.types import LocalDetector, SceneHit, SceneMiss, SceneReply, SceneStep
from cachenet.simulator.policies.scene import Device, Shown
from cachenet.simulator.traces.scene_recording import SceneRecording

#: Why a question of a device in asynchronous mode has no reply yet, and why one is not sent.
_POSTED, _BUSY = "to be answered later", "not sent: the line is busy"


class CacheNet:
    """The cascade of a detector, in asynchronous mode.

    Attributes:
        cascade: The cascade; its models are the recorded ones of the device.
    """

    def __init__(
        self, device: Device, spec: SceneSpec, stage: SceneStage = "base", answer_score: float | None = None
    ) -> None:
        """
        Args:
            stage: What the device's detector is, its base model or a submodel.
            answer_score: See ``LocalDetector``.
        """
        recording = device.recording
        seconds = float(recording.base_ms.mean()) / 1000
        detector = LocalDetector(stage, device.detect, seconds=seconds, answer_score=answer_score)
        self.cascade: SceneCascade = cascade_of(spec, detector, stage)
        self._recording, self._device = recording, device
        self._now = 0.0  # time of the present frame, seconds
        self._step: SceneStep | None = None  # of the present frame, between its lookup and its end
        self._sent = False  # whether it was asked about
        self._reply: SceneReply | None = None  # to it
        self._audits: set[int] = set()

    def asks(self, frame: int) -> bool:
        self._device.prepare(frame)
        self._now, self._sent, self._reply = frame / self._recording.fps, False, None
        self._step = self.cascade.lookup(self._recording.frames[frame], self._now)
        return isinstance(self._step, SceneMiss) or self._step.audit

    def sent(self, frame: int) -> None:
        self._sent = True
        if isinstance(self._step, SceneHit):
            self._audits.add(frame)

    def receive(self, frame: int, objects: Detections) -> None:
        reply = SceneReply(frame, objects)
        if self._step is not None and self._step.frame.index == frame:
            self._reply = reply
        else:
            self._learn(reply)

    def answer(self, frame: int) -> Shown:
        step, self._step, reply = self._step, None, self._reply
        assert step is not None
        if isinstance(step, SceneMiss):
            answer = self.cascade.complete(step, reply, self._now, _POSTED if self._sent else _BUSY)
        else:
            answer = self.cascade.complete(step, None, self._now)
            if reply is not None:
                self._learn(reply)
        self._now = (frame + 1) / self._recording.fps
        return Shown(objects_of(answer), answer.level)

    def _learn(self, reply: SceneReply) -> None:
        """Learn from the reply to an answered frame."""
        if reply.frame in self._audits:
            self._audits.remove(reply.frame)
            self.cascade.on_audit_reply(reply, self._now)
        else:
            self.cascade.on_late_reply(reply, self._now)


def priors(build: SceneRecording, delay: int) -> ScenePriors:
    """Priors of the risk models from the build frames, as a build makes them; ``delay``: frames until a reply."""
    return fit_scene_priors([SceneTrace(build.frames, build.full, build.base)], max(1, delay))
