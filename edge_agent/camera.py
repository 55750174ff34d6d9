"""A camera: the hot loop, from picture to answer. A device may have several, each in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cachenet.edge_agent.composition import DeploymentError
from cachenet.edge_agent.frame_inputs import FrameInputs
from cachenet.edge_agent.learner_file import LearnerFile
from cachenet.edge_agent.outputs import report
from cachenet.edge_agent.outputs.recorder import Recorder
from cachenet.edge_agent.remote import Cloud, Outcome
from cachenet.edge_agent.settings import Settings, region
from cachenet.edge_agent.sources import Live, Pipe, Shot, Source
from cachenet.edge_agent.updates.active_bundle import ActiveBundle
from cachenet.edge_agent.updates.loader import ModelLoader
from cachenet.shared.cascade.cascade import Cascade, Tally
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.types import Answer, Miss, Reply, Step
from cachenet.shared.inference.image import Picture, cut
from cachenet.shared.media.signature import sign
from cachenet.shared.transport.mqtt import Message, MqttConnection

log = logging.getLogger(__name__)

#: Frames in a row that may end in an error before the camera is given up.
MAX_CONSECUTIVE_ERRORS = 100
#: Seconds that a file waits for its models, and for the first attempt to connect.
MODELS_WAIT_S, LINK_WAIT_S = 120.0, 2.0


@dataclass(frozen=True, slots=True)
class Answered:
    """One frame, as it was answered. ``picture``: the whole of it, BGR, whatever the region; not to be written to.
    ``line`` is what the user is told: label, level, confidence, risk, latency, and the camera's name. ``time``: of the
    frame in its file, in seconds; None where the file says none, and of what is live."""

    picture: Picture
    answer: Answer
    line: report.Line
    time: float | None = None


#: Is told of every frame, on the thread of its camera, which waits for it: take what you need, and return.
Observer = Callable[[Answered], None]


class Camera:
    """A source of frames and the cascade that answers them. Link and keeper are the device's, and serve all of its
    cameras."""

    def __init__(
        self,
        settings: Settings,
        source: Source,
        link: MqttConnection | None,
        loader: ModelLoader,
        observers: list[Observer],
        changed: Callable[[], None],
        cameras: int = 1,
        learner: LearnerFile | None = None,
    ) -> None:
        """``settings``: this camera's own. ``changed`` is called when another version answers, or models have come or
        gone; ``cameras`` and ``learner``: see ``ActiveBundle``.
        Raises ``OSError`` if the flight log cannot be opened."""
        self.settings, self.source = settings, source
        self.name = settings.name
        self.tally = Tally()
        self.latencies, self.score = report.Latencies(), report.AccuracyCounter()
        self.levels: dict[str, report.Latencies] = {}
        #: The last frame that was answered; written by the hot loop, read by other threads.
        self.now: Answered | None = None
        self.first_answer: float | None = None
        #: The frame that is being decided; None between two frames.
        self.deciding: int | None = None
        #: How many frames could not be answered because of an error that nobody had thought of.
        self.errors = 0
        #: Hits that were sent to be audited, of any version.
        self.audited = 0
        #: The version that answers.
        self.version = ""
        self._begun = time.monotonic()
        self._link, self.loader, self._observers, self._tell = link, loader, observers, changed
        self._stopped = threading.Event()
        self._cloud: Cloud | None = None
        #: A frame that the full model is to judge as well, once it is answered.
        self._unsent: Frame | None = None
        self._region = region(settings.region) if settings.region else None
        #: Whether there is a server that may be asked.
        self.asks = link is not None and "cloud" in settings.levels and settings.mode != "offline"
        self._learner = learner
        self._flight = report.Sink(settings.flight, what="decisions") if settings.flight else None
        self.active_bundle = ActiveBundle(
            settings,
            loader,
            self.tally,
            self.asks,
            self._changed,
            self._flight,
            cameras,
            lambda: sum(self.traffic),
            learner,
        )

    @property
    def cascade(self) -> Cascade | None:
        """What decides; None until there is something to answer with."""
        return self.active_bundle.cascade

    @property
    def live(self) -> bool:
        """Whether frames go by while nobody takes them."""
        source = self.source.source if isinstance(self.source, Recorder) else self.source
        return isinstance(source, Live | Pipe)

    def run(self, sink: report.Sink, waiting: Callable[[], None]) -> None:
        """Answer every frame of the source until it ends or ``stop`` is called. ``waiting`` is called now and then as
        long as there is nothing to answer with. A source that is not live waits for all models that may be used. Raises
        ``DeploymentError``."""
        try:
            failed = 0
            self.wait_for_bundle(waiting)
            if not self.live:
                self._await_models()
            for index, shot in enumerate(self.source):
                if self._stopped.is_set():
                    break
                try:
                    self.answer(index, shot, sink)
                    self._listen(sink)
                    self.active_bundle.maintain()
                    self._keep_learned()
                    failed = 0
                except DeploymentError:
                    raise
                except Exception:
                    self.deciding = None
                    self.errors += 1
                    failed += 1
                    log.exception("%sframe %d could not be answered", self._prefix, index)
                    if failed == MAX_CONSECUTIVE_ERRORS:
                        raise
                if index + 1 == self.settings.frames:
                    break
        finally:
            self.source.close()
            if self._flight is not None:
                self._flight.close()
            if self._learner is not None:
                self._learner.close(self.cascade.estimator if self.cascade is not None else None, self.version)

    def wait_for_bundle(self, waiting: Callable[[], None] = lambda: None) -> None:
        """Wait until there is something to answer with."""
        while not self._stopped.is_set() and not self.active_bundle.wait(0.1):
            waiting()

    def _await_models(self) -> None:
        """Wait until the models that may be used are here, and the first attempt to connect has ended. A file does not
        go by meanwhile as a camera's frames do."""
        end = time.monotonic() + MODELS_WAIT_S
        if self._link is not None and self.asks:
            self._link.settle(LINK_WAIT_S)
        while not self._stopped.is_set() and time.monotonic() < end and not self.active_bundle.complete():
            self._stopped.wait(0.02)

    def stop(self) -> None:
        """End ``run``, wherever it waits; from any thread."""
        self._stopped.set()
        if self._cloud is not None:
            self._cloud.stop()
        self.source.close()

    def receive(self, message: Message) -> None:
        """Take a message from the device's ``answer`` topic, which may be another camera's (on the link's thread).
        Raises ``protocol.Malformed``."""
        if self._cloud is not None:
            self._cloud.receive(message)

    def answer(self, index: int, shot: Shot, sink: report.Sink) -> None:
        """One frame, from picture to answer: the hot path."""
        cascade, manifest = self.cascade, self.active_bundle.manifest
        assert cascade is not None and manifest is not None
        started = time.monotonic()
        picture = shot.picture if self._region is None else cut(shot.picture, self._region)
        frame = Frame(index, FrameInputs(picture), sign(picture))
        self.deciding = index
        step = self._lookup(cascade, frame, started)
        outcome = self._ask(cascade, step)
        answer = cascade.complete(step, outcome.reply, time.monotonic(), outcome.error)
        self.deciding = None
        self.loader.on_answer(self.version)
        latency_ms = (time.monotonic() - started) * 1000
        if answer.audit:
            self._unsent = frame

        line = report.line(answer, manifest, time.time(), latency_ms, shot.truth, camera=self.name)
        sink.write(line)
        self.latencies.add(latency_ms)
        self.levels.setdefault(answer.level, report.Latencies()).add(latency_ms)
        self.score.add(line.label, shot.truth)
        self.now = answered = Answered(shot.picture, answer, line, shot.time)
        for observe in self._observers:
            observe(answered)
        if self.first_answer is None:
            self.first_answer = time.monotonic() - self._begun

    def _lookup(self, cascade: Cascade, frame: Frame, now: float) -> Step:
        """Look the frame up; a change of the whole scene is logged."""
        before = self.tally.scene_changes
        step = cascade.lookup(frame, now)
        if self.tally.scene_changes > before:
            audited = f"; {cascade.audits.rate:.0%} of hits are audited for a while" if cascade.audits else ""
            log.warning(
                "%sthe whole picture has changed (the light, or the camera was moved): answers held until now are "
                "dropped, and risks are learned again from the bundle's priors%s",
                self._prefix,
                audited,
            )
        return step

    def _ask(self, cascade: Cascade, step: Step) -> Outcome:
        if not isinstance(step, Miss):
            return Outcome(None)
        cloud = self._cloud
        if step.on_device and (reply := _on_device(cascade, step)) is not None:
            return Outcome(reply)
        if cloud is None:
            outcome = Outcome(None, "no cloud")
        elif self.settings.mode == "async":
            return cloud.post(step, lambda: step.frame.view.crop(cloud.input))
        else:
            outcome = cloud.ask(step, lambda: step.frame.view.crop(cloud.input))
        if outcome.reply is None and (reply := _on_device(cascade, step)) is not None:
            return Outcome(reply)
        return outcome

    def _listen(self, sink: report.Sink) -> None:
        """Between two frames: what the cloud has said since, and what it is to judge."""
        cascade, manifest = self.cascade, self.active_bundle.manifest
        if self._cloud is None or cascade is None or manifest is None:
            return
        for reply in self._cloud.late():
            if (correction := cascade.on_late_reply(reply, time.monotonic())) is not None:
                sink.write(report.line(correction, manifest, time.time(), correction=True, camera=self.name))
        for reply in self._cloud.audited():
            self._take_audit(cascade, reply)
        if self._unsent is not None:
            sent = self._cloud.audit(self._unsent.index, self._unsent.view.crop(self._cloud.input))
            self.audited += sent
            if not sent and cascade.audits is not None:
                cascade.audits.sent -= 1
            self._unsent = None

    def _take_audit(self, cascade: Cascade, reply: Reply) -> None:
        """The full model has judged a hit; an alarm is logged."""
        audits = cascade.audits
        before = audits.alarms if audits is not None else 0
        cascade.on_audit_reply(reply, time.monotonic())
        if audits is not None and audits.alarms > before:
            log.warning(
                "%shits disagree with the full model clearly more often than --max-disagreement %g allows (%d of %d "
                "audited): the budget for hits is multiplied by %g, and %.0f %% of hits are audited for a while",
                self._prefix,
                self.settings.max_disagreement,
                audits.wrong,
                audits.judged,
                audits.scale,
                100 * audits.rate,
            )

    def _keep_learned(self) -> None:
        if self._learner is not None and self.cascade is not None:
            self._learner.save(self.cascade.estimator, self.version)

    @property
    def _prefix(self) -> str:
        """Begins a line of the log: the name of one of several cameras."""
        return f"{self.name}: " * bool(self.name)

    def _changed(self) -> None:
        """Another version answers, or models have come or gone."""
        manifest, version = self.active_bundle.manifest, self.active_bundle.version
        if manifest is not None and version != self.version:
            self.version = version
            if self._link is not None and self.asks:
                before, self._cloud = self._cloud, Cloud(self._link, self.settings.device, manifest, time.monotonic)
                if before is not None:
                    self._cloud.bytes_up, self._cloud.bytes_down = before.bytes_up, before.bytes_down
        self._tell()

    @property
    def flight_failure(self) -> str:
        """What was not written to the flight log, and why; empty where all was."""
        return self._flight.failure if self._flight is not None else ""

    @property
    def traffic(self) -> tuple[int, int]:
        """Payload bytes of questions and of their answers."""
        cloud = self._cloud
        return (cloud.bytes_up, cloud.bytes_down) if cloud is not None else (0, 0)

    def summary(self) -> dict[str, Any]:
        """The run in figures."""
        manifest = self.active_bundle.manifest
        return {
            "frames": self.tally.frames,
            "hits": dict(self.tally.hits),
            "full": self.tally.full,
            "cloud": self.tally.cloud,
            "fallbacks": self.tally.fallbacks,
            "late": self.tally.late,
            "corrections": self.tally.corrections,
            **report.counters(self.tally, self.audited),
            "dropped": self.source.dropped,
            "broken": self.source.broken,
            "losses": self.source.losses,
            "latency_ms": self.latencies.table(),
            "latency_ms_by_level": {level: own.table() for level, own in self.levels.items()},
            "accuracy": self.score.accuracy,
            "models_pulled": self.active_bundle.downloaded,
            "models_evicted": dict(self.active_bundle.evicted),
            "first_answer_s": self.first_answer,
            "errors": self.errors,
            "model_failures": dict(self.active_bundle.failures),
            "audits": report.audits(self.cascade),
            "bundle": manifest.name if manifest is not None else None,
            "bundle_version": self.version,
        }


def _on_device(cascade: Cascade, miss: Miss) -> Reply | None:
    """The full model's answer on the device; None where there is none, or its run has failed (see ``scoring``)."""
    reply = cascade.on_device(miss, time.monotonic())
    return reply if reply is not None and np.ptp(reply.logits) > 0 else None
