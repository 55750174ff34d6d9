"""The server: what comes over the wire goes to the full model or the blobs, and back to who asked."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable

from cachenet.cloud_server.broker.probe import PROBE_S, RoundTripProbe
from cachenet.cloud_server.serving.blobs import Blobs
from cachenet.cloud_server.serving.counters import Counters
from cachenet.cloud_server.serving.full_model import FullModel
from cachenet.cloud_server.serving.worker import Job, Worker
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.inference.engine import Logits
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection
from cachenet.shared.transport.protocol import Malformed, Rejection

log = logging.getLogger(__name__)

#: How long a batch may go on after ``stop``, seconds. With the link's own bound this keeps the whole under two.
_PATIENCE_S = 0.7
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Server:
    """Serves one bundle. Keeps nothing about a device but what caches between layers have come to expect of it, which
    is made up soon, so that any number of servers may share the work."""

    def __init__(
        self,
        bundle: Bundle,
        full: FullModel,
        broker: Address,
        queue: int,
        max_batch: int,
        saw: Callable[[Job, Logits], None] = lambda _job, _logits: None,
        probes_broker: bool = True,
    ) -> None:
        """``saw``: hears, on the worker's thread, what the full model said of each picture. ``probes_broker``: whether
        ``ill`` says that the broker answers nothing. Raises ``LinkError`` for credentials that cannot be used."""
        self.counters = Counters()
        self._bundle, self._full = bundle, full
        self._blobs = Blobs(bundle)
        self._worker = Worker(full, bundle.manifest, queue, full.batch or max_batch, self._reply, self._ran, saw)
        name = f"cloud-{secrets.token_hex(4)}"
        self._probe = RoundTripProbe(protocol.topic(name, "answer"))
        self._probes_broker = probes_broker
        probed = (self._probe.topic,) if probes_broker else ()
        self._link = MqttConnection(
            broker,
            name,
            [(topic, 1) for topic in (*protocol.SERVER_TOPICS, *probed)],
            self._receive,
            self._announce,
        )
        self._prober = SupervisedThread("broker-round-trip", self._ask_broker)

    def start(self) -> None:
        """Begin to serve, as soon as there is a broker and whenever there is one again."""
        self._worker.start()
        self._link.start()
        if self._probes_broker:
            self._prober.start()

    def update(self, bundle: Bundle) -> None:
        """Serve this bundle from now on: the same full model and, it may be, other submodels. From any thread."""
        self._blobs = Blobs(bundle)  # first, so that whoever hears of a model can have it
        self._bundle, self._worker.manifest = bundle, bundle.manifest
        self._announce()

    def stop(self) -> bool:
        """End within two seconds. False if a batch is still running: the model cannot be interrupted."""
        self._prober.stopping.set()
        ended = self._worker.stop(_PATIENCE_S)
        self._link.stop()
        return ended

    @property
    def connected(self) -> bool:
        """Whether there is a broker."""
        return self._link.connected.is_set()

    @property
    def waiting(self) -> int:
        """Questions in the queue."""
        return self._worker.waiting

    def ill(self) -> str:
        """Why nobody is answered; empty while all is well."""
        if not self._worker.alive:
            return "the full model's thread has ended; start the server again"
        if fault := self._worker.fault or self._prober.fault:
            return f"a thread of the server fails ({fault}); see the server's log"
        return self._probe.trouble if self.connected else self._link.trouble

    def _ask_broker(self) -> None:
        if not self._prober.stopping.wait(PROBE_S):
            was, trouble = self._probe.trouble, self._probe.run(self._link)
            if trouble and not was:
                log.error(trouble)

    def _announce(self) -> None:
        self._probe.connected()
        topic = protocol.catalogue(self._bundle.manifest.name)
        signature = protocol.signed(self._bundle.signature)
        self._link.publish(topic, self._bundle.data, qos=1, retain=True, properties=signature)

    # From here to _refuse all runs on the link's thread, where nothing may take long: parse, queue, read a piece.

    def _receive(self, message: Message) -> None:
        if message.topic == self._probe.topic:
            self._probe.receive(message.payload)
            return
        with self.counters.change() as counts:
            counts.bytes_in += len(message.payload)
        try:
            device, leaf = protocol.device_of(message.topic)
            if leaf == ("blob", "get"):
                self._blob(device, message)
            else:
                self._infer(device, leaf, message)
        except Malformed as error:
            with self.counters.change() as counts:
                counts.malformed += 1
            log.debug("malformed message on %.200s: %s", message.topic, error)

    def _infer(self, device: str, leaf: tuple[str, ...], message: Message) -> None:
        try:
            request = protocol.request(leaf, message.content, message.correlation, message.properties)
            if len(message.payload) > protocol.MAX_PICTURE:
                raise Malformed(f"picture of {len(message.payload)} bytes, {protocol.MAX_PICTURE} allowed")
            if any(label >= len(self._bundle.manifest.labels) for label in request.recent):
                raise Malformed(f"recent holds a label that {self._bundle.manifest.name} has not")
        except Malformed as error:
            if message.correlation is not None and 0 < len(message.correlation) <= 64:
                self._refuse(device, message.correlation, Rejection("bad-input", str(error)))
            raise
        if request.model != self._full.name:
            known = f"the full model here is {self._full.name}"
            self._refuse(device, request.correlation, Rejection("unknown-model", known))
            return
        with self.counters.change() as counts:
            counts.requests += 1
        job = Job(device, request, message.payload)
        if not self._worker.submit(job):
            self._reply(job, Rejection("busy", "the server's queue is full"))

    def _blob(self, device: str, message: Message) -> None:
        request = protocol.decode(message.payload, protocol.BlobRequest)
        if not _SHA256.fullmatch(request.sha256):  # it becomes a topic
            raise Malformed("sha256 is not 64 hexadecimal digits")
        payload = protocol.encode(self._blobs.chunk(request))
        sent = self._link.publish(protocol.topic(device, "blob", request.sha256), payload)
        with self.counters.change() as counts:
            counts.chunks += sent
            counts.bytes_out += len(payload) * sent

    def _refuse(self, device: str, correlation: bytes, refusal: Rejection) -> None:
        with self.counters.change() as counts:
            counts.requests += 1
        self._send(device, correlation, refusal)

    def _reply(self, job: Job, said: protocol.Answer | Rejection) -> None:
        self._send(job.device, job.request.correlation, said)

    def _send(self, device: str, correlation: bytes, said: protocol.Answer | Rejection) -> None:
        payload = protocol.encode(said)
        sent = self._link.publish(protocol.topic(device, "answer"), payload, correlation=correlation)
        with self.counters.change() as counts:
            if isinstance(said, Rejection):
                counts.refusals[said.reason] = counts.refusals.get(said.reason, 0) + 1
            else:
                counts.answers += 1
            counts.lost += not sent
            counts.bytes_out += len(payload) * sent

    def _ran(self) -> None:
        with self.counters.change() as counts:
            counts.batches += 1
