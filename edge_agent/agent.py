"""The agent: the hot loop, and what it takes to keep it fed."""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
import time
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from edge_agent import report
from edge_agent.cloud import Cloud, Outcome
from edge_agent.core.audits import Audits
from edge_agent.core.frame import Frame, sign
from edge_agent.core.frames import FrameCache
from edge_agent.core.hierarchy import Hierarchy, Rules, Tally
from edge_agent.core.submodels import Base, LocalModel, Submodels
from edge_agent.core.types import Answer, Ask, Score, Step
from edge_agent.keeper import Keeper, Loaded
from edge_agent.settings import Settings, region, size
from edge_agent.source import Shot, Source
from edge_agent.store import Store
from shared import protocol
from shared.bundle import Bundle, BundleError, Manifest
from shared.context import FORGETFUL, Context, Memoryless
from shared.engine import EngineError, Logits, Session, peak_resident_bytes, release_memory, resident_bytes
from shared.image import Input, Picture, crop, cut, preprocessor
from shared.link import Address, Link, Message
from shared.version import VERSION

log = logging.getLogger(__name__)

#: Without ``--memory-budget`` the submodels may cost this much together.
_ROOM = 256 << 20
#: A loaded model's resident size, as a multiple of its float16 file, until one has been measured.
_GROWTH = 4
#: Frames between two looks at the resident set.
_CHECK_EVERY = 64


class AgentError(Exception):
    """The agent cannot go on; the message says what to do."""


