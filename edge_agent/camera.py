"""A camera: the hot loop, from picture to answer. A device may have several, each in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edge_agent import report
from edge_agent.cloud import Cloud, Outcome
from edge_agent.composition import DeploymentError
from edge_agent.core.hierarchy import Hierarchy, Tally
from edge_agent.core.types import Answer, Ask, Step
from edge_agent.deployment import Deployment
from edge_agent.keeper import Keeper
from edge_agent.recorder import Recorder
from edge_agent.scoring import View
from edge_agent.settings import Settings, region
from edge_agent.source import Live, Pipe, Shot, Source
from shared.cascade.frame import Frame
from shared.image import Picture, cut
from shared.link import Link, Message
from shared.signature import sign

log = logging.getLogger(__name__)

#: Frames in a row that may end in an error before the camera is given up.
MOST_ERRORS = 100
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
    """A source of frames and the hierarchy that answers them. Link and keeper are the device's, and serve all of its
    cameras."""

    def __init__(
        self,
        settings: Settings,
        source: Source,
        link: Link | None,
        keeper: Keeper,
        observers: list[Observer],
        changed: Callable[[], None],
        cameras: int = 1,
    ) -> None:
        """``settings``: this camera's own. ``changed`` is called when another version answers, or models have come or
        gone; ``cameras``: see ``Deployment``. Raises ``OSError`` if the flight log cannot be opened."""
        self.settings, self.source = settings, source
        self.name = settings.name
        self.tally = Tally()
        self.latencies, self.score = report.Latencies(), report.Score()
        self.levels: dict[str, report.Latencies] = {}
        #: The last frame that was answered; written by the hot loop, read by other threads.
        self.now: Answered | None = None
        self.first_answer: float | None = None
        #: The frame that is being decided; None between two frames.
        self.deciding: int | None = None
        #: How many frames could not be answered because of an error that nobody had thought of.
        self.errors = 0
        #: The version that answers, and what it calls its labels.
        self.version = ""
        self._labels: tuple[str, ...] = ()
        self._begun = time.monotonic()
        self._link, self.keeper, self._observers, self._tell = link, keeper, observers, changed
        self._stopped = threading.Event()
        self._cloud: Cloud | None = None
        #: A frame that the full model is to judge as well, once it is answered.
        self._unsent: Frame | None = None
        self._signed = settings.context or "frames" in settings.levels
        self._region = region(settings.region) if settings.region else None
        self._asks = link is not None and "cloud" in settings.levels and settings.mode != "offline"
        self._flight = report.Sink(settings.flight, what="decisions") if settings.flight else None
        self.deployment = Deployment(
            settings, keeper, self.tally, self._asks, self._changed, self._flight, cameras, lambda: sum(self.traffic)
        )

    @property
    def hierarchy(self) -> Hierarchy | None:
        """What decides; None until there is something to answer with."""
        return self.deployment.hierarchy

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
            self.await_deployment(waiting)
            if not self.live:
                self._await_models()
            for index, shot in enumerate(self.source):
                if self._stopped.is_set():
                    break
                try:
                    self.answer(index, shot, sink)
                    self._listen(sink)
                    self.deployment.tend()
                    failed = 0
                except DeploymentError:
                    raise
                except Exception:
                    self.deciding = None
                    self.errors += 1
                    failed += 1
                    log.exception("%sframe %d could not be answered", f"{self.name}: " * bool(self.name), index)
                    if failed == MOST_ERRORS:
                        raise
                if index + 1 == self.settings.frames:
                    break
        finally:
            self.source.close()
            if self._flight is not None:
                self._flight.close()

    def await_deployment(self, waiting: Callable[[], None] = lambda: None) -> None:
        """Wait until there is something to answer with."""
        while not self._stopped.is_set() and not self.deployment.wait(0.1):
            waiting()

    def _await_models(self) -> None:
        """Wait until the models that may be used are here, and the first attempt to connect has ended. A file does not
        go by meanwhile as a camera's frames do."""
        end = time.monotonic() + MODELS_WAIT_S
        if self._link is not None and self._asks:
            self._link.settle(LINK_WAIT_S)
        while not self._stopped.is_set() and time.monotonic() < end and not self.deployment.complete():
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
        hierarchy = self.hierarchy
        assert hierarchy is not None
        started = time.monotonic()
        picture = shot.picture if self._region is None else cut(shot.picture, self._region)
        frame = Frame(index, View(picture), sign(picture) if self._signed else None)
        self.deciding = index
        step = hierarchy.look(frame, started)
        outcome = self._ask(step)
        answer = hierarchy.settle(step, outcome.reply, time.monotonic(), outcome.trouble)
        self.deciding = None
        self.keeper.on_answer(self.version)
        latency_ms = (time.monotonic() - started) * 1000
        if answer.audit:
            self._unsent = frame

        line = report.line(answer, self._labels, time.time(), latency_ms, shot.truth, camera=self.name)
        sink.write(line)
        self.latencies.add(latency_ms)
        self.levels.setdefault(answer.level, report.Latencies()).add(latency_ms)
        self.score.add(line.label, shot.truth)
        self.now = answered = Answered(shot.picture, answer, line, shot.time)
        for observe in self._observers:
            observe(answered)
        if self.first_answer is None:
            self.first_answer = time.monotonic() - self._begun

    def _ask(self, step: Step) -> Outcome:
        if not isinstance(step, Ask):
            return Outcome(None)
        hierarchy, cloud = self.hierarchy, self._cloud
        assert hierarchy is not None
        if step.here and (reply := hierarchy.here(step, time.monotonic())) is not None:
            return Outcome(reply)
        if cloud is None:
            outcome = Outcome(None, "no cloud")
        elif self.settings.mode == "async":
            return cloud.post(step, lambda: step.frame.view.crop(cloud.input))
        else:
            outcome = cloud.ask(step, lambda: step.frame.view.crop(cloud.input))
        if outcome.reply is None and (reply := hierarchy.here(step, time.monotonic())) is not None:
            return Outcome(reply)
        return outcome

    def _listen(self, sink: report.Sink) -> None:
        """Between two frames: what the cloud has said since, and what it is to judge."""
        if self._cloud is None:
            return
        assert self.hierarchy is not None
        for reply in self._cloud.late():
            if (correction := self.hierarchy.late(reply, time.monotonic())) is not None:
                sink.write(report.line(correction, self._labels, time.time(), correction=True, camera=self.name))
        for reply in self._cloud.audited():
            self.hierarchy.audited(reply, time.monotonic())
        if self._unsent is not None:
            sent = self._cloud.audit(self._unsent.index, self._unsent.view.crop(self._cloud.input))
            if not sent and self.hierarchy.audits is not None:
                self.hierarchy.audits.sent -= 1
            self._unsent = None

    def _changed(self) -> None:
        """Another version answers, or models have come or gone."""
        manifest, version = self.deployment.manifest, self.deployment.version
        if manifest is not None and version != self.version:
            self.version, self._labels = version, manifest.labels
            if self._link is not None and self._asks:
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
        manifest = self.deployment.manifest
        return {
            "frames": self.tally.frames,
            "hits": dict(self.tally.hits),
            "full": self.tally.full,
            "cloud": self.tally.cloud,
            "fallbacks": self.tally.fallbacks,
            "late": self.tally.late,
            "corrections": self.tally.corrections,
            "dropped": self.source.dropped,
            "broken": self.source.broken,
            "losses": self.source.losses,
            "latency_ms": self.latencies.table(),
            "latency_ms_by_level": {level: own.table() for level, own in self.levels.items()},
            "accuracy": self.score.accuracy,
            "models_pulled": self.deployment.pulled,
            "models_evicted": dict(self.deployment.evicted),
            "entries_contradicted": self.hierarchy.contradictions if self.hierarchy is not None else 0,
            "first_answer_s": self.first_answer,
            "errors": self.errors,
            "model_failures": dict(self.deployment.failures),
            "audits": report.audits(self.hierarchy),
            "bundle": manifest.name if manifest is not None else None,
            "bundle_version": self.version,
        }
