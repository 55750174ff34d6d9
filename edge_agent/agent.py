"""The agent: a device's cameras, and the one link and the one keeper of models that serve them all."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import msgspec

from cachenet.edge_agent.camera import Camera, Observer
from cachenet.edge_agent.composition import DeploymentError
from cachenet.edge_agent.doctor.watchdog import Watchdog
from cachenet.edge_agent.learner_file import LearnerFile
from cachenet.edge_agent.outputs import home_assistant, report
from cachenet.edge_agent.settings import Settings, default_store, region, parse_size
from cachenet.edge_agent.sources import Source
from cachenet.edge_agent.updates.downloader import Downloader
from cachenet.edge_agent.updates.loader import ModelLoader
from cachenet.edge_agent.updates.probe import ProbeRequest, probe
from cachenet.edge_agent.updates.store import Store
from cachenet.edge_agent.updates.updater import Updater, untrusted_reason
from cachenet.shared.bundle.manifest import Bundle, BundleError, Manifest
from cachenet.shared.command.version import VERSION
from cachenet.shared.inference.engine import peak_resident_bytes
from cachenet.shared.inference.image import cut, encode
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection

if TYPE_CHECKING:
    from cachenet.shared.bundle.trust import Key

log = logging.getLogger(__name__)


class Agent:
    """One device: its cameras, a link to the cloud, and a keeper of models."""

    def __init__(
        self,
        settings: Settings,
        sources: Sequence[Source],
        address: Address | None,
        store: Store | None,
        bundle: Bundle | None,
        trusted: Key | None = None,
    ) -> None:
        """``sources``: one for each of ``settings.each()``. ``address`` None: no network. ``bundle`` takes the place of
        catalogue and store. ``trusted``: see ``Updater``. Raises ``BundleError`` if ``bundle`` is not to be trusted,
        and ``OSError``."""
        self.settings = settings
        #: Are told of every frame that any camera has answered.
        self.observers: list[Observer] = []
        self.stopped = threading.Event()
        self._ended = threading.Event()
        self._begun = time.monotonic()
        self._said: str | None = None
        #: Versions of bundles whose certificate has been looked at.
        self._looked_at: set[str] = set()
        self.cameras: tuple[Camera, ...] = ()
        self._downloader: Downloader | None = None
        self.link = self._connect(address, bundle is None) if address is not None else None
        way = None if settings.layer_caches == "off" else settings.layer_caches
        self.loader = ModelLoader(
            store,
            Downloader(store, self.link, settings.device),
            settings.provider,
            settings.threads,
            settings.base if settings.local else None,
            settings.slowdown,
            way,
            self._probe,
        )
        self.updater: Updater | None = None
        self.cameras = tuple(
            Camera(
                own,
                source,
                self.link,
                self.loader,
                self.observers,
                self._models_changed,
                len(sources),
                self._learner_file(store, own.name),
            )
            for own, source in zip(settings.each(), sources, strict=True)
        )
        if bundle is not None:
            if trusted is not None and not trusted.vouches(bundle.data, bundle.signature):
                raise BundleError(untrusted_reason(bundle.manifest.name, bundle.signature))
            self.loader.use(bundle)
        elif store is not None:
            downloader = self._downloader = Downloader(store, self.link, settings.device)
            self.updater = Updater(store, self.loader, downloader, self._probe, trusted, self._needs, self._announce)
            self.updater.restore(settings.catalogue)

    def run(self, sink: report.Sink) -> None:
        """Answer every frame of every camera until all have ended or ``stop`` is called. A camera that ends, or fails,
        leaves the others as they are. Raises ``DeploymentError``, and what a camera failed with once all have ended."""
        cv2.setNumThreads(1)  # pictures are small: its thread pool costs more than it gives
        self.loader.start()
        if self.updater is not None:
            self.updater.start()
        if self.link is not None:
            self.link.start()
        watchdog = Watchdog(self.cameras, self.loader, self._abandon)
        watchdog.start()
        failure: BaseException | None = None
        try:
            with ThreadPoolExecutor(len(self.cameras), "camera") as threads:
                running = {threads.submit(camera.run, sink, self._wait): camera for camera in self.cameras}
                for ended in as_completed(running):
                    if (error := ended.exception()) is None:
                        continue
                    failure = failure or error
                    if isinstance(error, DeploymentError):  # what one cannot be answered with, none can
                        self.stop()
                    elif len(self.cameras) > 1:
                        log.error("camera %s has failed; the others go on", running[ended].name, exc_info=error)
        finally:
            self._ended.set()
            watchdog.stop()
            if self.updater is not None:
                self.updater.stop()
            self.loader.stop()
            if self.link is not None:
                self.link.stop((protocol.topic(self.settings.device, "status"), self._status("stopped")))
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """End ``run``, wherever it waits; from any thread."""
        self.stopped.set()
        for camera in self.cameras:
            camera.stop()

    @property
    def error(self) -> str:
        """What stands in the way of answers, for a person; empty while all is well."""
        update = self.updater.error if self.updater is not None else ""
        return self.loader.error or update or (self.link.trouble if self.link is not None else "")

    def _wait(self) -> None:
        """Say what cameras are waiting for, once."""
        offered = self.loader.version or (self.updater is not None and self.updater.state)
        waited = "it is on its way" if offered else "no catalogue on this broker yet"
        # Why it cannot be had, keeper and link have said.
        if self.link is not None and not self.link.connected.is_set():
            waited = "there is no connection yet"
        elif self.loader.error or (self.updater is not None and self.updater.error):
            waited = "it cannot be had yet"
        if time.monotonic() - self._begun > 2.0 and waited != self._said:
            self._said = waited
            log.warning("waiting for a model: %s", waited)

    def _connect(self, address: Address, pulls: bool) -> MqttConnection:
        device = self.settings.device
        topics = [(protocol.topic(device, "answer"), 0)]
        if self.settings.home_assistant:
            topics.append((home_assistant.birth_topic(self.settings.discovery_prefix), 0))
        if pulls:
            topics += [(protocol.topic(device, "blob", "+"), 0), (protocol.CATALOGUE_TOPICS, 1)]
        return MqttConnection(
            address,
            f"cachenet-{device}",
            topics,
            self._receive,
            self._connected,
            (protocol.topic(device, "status"), protocol.describe(protocol.Status("offline", VERSION))),
        )

    def _receive(self, message: Message) -> None:
        """Sort what arrives (on the link's thread)."""
        try:
            if message.topic == home_assistant.birth_topic(self.settings.discovery_prefix):
                if message.payload == b"online":
                    self._introduce()
                return
            if message.topic.startswith(protocol.CATALOGUE_TOPICS[:-1]):
                if self.settings.catalogue in ("", message.topic.rsplit("/", 1)[-1]):
                    assert self.updater is not None
                    self.updater.announce(message.payload, protocol.signature(message.properties))
                return
            _, leaf = protocol.device_of(message.topic)
            if leaf == ("answer",):
                for camera in self.cameras:
                    camera.receive(message)
            elif leaf[0] == "blob" and leaf[1] != "get":
                self.loader.receive(message, leaf[1])
                if self._downloader is not None:
                    self._downloader.receive(message, leaf[1])
        except (protocol.Malformed, BundleError) as error:
            log.warning("message on %s ignored: %s", message.topic, error)

    def _connected(self) -> None:
        self._announce()
        self._introduce()

    def _introduce(self) -> None:
        if self.link is not None and self.settings.home_assistant:
            names = [camera.name for camera in self.cameras]
            home_assistant.announce_cameras(self.link, self.settings.discovery_prefix, self.settings.device, names)

    def _models_changed(self) -> None:
        """A camera answers with another version, or has other models."""
        for camera in self.cameras:
            manifest, version = camera.active_bundle.manifest, camera.active_bundle.version
            if manifest is not None and version not in self._looked_at:
                self._looked_at.add(version)
                self._report_certificate(manifest)
        self._announce()

    def _report_certificate(self, manifest: Manifest) -> None:
        """Log one line where nobody has certified the risk budget for this bundle."""
        budget = self.settings.max_disagreement
        certificate = manifest.certificate(budget)
        if certificate is not None and certificate.holds:
            return
        measured = "nothing was measured when it was built"
        if manifest.certificates:
            measured = f"the least that was measured is {manifest.certificates[0].max_disagreement:g}"
        if certificate is not None:
            measured = (
                f"{certificate.disagreement:.1%} of answers disagreed on {certificate.blocks} blocks of held-out "
                f"footage, at most {certificate.at_most:.0%} with {certificate.confidence:.0%} confidence"
            )
            if certificate.blocks_needed:
                measured += f", and {certificate.blocks_needed} blocks would do"
        audited = self.settings.audit_share > 0 and any(camera.asks for camera in self.cameras)
        checked = "audits check it while it runs" if audited else "no audits check it while it runs"
        log.warning("%s is not certified for --max-disagreement %g: %s; %s", manifest.name, budget, measured, checked)

    def _learner_file(self, store: Store | None, camera: str) -> LearnerFile | None:
        """Where a camera keeps what it has learned: in the store, and with ``--bundle`` only in one that is named, so
        that other runs of a bundle can be repeated."""
        named = Path(self.settings.store) if self.settings.store != default_store() else None
        place = store.directory if store is not None else named
        return LearnerFile(place, camera) if place is not None else None

    def _announce(self) -> None:
        if self.link is not None:
            self.link.publish(protocol.topic(self.settings.device, "status"), self._status("online"), 1, retain=True)

    def _status(self, state: Any) -> bytes:
        versions = [camera.version for camera in self.cameras]
        version = self.loader.version if self.loader.version in versions else versions[0]
        resident = dict.fromkeys(name for camera in self.cameras for name in camera.active_bundle.submodels)
        update = self.updater.status if self.updater is not None else ""
        return protocol.describe(protocol.Status(state, VERSION, version, tuple(resident), update))

    def _needs(self, manifest: Manifest) -> set[str]:
        """The models of a newer set that must be here before it takes over: those that answer now, as far as it has
        them, and its first one. Raises ``DeploymentError``."""
        if not self.settings.local:
            return set()
        first = self.settings.base or manifest.only("base")
        if first not in manifest.models:
            raise DeploymentError(f"{manifest.name} has no model {first}; it has {', '.join(manifest.models)}")
        answering = {name for camera in self.cameras for name in camera.active_bundle.resident}
        return {first} | (answering & set(manifest.models))

    def _abandon(self, reason: str) -> None:
        if self.updater is not None:
            self.updater.abandon(reason)

    def _probe(self, manifest: Manifest, names: Iterable[str], files: dict[str, Path]) -> None:
        """Try models in a process of their own, on what the cameras see as well. Raises ``ProbeError``."""
        settings, seen = self.settings, []
        for camera in self.cameras:
            if (now := camera.last_answered) is not None:
                picture = now.picture if not settings.region else cut(now.picture, region(settings.region))
                seen.append(encode(picture)[1])
        way = None if settings.layer_caches == "off" else settings.layer_caches
        memory = parse_size(settings.memory_budget) if settings.memory_budget else 0
        paths = {sha256: os.fsencode(path) for sha256, path in files.items()}
        request = ProbeRequest(
            msgspec.json.encode(manifest), tuple(names), paths, tuple(seen), settings.provider, way, memory
        )
        probe(request, lambda: self.stopped.is_set() or self._ended.is_set())

    @property
    def traffic(self) -> tuple[int, int]:
        """Payload bytes to and from the broker."""
        ups, downs = zip(*(camera.traffic for camera in self.cameras), strict=True)
        downloaded = self.loader.bytes_down + (self._downloader.bytes_down if self._downloader is not None else 0)
        return sum(ups), sum(downs) + downloaded

    def summary(self) -> dict[str, Any]:
        """The run in figures, as ``--json`` and ``--summary`` give them: of the only camera, or of each by its name."""
        up, down = self.traffic
        device = {
            "bytes_up": up,
            "bytes_down": down,
            "resident_bytes_peak": peak_resident_bytes(),
            "version": VERSION,
            "update": self.updater.status if self.updater is not None else "",
        }
        if not self.settings.camera:
            return self.cameras[0].summary() | device
        frames = sum(camera.tally.frames for camera in self.cameras)
        return {"frames": frames, "cameras": {camera.name: camera.summary() for camera in self.cameras}} | device
