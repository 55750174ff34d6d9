"""The agent: the hot loop, and what it takes to keep it fed."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2

from edge_agent import report
from edge_agent.cloud import Cloud, Outcome
from edge_agent.core.frame import Frame, sign
from edge_agent.core.hierarchy import Hierarchy, Tally
from edge_agent.core.types import Answer, Ask, Step
from edge_agent.deployment import Deployment
from edge_agent.keeper import Keeper
from edge_agent.scoring import View
from edge_agent.settings import Settings, region
from edge_agent.source import Shot, Source
from edge_agent.store import Store
from shared import protocol
from shared.bundle import Bundle, BundleError
from shared.engine import peak_resident_bytes
from shared.image import cut
from shared.link import Address, Link, Message
from shared.version import VERSION

if TYPE_CHECKING:
    from shared.signing import Key

log = logging.getLogger(__name__)


@dataclass
class Now:
    """What the terminal view shows; written by the hot loop, read by another thread."""

    answer: Answer | None = None
    label: str = ""
    latency_ms: float = 0.0


class Agent:
    """One device: a source of frames, a hierarchy of levels, a link to the cloud."""

    def __init__(
        self,
        settings: Settings,
        address: Address | None,
        store: Store | None,
        bundle: Bundle | None,
        trusted: Key | None = None,
    ) -> None:
        """``address`` None: no network. ``bundle`` takes the place of catalogue and store. ``trusted``: see ``Keeper``.
        Raises ``BundleError`` if ``bundle`` is not to be trusted."""
        self.settings = settings
        self.now, self.tally = Now(), Tally()
        self.latencies, self.score = report.Latencies(), report.Score()
        self.levels: dict[str, report.Latencies] = {}
        self.first_answer: float | None = None
        self.stopped = threading.Event()
        self._begun = time.monotonic()
        #: The version that answers, and what it calls its labels.
        self._version = ""
        self._labels: tuple[str, ...] = ()
        self._cloud: Cloud | None = None
        #: A frame that the full model is to judge as well, once it is answered.
        self._unsent: Frame | None = None
        self._signed = settings.context or "frames" in settings.levels
        self._region = region(settings.region) if settings.region else None
        self.link = self._connect(address, bundle is None) if address is not None else None
        self._asks = address is not None and "cloud" in settings.levels and settings.mode != "offline"
        base = settings.base if settings.local else None
        kind = settings.provider, settings.threads
        self.keeper = Keeper(store, self.link, settings.device, *kind, base, trusted, settings.slowdown)
        self._flight = report.Sink(settings.flight) if settings.flight else None
        self.deployment = Deployment(settings, self.keeper, self.tally, self._asks, self._changed, self._flight)
        if bundle is not None:
            self.keeper.use(bundle)
        elif store is not None and (known := store.recall(settings.catalogue)) is not None:
            with contextlib.suppress(BundleError):  # kept from before a key was trusted: wait for a better one
                self.keeper.announce(known, store.signature(known))

    def run(self, source: Source, sink: report.Sink) -> None:
        """Answer every frame of ``source`` until it ends or ``stopped`` is set. Raises ``DeploymentError``."""
        cv2.setNumThreads(1)  # pictures are small: its thread pool costs more than it gives
        self.keeper.start()
        if self.link is not None:
            self.link.start()
        try:
            self.await_deployment()
            for index, shot in enumerate(source):
                if self.stopped.is_set():
                    break
                self.answer(index, shot, sink)
                self._listen(sink)
                self.deployment.tend()
                if index + 1 == self.settings.frames:
                    break
        finally:
            source.close()
            self.keeper.stop()
            if self._flight is not None:
                self._flight.close()
            if self.link is not None:
                self.link.stop((protocol.topic(self.settings.device, "status"), self._status("stopped")))

    @property
    def hierarchy(self) -> Hierarchy | None:
        """What decides; None until there is something to answer with."""
        return self.deployment.hierarchy

    def stop(self) -> None:
        """End ``run``, wherever it waits; from any thread."""
        self.stopped.set()
        if self._cloud is not None:
            self._cloud.stop()

    def answer(self, index: int, shot: Shot, sink: report.Sink) -> None:
        """One frame, from picture to answer: the hot path."""
        hierarchy = self.hierarchy
        assert hierarchy is not None
        started = time.monotonic()
        picture = shot.picture if self._region is None else cut(shot.picture, self._region)
        frame = Frame(index, View(picture), sign(picture) if self._signed else None)
        step = hierarchy.look(frame, started)
        outcome = self._ask(step)
        answer = hierarchy.settle(step, outcome.reply, time.monotonic(), outcome.trouble)
        latency_ms = (time.monotonic() - started) * 1000
        if answer.audit:
            self._unsent = frame

        line = report.line(answer, self._labels, time.time(), latency_ms, shot.truth)
        sink.write(line)
        self.latencies.add(latency_ms)
        self.levels.setdefault(answer.level, report.Latencies()).add(latency_ms)
        self.score.add(line.label, shot.truth)
        self.now = Now(answer, line.label, latency_ms)
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
                sink.write(report.line(correction, self._labels, time.time(), correction=True))
        for reply in self._cloud.audited():
            self.hierarchy.audited(reply, time.monotonic())
        if self._unsent is not None:
            self._cloud.audit(self._unsent.index, self._unsent.view.crop(self._cloud.input))
            self._unsent = None

    def await_deployment(self) -> None:
        """Wait until there is something to answer with."""
        said: str | None = None
        while not self.stopped.is_set() and not self.deployment.wait(0.1):
            trouble = "it is on its way" if self.keeper.version else "no catalogue on this broker yet"
            # Why it cannot be had, keeper and link have said.
            if self.link is not None and not self.link.connected.is_set():
                trouble = "there is no connection yet"
            elif self.keeper.trouble:
                trouble = "it cannot be had yet"
            if time.monotonic() - self._begun > 2.0 and trouble != said:
                log.warning("waiting for a model: %s", trouble)
                said = trouble

    def _connect(self, address: Address, pulls: bool) -> Link:
        device = self.settings.device
        topics = [(protocol.topic(device, "answer"), 0)]
        if pulls:
            topics += [(protocol.topic(device, "blob", "+"), 0), (protocol.CATALOGUE_TOPICS, 1)]
        return Link(
            address,
            f"cachenet-{device}",
            topics,
            self._receive,
            self._announce,
            (protocol.topic(device, "status"), protocol.encode(protocol.Status("offline", VERSION))),
        )

    def _receive(self, message: Message) -> None:
        """Sort what arrives (on the link's thread)."""
        try:
            if message.topic.startswith(protocol.CATALOGUE_TOPICS[:-1]):
                if self.settings.catalogue in ("", message.topic.rsplit("/", 1)[-1]):
                    self.keeper.announce(message.payload, protocol.signature(message.properties))
                return
            _, leaf = protocol.device_of(message.topic)
            if leaf == ("answer",) and self._cloud is not None:
                self._cloud.receive(message)
            elif leaf[0] == "blob" and leaf[1] != "get":
                self.keeper.receive(message, leaf[1])
        except (protocol.Malformed, BundleError) as error:
            log.warning("message on %s ignored: %s", message.topic, error)

    def _changed(self) -> None:
        """Another version answers, or models have come or gone."""
        manifest, version = self.deployment.manifest, self.deployment.version
        if manifest is not None and version != self._version:
            self._version, self._labels = version, manifest.labels
            if self.link is not None and self._asks:
                before, self._cloud = self._cloud, Cloud(self.link, self.settings.device, manifest, time.monotonic)
                if before is not None:
                    self._cloud.bytes_up, self._cloud.bytes_down = before.bytes_up, before.bytes_down
        self._announce()

    def _announce(self) -> None:
        if self.link is not None:
            self.link.publish(protocol.topic(self.settings.device, "status"), self._status("online"), 1, retain=True)

    def _status(self, state: Any) -> bytes:
        return protocol.encode(protocol.Status(state, VERSION, self.deployment.version, self.deployment.submodels))

    @property
    def traffic(self) -> tuple[int, int]:
        """Payload bytes to and from the broker."""
        cloud = self._cloud
        up, down = (cloud.bytes_up, cloud.bytes_down) if cloud is not None else (0, 0)
        return up, down + self.keeper.bytes_down

    def summary(self, source: Source) -> dict[str, Any]:
        """The run in figures, as ``--json`` and ``--summary`` give them."""
        up, down = self.traffic
        manifest = self.deployment.manifest
        return {
            "frames": self.tally.frames,
            "hits": dict(self.tally.hits),
            "full": self.tally.full,
            "cloud": self.tally.cloud,
            "fallbacks": self.tally.fallbacks,
            "late": self.tally.late,
            "corrections": self.tally.corrections,
            "dropped": source.dropped,
            "broken": source.broken,
            "latency_ms": self.latencies.table(),
            "latency_ms_by_level": {level: own.table() for level, own in self.levels.items()},
            "accuracy": self.score.accuracy,
            "bytes_up": up,
            "bytes_down": down,
            "models_pulled": self.deployment.pulled,
            "models_evicted": dict(self.deployment.evicted),
            "entries_contradicted": self.hierarchy.contradictions if self.hierarchy is not None else 0,
            "resident_bytes_peak": peak_resident_bytes(),
            "first_answer_s": self.first_answer,
            "audits": report.audits(self.hierarchy),
            "bundle": manifest.name if manifest is not None else None,
            "bundle_version": self._version,
            "version": VERSION,
        }
