"""One camera, or one zone of it: the way of a frame to its answer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from cachenet.edge_agent.explain.record import FrameRecord
from cachenet.edge_agent.learner_file import LearnerFile
from cachenet.edge_agent.outbox.outbox import Outbox
from cachenet.edge_agent.outputs import report
from cachenet.edge_agent.outputs.recorder import Recorder
from cachenet.edge_agent.pipeline import DeviceCascade, Pipeline
from cachenet.edge_agent.remote import CloudClient, Outcome
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.sources import Live, Pipe, Source, SourceFrame
from cachenet.edge_agent.updates.active_bundle import ActiveBundle
from cachenet.edge_agent.updates.loader import ModelLoader
from cachenet.shared.cascade.detect.types import SceneFrame, SceneMiss
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.tally import Tally
from cachenet.shared.cascade.types import Miss
from cachenet.shared.inference.image import Picture, cut, parse_region
from cachenet.shared.transport.mqtt import Link, Message

log = logging.getLogger(__name__)

#: Longest time that a file waits for its models, seconds.
MODELS_WAIT_S = 120.0
#: Longest time that a file waits for the first attempt to connect, seconds.
LINK_WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class AnsweredFrame:
    """An answered frame.

    Attributes:
        picture: The whole frame, (height, width, 3) uint8 BGR, whatever the region. Read-only.
        line: Label, level, confidence, risk and latency as the user sees them, and the names of camera and zone.
        time: Time of the frame in its file, seconds; None for live sources and files without times.
        lines: The answers of all zones to this frame, or the only answer; empty before the last zone is answered.
        record: What is known of the decision; None where decisions are not explained.
    """

    picture: Picture
    answer: report.AnyAnswer
    line: report.AnswerLine
    time: float | None = None
    lines: tuple[report.AnswerLine, ...] = ()
    record: FrameRecord | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """The turn of one zone in a frame that is answered for several zones.

    Attributes:
        deadline: Latest time of an answer of the server, on the monotonic clock, seconds; None: as the cascade says.
        lines: Answers of the zones before it.
        last: Whether no zone comes after it.
    """

    deadline: float | None = None
    lines: tuple[report.AnswerLine, ...] = ()
    last: bool = True


#: The turn of a frame with one answer.
_ONLY_TURN = Turn()


#: Called with every answered frame, on the camera's thread. The hot loop waits for the call.
Observer = Callable[[AnsweredFrame], None]


class Camera:
    """A source of frames and the cascade that answers them: the whole picture, a region or one zone."""

    def __init__(
        self,
        settings: Settings,
        source: Source,
        link: Link | None,
        loader: ModelLoader,
        observers: list[Observer],
        on_models_changed: Callable[[], None],
        cameras: int = 1,
        learner: LearnerFile | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        """
        Args:
            settings: Settings of this camera, or of one zone of it (``Settings.each_zone``).
            link: Connection to the broker, shared by all cameras; None: no network.
            loader: Model loader, shared by all cameras.
            on_models_changed: Called after a change of version or models.
            cameras: Number of cameras and zones that answer; see ``ActiveBundle``.
            learner: File of the learner state; see ``ActiveBundle``.
            outbox: Stores frames while there is no server, shared by all cameras; None: they are lost.

        Raises:
            OSError: The decision log cannot be opened.
        """
        self.settings, self.source = settings, source
        self.name, self.zone, self.title = settings.name, settings.zone_name, settings.title
        self.tally = Tally()
        self.latencies, self.accuracy = report.LatencyHistogram(), report.AccuracyCounter()
        self.objects = report.ObjectCounter()
        self.levels: dict[str, report.LatencyHistogram] = {}
        #: The last answered frame. Written by the hot loop, read by other threads.
        self.last_answered: AnsweredFrame | None = None
        #: Seconds from the start to the first answer; None before it.
        self.first_answer_s: float | None = None
        #: Index of the frame that is being decided; None between two frames.
        self.deciding: int | None = None
        #: Frames without an answer because of an unexpected exception.
        self.errors = 0
        #: Hits that were sent to be audited, over all versions.
        self.audited = 0
        #: Version of the active bundle.
        self.version = ""
        self._started = time.monotonic()
        self._link, self.loader, self._observers, self._outbox = link, loader, observers, outbox
        self._on_models_changed = on_models_changed
        self._stopped = threading.Event()
        self._cloud: CloudClient | None = None
        #: A hit to be audited by the full model after the frame is answered.
        self._pending_audit: Frame | SceneFrame | None = None
        self._region = parse_region(settings.region) if settings.region else None
        self._view = report.View(self.name, self.zone, self._region, () if self.zone else settings.zone)
        #: Whether misses may be sent to a server.
        self.uses_cloud = link is not None and "cloud" in settings.levels and settings.mode != "offline"
        self._learner = learner
        self._decision_log = (
            report.JsonLinesWriter(settings.decision_log, what="decisions") if settings.decision_log else None
        )
        self.active_bundle = ActiveBundle(
            settings,
            loader,
            self.tally,
            self.uses_cloud,
            self._on_bundle_changed,
            self._decision_log,
            cameras,
            lambda: sum(self.traffic),
            learner,
        )

    @property
    def cascade(self) -> DeviceCascade | None:
        """The cascade; None until the first model is loaded."""
        return self.active_bundle.cascade

    @property
    def live(self) -> bool:
        """Whether the source drops frames that are not read in time."""
        source = self.source.source if isinstance(self.source, Recorder) else self.source
        return isinstance(source, Live | Pipe)

    def step(self, index: int, shot: SourceFrame, sink: report.JsonLinesWriter, turn: Turn = _ONLY_TURN) -> None:
        """Answer one frame, then handle late answers, audits and newly loaded models."""
        self._handle_replies(sink)  # what came while the source was waiting for this frame is of use for it
        self.answer(index, shot, sink, turn)
        self._handle_replies(sink)
        self.active_bundle.maintain()
        if self._learner is not None and self.cascade is not None:
            self._learner.save(self.cascade.estimator, self.active_bundle.risk_version)

    def close(self) -> None:
        """Close the decision log and the file of learned weights."""
        if self._decision_log is not None:
            self._decision_log.close()
        if self._learner is not None:
            estimator = self.cascade.estimator if self.cascade is not None else None
            self._learner.close(estimator, self.active_bundle.risk_version)

    def wait_for_bundle(self, on_waiting: Callable[[], None] = lambda: None) -> None:
        """Wait until the cascade exists, or ``stop`` is called."""
        while not self._stopped.is_set() and not self.active_bundle.wait(0.1):
            on_waiting()

    def wait_for_models(self) -> None:
        """Wait for all available models and for the first attempt to connect: a file loses no frames meanwhile."""
        end = time.monotonic() + MODELS_WAIT_S
        if self._link is not None and self.uses_cloud:
            self._link.settle(LINK_WAIT_S)
        while not self._stopped.is_set() and time.monotonic() < end and not self.active_bundle.is_complete():
            self._stopped.wait(0.02)

    def stop(self) -> None:
        """End ``run``; thread-safe."""
        self._stopped.set()
        if self._cloud is not None:
            self._cloud.stop()
        self.source.close()

    def receive(self, message: Message) -> None:
        """Receive a message of the device's ``answer`` topic, on the connection's thread. Raises
        ``protocol.Malformed``."""
        if self._cloud is not None:
            self._cloud.receive(message)

    def answer(self, index: int, shot: SourceFrame, sink: report.JsonLinesWriter, turn: Turn = _ONLY_TURN) -> None:
        """Answer one frame: the hot path."""
        cascade, manifest, pipeline = self.cascade, self.active_bundle.manifest, self.active_bundle.pipeline
        assert cascade is not None and manifest is not None and pipeline is not None
        started = time.monotonic()
        picture = shot.picture if self._region is None else cut(shot.picture, self._region)
        self.deciding = index
        frame = pipeline.frame(index, picture)
        step = self._lookup(cascade, pipeline, frame, started)
        if isinstance(step, Miss) and turn.deadline is not None:
            step = msgspec.structs.replace(step, deadline=min(step.deadline, turn.deadline))
        outcome = self._resolve(cascade, pipeline, step)
        answer = cascade.complete(step, outcome.reply, time.monotonic(), outcome.error)
        self.deciding = None
        self.loader.on_answer(self.version)
        latency_ms = (time.monotonic() - started) * 1000
        if answer.audit:
            self._pending_audit = frame

        line = report.line(answer, manifest, time.time(), latency_ms, shot.truth, view=self._view)
        sink.write(line)
        self.latencies.add(latency_ms)
        self.levels.setdefault(answer.level, report.LatencyHistogram()).add(latency_ms)
        if line.counts is None:
            self.accuracy.add(line.label, shot.truth)
        else:
            self.objects.add(line.counts)
        record = None
        if cascade.explains:
            labels, seconds = tuple(manifest.labels), latency_ms / 1000
            record = FrameRecord(answer, cascade.decision, labels, self.settings, self.uses_cloud, seconds)
        self.last_answered = answered = AnsweredFrame(
            shot.picture, answer, line, shot.time, (*turn.lines, line) if turn.last else (), record
        )
        for observe in self._observers:
            observe(answered)
        if self.first_answer_s is None:
            self.first_answer_s = time.monotonic() - self._started

    def _lookup(self, cascade: DeviceCascade, pipeline: Pipeline, frame: Any, now: float) -> Any:
        """Look the frame up, and log what the user must know. Frames and steps are of the types of the task."""
        before = self.tally.scene_changes
        step = cascade.lookup(frame, now)
        if self.tally.scene_changes > before:
            audits = f"; {cascade.audits.rate:.0%} of hits are audited for a while" if cascade.audits else ""
            log.warning(
                "%sthe whole picture has changed (the light, or the camera was moved): cached answers are dropped, "
                "and risks are learned again from the bundle's priors%s",
                self._prefix,
                audits,
            )
        if warning := pipeline.warning(cascade):
            log.warning("%s%s", self._prefix, warning)
        return step

    def _resolve(self, cascade: DeviceCascade, pipeline: Pipeline, step: Any) -> Outcome:
        """Run the full model for a miss: on the device or in the cloud."""
        if not isinstance(step, Miss | SceneMiss):
            return Outcome(None)
        cloud = self._cloud
        if step.on_device and (reply := pipeline.run_full(cascade, step)) is not None:
            return Outcome(reply)
        if cloud is None:
            outcome = Outcome(None, "no cloud")
        elif pipeline.mode == "async":
            return cloud.post(step, lambda: pipeline.question(step.frame, cloud.input))
        elif self.zone and time.monotonic() >= step.deadline:  # other zones have used the time of the frame
            outcome = Outcome(None, "no time left in this frame")
        else:
            outcome = cloud.ask(step, lambda: pipeline.question(step.frame, cloud.input))
        if outcome.reply is None and (reply := pipeline.run_full(cascade, step)) is not None:
            return Outcome(reply)
        return outcome

    def _handle_replies(self, sink: report.JsonLinesWriter) -> None:
        """Between two frames: process late and audit replies, and send the pending audit."""
        cascade, manifest, pipeline = self.cascade, self.active_bundle.manifest, self.active_bundle.pipeline
        if self._cloud is None or cascade is None or manifest is None or pipeline is None:
            return
        for reply in self._cloud.late():
            if (correction := cascade.on_late_reply(reply, time.monotonic())) is not None:
                sink.write(report.line(correction, manifest, time.time(), correction=True, view=self._view))
        for reply in self._cloud.audited():
            self._on_audit_reply(cascade, pipeline, reply)
        if self._pending_audit is not None:
            frame = self._pending_audit
            sent = self._cloud.audit(frame.index, pipeline.question(frame, self._cloud.input))
            self.audited += sent
            if not sent and cascade.audits is not None:
                cascade.audits.sent -= 1
            self._pending_audit = None

    def _on_audit_reply(self, cascade: DeviceCascade, pipeline: Pipeline, reply: Any) -> None:
        """Process the full model's answer to an audited hit, and log an alarm."""
        audits = cascade.audits
        before = audits.alarms if audits is not None else 0
        cascade.on_audit_reply(reply, time.monotonic())
        if audits is not None and audits.alarms > before:
            log.warning(
                "%shits disagree with the full model clearly more often than %s %g allows (%.3g of %d audited): the "
                "budget for hits is multiplied by %g, and %.0f%% of hits are audited for a while",
                self._prefix,
                pipeline.budget_flag,
                pipeline.budget,
                audits.wrong,
                audits.judged,
                audits.scale,
                100 * audits.rate,
            )

    @property
    def _prefix(self) -> str:
        """Start of a log line: the name of one of several cameras or zones."""
        return f"{self.title}: " * bool(self.title)

    def _on_bundle_changed(self) -> None:
        """Connect to the full model of a new version, and report the change."""
        manifest, version = self.active_bundle.manifest, self.active_bundle.version
        if manifest is not None and version != self.version:
            self.version = version
            if self._link is not None and self.uses_cloud:
                before, self._cloud = (
                    self._cloud,
                    CloudClient(self._link, self.settings.device, manifest, time.monotonic, self._outbox, self.title),
                )
                if before is not None:
                    self._cloud.bytes_up, self._cloud.bytes_down = before.bytes_up, before.bytes_down
        self._on_models_changed()

    @property
    def is_asking(self) -> bool:
        """Whether the answer of the server to a question is awaited."""
        return self._cloud is not None and self._cloud.is_asking

    @property
    def decision_log_failure(self) -> str:
        """Why the decision log is incomplete; empty if it is complete."""
        return self._decision_log.failure if self._decision_log is not None else ""

    @property
    def traffic(self) -> tuple[int, int]:
        """Payload bytes of requests and of replies."""
        cloud = self._cloud
        return (cloud.bytes_up, cloud.bytes_down) if cloud is not None else (0, 0)

    def summary(self) -> dict[str, Any]:
        """Summary of the camera's run, as ``--json`` prints it."""
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
            "accuracy": self.accuracy.value,
            **({"objects": self.objects.table()} if manifest is not None and manifest.task == "detection" else {}),
            "models_pulled": self.active_bundle.downloaded,
            "models_evicted": dict(self.active_bundle.evicted),
            "first_answer_s": self.first_answer_s,
            "errors": self.errors,
            "model_failures": dict(self.active_bundle.failures),
            "audits": report.audits(self.cascade),
            "bundle": manifest.name if manifest is not None else None,
            "bundle_version": self.version,
        }