class View:
    """A frame's picture as the models see it: cropped and scaled once, however many look."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._crops: dict[Input, Picture] = {}

    def crop(self, spec: Input) -> Picture:
        if (cropped := self._crops.get(spec)) is None:
            cropped = self._crops[spec] = crop(self._picture, spec)
        return cropped


def scorer(name: str, session: Session, spec: Input, classes: int) -> Score:
    """A model as the core wants it: a view in, logits out. One that fails has nothing to say: all labels alike, so
    that the frame goes on to the next level and the loop goes on at all."""
    preprocess = preprocessor(spec)
    nothing = np.zeros(classes, np.float32)

    def score(view: View) -> Logits:
        try:
            logits: Logits = session.run(preprocess(view.crop(spec)))[0]
            return logits
        except EngineError as error:
            log.error("%s: %s", name, error)
            return nothing

    return score


@dataclass
class Now:
    """What the terminal view shows; written by the hot loop, read by another thread."""

    answer: Answer | None = None
    label: str = ""
    latency_ms: float = 0.0


class Agent:
    """One device: a source of frames, a hierarchy of levels, a link to the cloud."""

    def __init__(self, settings: Settings, address: Address | None, store: Store | None, bundle: Bundle | None) -> None:
        """``address`` None: no network. ``bundle`` takes the place of catalogue and store."""
        self.settings = settings
        self.now, self.tally = Now(), Tally()
        self.latencies, self.score = report.Latencies(), report.Score()
        self.levels: dict[str, report.Latencies] = {}
        self.pulled: list[str] = []
        self.first_answer: float | None = None
        self.stopped = threading.Event()
        self.hierarchy: Hierarchy | None = None
        self._begun = time.monotonic()
        self._manifest: Manifest | None = None
        self._version = ""
        #: Versions that were deployed or found unfit.
        self._judged: set[str] = set()
        self._cloud: Cloud | None = None
        #: A frame that the full model is to judge as well, once it is answered.
        self._unsent: Frame | None = None
        self._submodel_cost = 0
        self._signed = settings.context or "frames" in settings.levels
        self._region = region(settings.region) if settings.region else None
        self._budget = size(settings.memory_budget) if settings.memory_budget else None
        self.link = self._connect(address, bundle is None) if address is not None else None
        self._local = "base" in settings.levels or "submodels" in settings.levels
        self._asks = address is not None and "cloud" in settings.levels and settings.mode != "offline"
        base = settings.base if self._local else None
        self.keeper = Keeper(store, self.link, settings.device, settings.provider, settings.threads, base)
        if bundle is not None:
            self.keeper.use(bundle)
        elif store is not None and (known := store.recall(settings.catalogue)) is not None:
            self.keeper.announce(known)

    def run(self, source: Source, sink: report.Sink) -> None:
        """Answer every frame of ``source`` until it ends or ``stopped`` is set. Raises ``AgentError``."""
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
                self._tend()
                if index + 1 == self.settings.frames:
                    break
        finally:
            source.close()
            self.keeper.stop()
            if self.link is not None:
                self.link.stop((protocol.topic(self.settings.device, "status"), self._status("stopped")))

    def stop(self) -> None:
        """End ``run``, wherever it waits; from any thread."""
        self.stopped.set()
        if self._cloud is not None:
            self._cloud.stop()

    def answer(self, index: int, shot: Shot, sink: report.Sink) -> None:
        """One frame, from picture to answer: the hot path."""
        assert self.hierarchy is not None and self._manifest is not None
        started = time.monotonic()
        picture = shot.picture if self._region is None else cut(shot.picture, self._region)
        frame = Frame(index, View(picture), sign(picture) if self._signed else None)
        step = self.hierarchy.look(frame, started)
        outcome = self._ask(step)
        answer = self.hierarchy.settle(step, outcome.reply, time.monotonic(), outcome.trouble)
        latency_ms = (time.monotonic() - started) * 1000
        if answer.audit:
            self._unsent = frame

        line = report.line(answer, self._manifest.labels, time.time(), latency_ms, shot.truth)
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
        if self._cloud is None:
            return Outcome(None, "no cloud")
        ask = self._cloud.post if self.settings.mode == "async" else self._cloud.ask
        return ask(step, lambda: step.frame.view.crop(self._full.input))

    def _listen(self, sink: report.Sink) -> None:
        """Between two frames: what the cloud has said since, and what it is to judge."""
        if self._cloud is None:
            return
        assert self.hierarchy is not None and self._manifest is not None
        for reply in self._cloud.late():
            if (correction := self.hierarchy.late(reply, time.monotonic())) is not None:
                sink.write(report.line(correction, self._manifest.labels, time.time(), correction=True))
        for reply in self._cloud.audited():
            self.hierarchy.audited(reply, time.monotonic())
        if self._unsent is not None:
            self._cloud.audit(self._unsent.index, self._unsent.view.crop(self._full.input))
            self._unsent = None

    def _tend(self) -> None:
        """Between two frames: loaded models in, dropped ones out."""
        assert self.hierarchy is not None
        grown = self.tally.frames % _CHECK_EVERY == 0
        with contextlib.suppress(queue.Empty):
            while True:
                self._drop(self._take(self.keeper.ready.get_nowait()))
                grown = True
        self._follow()
        wanted = self.hierarchy.wanted
        # A newer catalogue's models are of no use before its base model is there.
        if wanted is not None and self.keeper.version == self._version and not self.keeper.pending(wanted):
            self._drop(self._make_room(wanted))
            self.keeper.want(wanted)
        if grown and self._budget is not None and resident_bytes() > self._budget:
            self._drop(self._slim())

    def await_deployment(self) -> None:
        """Wait until there is something to answer with."""
        said: str | None = None
        self._follow()
        while self.hierarchy is None and not self.stopped.is_set():
            with contextlib.suppress(queue.Empty):
                self._take(self.keeper.ready.get(timeout=0.1))
            self._follow()
            if self.keeper.hopeless:
                raise AgentError(self.keeper.trouble)
            trouble = self.keeper.trouble or (self.link.trouble if self.link is not None else "")
            if not trouble:
                trouble = "it is on its way" if self.keeper.version else "no catalogue on this broker yet"
            if time.monotonic() - self._begun > 2.0 and trouble != said:
                log.warning("waiting for a model: %s", trouble)
                said = trouble

    def _take(self, loaded: Loaded) -> list[str]:
        """Put a loaded model to use; return the names of those that had to go for it."""
        model = loaded.manifest.models[loaded.name]
        if loaded.pulled and model.role == "submodel":
            self.pulled.append(loaded.name)
        local = LocalModel(
            loaded.name,
            scorer(loaded.name, loaded.session, model.input, len(loaded.manifest.labels)),
            model.temperature,
            np.array(model.coverage),
            loaded.cost,
        )
        if loaded.first:
            self._deploy(loaded.manifest, loaded.version, local)
        elif self.hierarchy is not None and loaded.version == self._version:
            self._submodel_cost = max(self._submodel_cost, loaded.cost)
            gone = self.hierarchy.install(local)
            self._announce()
            return gone
        return []

    def _follow(self) -> None:
        """Where no model is to be loaded first, go by the newest catalogue at once."""
        if not self._local and (offer := self.keeper.offer) is not None and offer[1] not in self._judged:
            self._deploy(*offer, None)

    def _deploy(self, manifest: Manifest, version: str, base: LocalModel | None) -> None:
        """Begin to answer with this bundle, in the place of any before. Raises ``AgentError`` for a first one that
        cannot be used; an update that cannot be leaves all as it is."""
        self._judged.add(version)
        try:
            self._replace(manifest, version, base)
        except AgentError as error:
            if self.hierarchy is None:
                raise
            log.error("going on with version %s: %s", self._version[:12], error)

    def _replace(self, manifest: Manifest, version: str, base: LocalModel | None) -> None:
        settings = self.settings
        try:
            gate = manifest.gate(settings.max_false_hits)
        except BundleError as error:
            raise AgentError(str(error)) from None
        if self.hierarchy is not None and self.hierarchy.submodels is not None:
            self._drop(self.hierarchy.submodels.shrink(0))
        floor = resident_bytes()
        room = _ROOM if self._budget is None else self._budget - floor
        if room < 0:
            raise AgentError(
                f"memory budget {settings.memory_budget} is under the {floor / 1e6:.0f} MB that this process needs "
                f"with {manifest.name}'s base model alone; give more"
            )
        full = manifest.only("full")
        classes = len(manifest.labels)
        if settings.gate == "entropy":
            if not gate.entropy:
                raise AgentError(f"{manifest.name} has no threshold on entropy for this budget; use --gate risk")
            threshold = gate.entropy
            context: Context = Memoryless(classes)
        else:
            parameters = manifest.context if settings.context else FORGETFUL
            threshold, context = gate.risk, Context(classes, parameters)
        # Without a base model any submodel is better than none.
        least = base.coverage if base is not None and "base" in settings.levels else np.zeros(classes)
        self.hierarchy = Hierarchy(
            Rules(threshold, settings.deadline_ms / 1000, full, manifest.models[full].temperature),
            context,
            FrameCache() if "frames" in settings.levels else None,
            Submodels(room, least, settings.replacement)
            if base is not None and "submodels" in settings.levels
            else None,
            Base(base) if base is not None and "base" in settings.levels else None,
            self.tally,
            self._audits(gate.max_false_hits, manifest.models[full].temperature),
        )
        self._manifest, self._version, self._full = manifest, version, manifest.models[full]
        if self.link is not None and self._asks:
            before, self._cloud = self._cloud, Cloud(self.link, settings.device, manifest, time.monotonic)
            if before is not None:
                self._cloud.bytes_up, self._cloud.bytes_down = before.bytes_up, before.bytes_down
        self._announce()
        log.info("answering with %s, version %s", manifest.name, version[:12])

    def _audits(self, allowed: float, temperature: float) -> Audits | None:
        settings = self.settings
        reckons = settings.context and settings.gate == "risk"  # in a risk that an audit could put right
        if not self._asks or not reckons or not settings.audit_budget:
            return None
        # The same device draws the same windows, so that a run can be repeated.
        return Audits(allowed, settings.audit_budget, temperature, random.Random(settings.device).random)

    def _make_room(self, name: str) -> list[str]:
        """Let go of submodels before another is loaded, so that the two are never resident together over the
        budget; return their names."""
        assert self.hierarchy is not None and self._manifest is not None
        if self.hierarchy.submodels is None or name not in self._manifest.models:
            return []
        need = max(self._submodel_cost, _GROWTH * self._manifest.models[name].bytes)
        return self.hierarchy.submodels.shrink(max(0, self.hierarchy.submodels.budget - need))

    def _slim(self) -> list[str]:
        """Let go of the submodel used longest ago: the process has outgrown its budget, whatever the sum says."""
        submodels = self.hierarchy.submodels if self.hierarchy is not None else None
        if submodels is None or not submodels.names():
            release_memory()
            return []
        return submodels.shrink(submodels.cost() - 1)

    def _drop(self, names: list[str]) -> None:
        """Give back the memory of models that nothing refers to any more."""
        if names:
            log.info("dropped %s", ", ".join(names))
            release_memory()
            self._announce()

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
                    self.keeper.announce(message.payload)
                return
            _, leaf = protocol.device_of(message.topic)
            if leaf == ("answer",) and self._cloud is not None:
                self._cloud.receive(message)
            elif leaf[0] == "blob" and leaf[1] != "get":
                self.keeper.receive(message, leaf[1])
        except (protocol.Malformed, BundleError) as error:
            log.warning("message on %s ignored: %s", message.topic, error)

    def _announce(self) -> None:
        if self.link is not None:
            self.link.publish(protocol.topic(self.settings.device, "status"), self._status("online"), 1, retain=True)

    def _status(self, state: Any) -> bytes:
        submodels = self.hierarchy.submodels if self.hierarchy is not None else None
        return protocol.encode(
            protocol.Status(state, VERSION, self._version, submodels.names() if submodels is not None else ())
        )

    @property
    def traffic(self) -> tuple[int, int]:
        """Payload bytes to and from the broker."""
        cloud = self._cloud
        up, down = (cloud.bytes_up, cloud.bytes_down) if cloud is not None else (0, 0)
        return up, down + self.keeper.bytes_down

    def summary(self, source: Source) -> dict[str, Any]:
        """The run in figures, as ``--json`` and ``--summary`` give them."""
        up, down = self.traffic
        return {
            "frames": self.tally.frames,
            "hits": dict(self.tally.hits),
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
            "models_pulled": self.pulled,
            "resident_bytes_peak": peak_resident_bytes(),
            "first_answer_s": self.first_answer,
            "audits": report.audits(self.hierarchy),
            "bundle": self._manifest.name if self._manifest is not None else None,
            "bundle_version": self._version,
            "version": VERSION,
        }
