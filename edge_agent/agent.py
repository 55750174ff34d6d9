"""The agent: the cameras of a device, their connection to the broker, and their model loader."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import msgspec

from cachenet.edge_agent.camera import Camera, Observer
from cachenet.edge_agent.camera_loop import CameraLoop
from cachenet.edge_agent.device_cascade import DeploymentError
from cachenet.edge_agent.device_link import DeviceLink
from cachenet.edge_agent.doctor.watchdog import Watchdog
from cachenet.edge_agent.learner_file import LearnerFile
from cachenet.edge_agent.outbox.database import OutboxFile
from cachenet.edge_agent.outbox.outbox import Outbox
from cachenet.edge_agent.outputs import home_assistant, report
from cachenet.edge_agent.server_version import ServerVersion
from cachenet.edge_agent.settings import Settings, default_store, parse_size
from cachenet.edge_agent.sources import Source
from cachenet.edge_agent.updates.downloader import Downloader
from cachenet.edge_agent.updates.loader import ModelLoader
from cachenet.edge_agent.updates.offers import Offers
from cachenet.edge_agent.updates.probe import ProbeRequest, probe
from cachenet.edge_agent.updates.store import Store
from cachenet.edge_agent.updates.updater import SETTLE_S, Updater
from cachenet.shared.bundle.manifest import MANIFEST, Bundle, BundleError, Manifest
from cachenet.shared.command.version import VERSION
from cachenet.shared.inference.engine import peak_resident_bytes
from cachenet.shared.inference.image import cut, encode, parse_region
from cachenet.shared.transport import protocol, rollout
from cachenet.shared.transport.mqtt import Address, Message
from cachenet.shared.transport.protocol import Status

if TYPE_CHECKING:
    from cachenet.edge_agent.updates.signed_catalogue import SignedCatalogue
    from cachenet.shared.bundle.trust import TrustedRoot

log = logging.getLogger(__name__)


class Agent:
    """One device. All cameras share one connection to the broker and one model loader."""

    def __init__(
        self,
        settings: Settings,
        sources: Sequence[Source],
        brokers: Sequence[Address],
        store: Store | None,
        bundle: Bundle | None,
        trusted: TrustedRoot | None = None,
    ) -> None:
        """
        Args:
            sources: One for each of ``settings.each()``.
            brokers: Addresses of the brokers that share the devices; none: no network.
            store: Directory of downloaded models; None with a ``bundle``.
            bundle: Bundle that replaces catalogue and store.
            trusted: Root of trust. Bundles that its keys have not signed are refused.

        Raises:
            BundleError: The keys of the trusted root have not signed ``bundle``.
            OSError: A decision log cannot be opened.
        """
        self.settings = settings
        #: Called with every answered frame of every camera.
        self.observers: list[Observer] = []
        self.stopped = threading.Event()
        self._ended = threading.Event()
        self._started = time.monotonic()
        self._waiting_logged: str | None = None
        self._announcing = threading.Lock()
        #: Versions whose certificate has been checked.
        self._checked_versions: set[str] = set()
        self.server_version = ServerVersion()
        self.loops: tuple[CameraLoop, ...] = ()
        self.link = self._connect(brokers, bundle is None) if brokers else None
        self.outbox = self._make_outbox(store)
        #: One for the loader and one for the updater, so that each can download while the other does.
        self._downloaders = [Downloader(store, self.link, settings.device) for _ in range(2)]
        self._exit_kind = None if settings.early_exits == "off" else settings.early_exits
        self.loader = ModelLoader(
            store,
            self._downloaders[0],
            settings.provider,
            settings.threads,
            settings.base if settings.local else None,
            settings.slowdown,
            self._exit_kind,
            self._probe,
        )
        self.updater: Updater | None = None
        self.offers: Offers | None = None
        self.signed: SignedCatalogue | None = None
        self.announcer: home_assistant.Announcer | None = None
        if self.link is not None and settings.home_assistant:
            self.announcer = home_assistant.Announcer(self.link.publish, settings.discovery_prefix, settings.device)
        #: Called when Home Assistant has started.
        self.on_home_assistant: list[Callable[[], None]] = []
        if bundle is not None:
            if trusted is not None:
                trusted.verify_bundle(bundle)
            self.loader.use(bundle)
        elif store is not None:
            root = trusted.digest if trusted is not None else ""
            updater = self.updater = Updater(
                *(store, self.loader, self._downloaders[1], self._probe, root, self._required_models, self._announce),
                settle_s=SETTLE_S,
            )
            updater.restore(settings.catalogue)
            offers = self.offers = Offers(settings.device, updater.announce, lambda: updater.version)
            if trusted is not None:
                from cachenet.edge_agent.updates.signed_catalogue import SignedCatalogue

                self.signed = SignedCatalogue(
                    *(trusted, store, offers.on_manifest, lambda: updater.name, self._announce),
                    announce_canary=offers.on_canary,
                )

        def make(own: Settings, source: Source) -> Camera:
            return Camera(
                own,
                source,
                self.link,
                self.loader,
                self.observers,
                self._on_models_changed,
                self._answering(),
                self._learner_file(store, own),
                self.outbox,
            )

        #: One for each camera of the device.
        self.loops = tuple(
            CameraLoop(own, source, self.loader, make) for own, source in zip(settings.each(), sources, strict=True)
        )

    @property
    def cameras(self) -> tuple[Camera, ...]:
        """The cameras of the device; one for each zone where a classifier answers for zones."""
        return tuple(camera for loop in self.loops for camera in loop.cameras)

    def _answering(self) -> int:
        """Number of cameras and zones that answer; the largest while the task of the bundle is not known."""
        cameras = self.settings.each()
        if self.loader.target is not None and self.loader.target[0].task == "detection":
            return len(cameras)
        return sum(len(own.zone) or 1 for own in cameras)

    def run(self, sink: report.JsonLinesWriter) -> None:
        """Answer every frame of every camera until all sources have ended or ``stop`` is called.

        The end or failure of one camera does not affect the others.

        Raises:
            DeploymentError: There is nothing to answer with.
            Exception: The first error that ended a camera, after all cameras have ended.
        """
        cv2.setNumThreads(1)  # frames are small: OpenCV's thread pool costs more than it saves
        self.start()
        watchdog = Watchdog(lambda: self.cameras, self.loader, self._abandon)
        watchdog.start()
        failure: BaseException | None = None
        try:
            with ThreadPoolExecutor(len(self.loops), "camera") as threads:
                running = {threads.submit(loop.run, sink, self._log_waiting): loop for loop in self.loops}
                for ended in as_completed(running):
                    if (error := ended.exception()) is None:
                        continue
                    failure = failure or error
                    if isinstance(error, DeploymentError):  # it concerns all cameras
                        self.stop()
                    elif len(self.loops) > 1:
                        log.error("camera %s has failed; the others go on", running[ended].name, exc_info=error)
        finally:
            watchdog.stop()
            self.close()
        if failure is not None:
            raise failure

    def start(self) -> None:
        """Begin to load models and to connect; ``run`` calls this."""
        self.loader.start()
        if self.updater is not None:
            self.updater.start()
        if self.outbox is not None:
            self.outbox.start()
        if self.signed is not None:
            self.signed.start()
        if self.link is not None:
            self.link.start()

    def close(self) -> None:
        """End what ``start`` began; ``run`` calls this."""
        self._ended.set()
        if self.signed is not None:
            self.signed.stop()
        if self.updater is not None:
            self.updater.stop()
        self.loader.stop()
        self.server_version.stop()
        if self.outbox is not None:
            self.outbox.stop()
        if self.link is not None:
            self.link.stop((protocol.topic(self.settings.device, "status"), self._status("stopped")))

    def stop(self) -> None:
        """End ``run``; thread-safe."""
        self.stopped.set()
        for loop in self.loops:
            loop.stop()

    @property
    def error(self) -> str:
        """Why frames cannot be answered; empty without a known error."""
        update = self.updater.error if self.updater is not None else ""
        link = self.link.error if self.link is not None else ""
        signed = self.signed.error if self.signed is not None else ""
        return self.loader.error or update or link or signed or self.server_version.error

    def _log_waiting(self) -> None:
        """Log what the cameras wait for, once per reason. The loader and the connection log the cause."""
        offered = self.loader.version or (self.updater is not None and self.updater.state)
        reason = "it is on its way" if offered else "no catalogue on this broker yet"
        if self.link is not None and not self.link.connected.is_set():
            reason = "there is no connection yet"
        elif self.error:
            reason = "it cannot be had yet"
        if time.monotonic() - self._started > 2.0 and reason != self._waiting_logged:
            self._waiting_logged = reason
            log.warning("waiting for a model: %s", reason)

    def _connect(self, brokers: Sequence[Address], downloads: bool) -> DeviceLink:
        device = self.settings.device
        topics = [(protocol.topic(device, "answer"), 0), *ServerVersion.TOPICS]
        if self.settings.home_assistant:
            topics.append((home_assistant.birth_topic(self.settings.discovery_prefix), 0))
        if downloads:
            topics.append((protocol.topic(device, "blob", "+"), 0))
        return DeviceLink(
            brokers,
            device,
            topics,
            self._receive,
            self._connected,
            lambda: (protocol.topic(device, "status"), protocol.describe(Status("offline", VERSION, at=time.time()))),
        )

    def _receive(self, message: Message) -> None:
        """Dispatch a message, on a connection's thread, one at a time."""
        try:
            if message.topic == home_assistant.birth_topic(self.settings.discovery_prefix):
                if message.payload == b"online":
                    self._announce_cameras()
                return
            if self.server_version.receive(message):
                return
            if message.topic.startswith(protocol.CATALOGUE_TOPICS[:-1]):
                if self.outbox is not None:  # a server sends its catalogue when it connects
                    self.outbox.on_server()
                self._receive_catalogue(message)
                return
            _, leaf = protocol.device_of(message.topic)
            if leaf == ("answer",):
                for camera in self.cameras:
                    camera.receive(message)
                if self.outbox is not None:
                    self.outbox.receive(message)
            elif leaf[0] == "blob" and leaf[1] != "get":
                for downloader in self._downloaders:
                    downloader.receive(message, leaf[1])
        except (protocol.Malformed, BundleError) as error:
            log.warning("message on %s ignored: %s", message.topic, error)

    def _receive_catalogue(self, message: Message) -> None:
        """Pass a catalogue on. Raises ``Malformed``, ``BundleError``."""
        name, kind = protocol.catalogue_of(message.topic)
        if self.offers is None or self.settings.catalogue not in ("", name):
            return
        if kind == "rollout":
            self._receive_rollout(name, self.offers, message.payload)
        elif self.signed is None:
            if kind == "":
                self.offers.on_manifest(message.payload)
        elif kind == "signed":
            self.signed.receive(name, message.payload)
        else:
            self.signed.receive_unsigned(name)

    def _receive_rollout(self, name: str, offers: Offers, payload: bytes) -> None:
        """Pass a rollout on. Raises ``Malformed``, ``BundleError``."""
        received = rollout.read(payload)
        if received.bundle != name:
            raise protocol.Malformed(f"a rollout of {received.bundle}")
        offers.on_rollout(received)
        if self.signed is not None:
            if received.files and received.state in ("running", "paused"):
                self.signed.receive(name, protocol.encode(protocol.SignedCatalogue(received.files)), canary=True)
        elif (manifest := received.files.get(MANIFEST)) is not None:
            offers.on_canary(manifest)

    def _connected(self) -> None:
        if self.outbox is not None:
            self.outbox.on_server()
        self._announce()
        self._announce_cameras()

    def _announce_cameras(self) -> None:
        """Announce all cameras to Home Assistant again."""
        if self.announcer is not None:
            self.announcer.announce()
            for renew in self.on_home_assistant:
                renew()

    def _on_models_changed(self) -> None:
        """Publish the status after a camera has changed its version or models."""
        for camera in self.cameras:
            manifest, version = camera.active_bundle.manifest, camera.active_bundle.version
            if manifest is not None and version not in self._checked_versions:
                self._checked_versions.add(version)
                self._check_certificate(manifest)
        if self.announcer is not None:
            for loop in self.loops:
                if (manifest := loop.cameras[0].active_bundle.manifest) is not None:
                    zones = [zone.name for zone in loop.settings.zone]
                    self.announcer.describe(loop.name, manifest.task, zones, manifest.labels)
        self._announce()

    def _check_certificate(self, manifest: Manifest) -> None:
        """Log a warning if the risk budget is not certified for this bundle."""
        flag, budget = self.settings.budget_for(manifest.task)
        certificate = manifest.certificate(budget)
        if certificate is not None and certificate.holds:
            return
        measured = "nothing was measured when it was built"
        if manifest.certificates:
            measured = f"the smallest budget that was measured is {manifest.certificates[0].max_disagreement:g}"
        if certificate is not None:
            blocks = "1 block" if certificate.blocks == 1 else f"{certificate.blocks} blocks"
            error = f"{certificate.disagreement:.1%} of answers disagreed"
            if manifest.task == "detection":
                error = f"the object error was {certificate.disagreement:.1%}"
            measured = (
                f"{error} on {blocks} of held-out footage, at most {certificate.at_most:.0%} with "
                f"{certificate.confidence:.0%} confidence"
            )
            if certificate.blocks_needed:
                measured += f", and {certificate.blocks_needed} blocks would do"
        audited = self.settings.audit_share > 0 and any(camera.uses_cloud for camera in self.cameras)
        checked = "audits check it while it runs" if audited else "no audits check it while it runs"
        log.warning("%s is not certified for %s %g: %s; %s", manifest.name, flag, budget, measured, checked)

    def _learner_file(self, store: Store | None, own: Settings) -> LearnerFile | None:
        """File of the learner state of a camera or zone, in the store. With ``--bundle`` only in a store that the
        settings name, so that other runs of a bundle are repeatable."""
        named = Path(self.settings.store) if self.settings.store != default_store() else None
        directory = store.directory if store is not None else named
        return LearnerFile(directory, own.name, zone=own.zone_name) if directory is not None else None

    def _make_outbox(self, store: Store | None) -> Outbox | None:
        """The outbox, in the store directory; None if the settings have none, and then what is stored is deleted."""
        size, directory = self.settings.outbox_bytes, Path(self.settings.store)
        if size and self.link is not None:
            return Outbox(directory, size, self.settings.device, self.link, self._is_asking)
        if store is not None and not size:  # this process holds the lock of the directory
            with suppress(OSError):
                OutboxFile(directory).remove()
        return None

    def _is_asking(self) -> bool:
        return any(camera.is_asking for camera in self.cameras)

    def _announce(self) -> None:
        if self.link is None:
            return
        # Cameras, updater and connection announce on threads of their own: the retained status must be the latest.
        with self._announcing:
            self.link.publish(protocol.topic(self.settings.device, "status"), self._status("online"), 1, retain=True)

    def _status(self, state: Any) -> bytes:
        versions = [camera.version for camera in self.cameras]
        # There is no camera yet while an interrupted trial is resumed at the start.
        version = self.loader.version if self.loader.version in versions else next(iter(versions), "")
        resident = dict.fromkeys(name for camera in self.cameras for name in camera.active_bundle.submodels)
        update = self.updater.status if self.updater is not None else ""
        stale = self.signed.stale if self.signed is not None else ""
        return protocol.describe(Status(state, VERSION, version, tuple(resident), update, stale, time.time()))

    def _required_models(self, manifest: Manifest) -> set[str]:
        """Models that a newer set needs before it replaces this one: its first model, and those of its models that
        answer now. Raises ``DeploymentError``."""
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
        """Test models in another process, on the last frame of each camera too. Raises ``ProbeError``."""
        settings, frames = self.settings, []
        for camera in self.cameras:
            if (last := camera.last_answered) is not None:
                region = camera.settings.region
                picture = cut(last.picture, parse_region(region)) if region else last.picture
                frames.append(encode(picture)[1])
        memory = parse_size(settings.memory_budget) if settings.memory_budget else 0
        paths = {sha256: os.fsencode(path) for sha256, path in files.items()}
        data = msgspec.json.encode(manifest)
        request = ProbeRequest(data, tuple(names), paths, tuple(frames), settings.provider, self._exit_kind, memory)
        probe(request, lambda: self.stopped.is_set() or self._ended.is_set())

    @property
    def traffic(self) -> tuple[int, int]:
        """Payload bytes to and from the broker."""
        up, down = zip(*(camera.traffic for camera in self.cameras), strict=True)
        outbox = (self.outbox.bytes_up, self.outbox.bytes_down) if self.outbox is not None else (0, 0)
        downloaded = sum(downloader.bytes_down for downloader in self._downloaders)
        return sum(up) + outbox[0], sum(down) + downloaded + outbox[1]

    def summary(self) -> dict[str, Any]:
        """Summary of the run, as ``--json`` prints it: of the only camera, or of each camera by name."""
        up, down = self.traffic
        device = {
            "bytes_up": up,
            "bytes_down": down,
            "resident_bytes_peak": peak_resident_bytes(),
            "version": VERSION,
            "update": self.updater.status if self.updater is not None else "",
            "outbox": msgspec.to_builtins(self.outbox.counts()) if self.outbox is not None else None,
            "metadata": self.signed.stale if self.signed is not None else "",
        }
        if not self.settings.camera:
            return self._summary_of(self.loops[0]) | device
        frames = sum(loop.frames for loop in self.loops)
        return {"frames": frames, "cameras": {loop.name: self._summary_of(loop) for loop in self.loops}} | device

    def _summary_of(self, loop: CameraLoop) -> dict[str, Any]:
        """Summary of one camera; where a classifier answers for zones, of each zone by name."""
        if not loop.cameras[0].zone:
            return loop.cameras[0].summary()
        return {"frames": loop.frames, "zones": {camera.zone: camera.summary() for camera in loop.cameras}}
