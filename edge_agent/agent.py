"""The agent: a device's cameras, and the one link and the one keeper of models that serve them all."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

import cv2

from edge_agent import home_assistant, report
from edge_agent.camera import Camera, Observer
from edge_agent.composition import DeploymentError
from edge_agent.keeper import Keeper
from edge_agent.settings import Settings
from edge_agent.source import Source
from edge_agent.store import Store
from shared import protocol
from shared.bundle import Bundle, BundleError
from shared.engine import peak_resident_bytes
from shared.link import Address, Link, Message
from shared.version import VERSION

if TYPE_CHECKING:
    from shared.signing import Key

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
        catalogue and store. ``trusted``: see ``Keeper``. Raises ``BundleError`` if ``bundle`` is not to be trusted, and
        ``OSError``."""
        self.settings = settings
        #: Are told of every frame that any camera has answered.
        self.observers: list[Observer] = []
        self.stopped = threading.Event()
        self._begun = time.monotonic()
        self._said: str | None = None
        self.cameras: tuple[Camera, ...] = ()
        self.link = self._connect(address, bundle is None) if address is not None else None
        base = settings.base if settings.local else None
        kind = settings.provider, settings.threads
        way = None if settings.layer_caches == "off" else settings.layer_caches
        self.keeper = Keeper(store, self.link, settings.device, *kind, base, trusted, settings.slowdown, way)
        self.cameras = tuple(
            Camera(own, source, self.link, self.keeper, self.observers, self._announce, len(sources))
            for own, source in zip(settings.each(), sources, strict=True)
        )
        if bundle is not None:
            self.keeper.use(bundle)
        elif store is not None and (known := store.recall(settings.catalogue)) is not None:
            with contextlib.suppress(BundleError):  # kept from before a key was trusted: wait for a better one
                self.keeper.announce(known, store.signature(known))

    def run(self, sink: report.Sink) -> None:
        """Answer every frame of every camera until all have ended or ``stop`` is called. A camera that ends, or fails,
        leaves the others as they are. Raises ``DeploymentError``, and what a camera failed with once all have ended."""
        cv2.setNumThreads(1)  # pictures are small: its thread pool costs more than it gives
        self.keeper.start()
        if self.link is not None:
            self.link.start()
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
            self.keeper.stop()
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
    def trouble(self) -> str:
        """What stands in the way of answers, for a person; empty while all is well."""
        return self.keeper.trouble or (self.link.trouble if self.link is not None else "")

    def _wait(self) -> None:
        """Say what cameras are waiting for, once."""
        waited = "it is on its way" if self.keeper.version else "no catalogue on this broker yet"
        # Why it cannot be had, keeper and link have said.
        if self.link is not None and not self.link.connected.is_set():
            waited = "there is no connection yet"
        elif self.keeper.trouble:
            waited = "it cannot be had yet"
        if time.monotonic() - self._begun > 2.0 and waited != self._said:
            self._said = waited
            log.warning("waiting for a model: %s", waited)

    def _connect(self, address: Address, pulls: bool) -> Link:
        device = self.settings.device
        topics = [(protocol.topic(device, "answer"), 0)]
        if self.settings.home_assistant:
            topics.append((home_assistant.birth_topic(self.settings.discovery_prefix), 0))
        if pulls:
            topics += [(protocol.topic(device, "blob", "+"), 0), (protocol.CATALOGUE_TOPICS, 1)]
        return Link(
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
                    self.keeper.announce(message.payload, protocol.signature(message.properties))
                return
            _, leaf = protocol.device_of(message.topic)
            if leaf == ("answer",):
                for camera in self.cameras:
                    camera.receive(message)
            elif leaf[0] == "blob" and leaf[1] != "get":
                self.keeper.receive(message, leaf[1])
        except (protocol.Malformed, BundleError) as error:
            log.warning("message on %s ignored: %s", message.topic, error)

    def _connected(self) -> None:
        self._announce()
        self._introduce()

    def _introduce(self) -> None:
        if self.link is not None and self.settings.home_assistant:
            names = [camera.name for camera in self.cameras]
            home_assistant.introduce(self.link, self.settings.discovery_prefix, self.settings.device, names)

    def _announce(self) -> None:
        if self.link is not None:
            self.link.publish(protocol.topic(self.settings.device, "status"), self._status("online"), 1, retain=True)

    def _status(self, state: Any) -> bytes:
        versions = [camera.version for camera in self.cameras]
        version = self.keeper.version if self.keeper.version in versions else versions[0]
        resident = dict.fromkeys(name for camera in self.cameras for name in camera.deployment.submodels)
        return protocol.describe(protocol.Status(state, VERSION, version, tuple(resident)))

    @property
    def traffic(self) -> tuple[int, int]:
        """Payload bytes to and from the broker."""
        ups, downs = zip(*(camera.traffic for camera in self.cameras), strict=True)
        return sum(ups), sum(downs) + self.keeper.bytes_down

    def summary(self) -> dict[str, Any]:
        """The run in figures, as ``--json`` and ``--summary`` give them: of the only camera, or of each by its name."""
        up, down = self.traffic
        device = {
            "bytes_up": up,
            "bytes_down": down,
            "resident_bytes_peak": peak_resident_bytes(),
            "version": VERSION,
        }
        if not self.settings.camera:
            return self.cameras[0].summary() | device
        frames = sum(camera.tally.frames for camera in self.cameras)
        return {"frames": frames, "cameras": {camera.name: camera.summary() for camera in self.cameras}} | device
