"""The server: passes requests to the full model or to the bundle's files, and replies to the devices."""

from __future__ import annotations

import logging
import re
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cachenet.cloud_server.fleet.canary import Canary
from cachenet.cloud_server.fleet.controller import RolloutController
from cachenet.cloud_server.serving.blobs import Blobs
from cachenet.cloud_server.serving.counters import Counters
from cachenet.cloud_server.serving.full_model import FullDetector, FullModel
from cachenet.cloud_server.serving.request_ids import RequestIds
from cachenet.cloud_server.serving.shard import Shard
from cachenet.cloud_server.serving.worker import Job, Worker
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.transport import protocol, version_1
from cachenet.shared.transport.mqtt import Address, Link, Message, MqttConnection
from cachenet.shared.transport.protocol import (
    Answer,
    BlobRequest,
    Chunk,
    DetectionAnswer,
    Malformed,
    Rejection,
    Reply,
    SignedCatalogue,
)
from cachenet.shared.transport.rollout import Rollout

if TYPE_CHECKING:
    from cachenet.cloud_server.serving.signer import CatalogueSigner

log = logging.getLogger(__name__)

#: Time that ``stop`` waits for a running batch, seconds. The connection stops within another second.
_STOP_TIMEOUT_S = 0.7
#: Time between two checks whether metadata is to be renewed, seconds.
_RENEWAL_CHECK_S = 5.0
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Server:
    """Serves one bundle to the devices of one or more brokers; a reply goes to the broker that its request came from.

    The state per device is the early exits' estimate of its labels, which a new server soon relearns, and the ids of
    its last requests from an outbox. So any number of servers may share the requests.
    """

    def __init__(
        self,
        bundle: Bundle,
        full: FullModel | FullDetector,
        brokers: Sequence[Address],
        queue: int,
        max_batch: int,
        device_share: float,
        on_full_result: Callable[[Job, Answer | DetectionAnswer], None] | None = None,
        own_broker: bool = False,
        signer: CatalogueSigner | None = None,
        canary: Canary | None = None,
    ) -> None:
        """Create a server that is not yet started.

        Args:
            bundle: Bundle to serve.
            full: Full model of the bundle.
            brokers: Addresses of the brokers.
            queue: Largest number of queued requests.
            max_batch: Largest batch, unless the model fixes its batch; of a model on a V2 server, the largest number of
                requests on their way to that server.
            device_share: Quota of a device while others wait, as a share of the full model's time, above 0.
            on_full_result: Called, on a thread of the worker, with the answer to each picture that ran through the
                whole model.
            own_broker: Whether the broker is the embedded one, which is supervised elsewhere. Otherwise the server
                probes each broker by a round trip, and removes useless retained messages.
            signer: Signs what the server publishes; None for an unsigned bundle.
            canary: A newer version of the bundle to roll out; None for none.

        Raises:
            MqttError: The credentials cannot be used.
        """
        self.counters = Counters()
        self._bundle, self._full, self._signer = bundle, full, signer
        self._canary, self._rollout = canary, None if canary is None else self._controller(bundle, canary)
        self._blobs = self._blobs_of(bundle)
        self._ids = RequestIds()
        self._worker = Worker(
            full,
            bundle.manifest,
            queue,
            1 if full.remote else full.batch or max_batch,
            device_share,
            self._reply,
            self._count_batch,
            on_full_result,
            concurrency=max_batch if full.remote else 1,
        )
        name = f"cloud-{secrets.token_hex(4)}"
        topics = () if self._rollout is None else self._rollout.topics
        self._shards = [Shard(where, name, topics, self._receive, self._announce, own_broker) for where in brokers]
        self._renewer = SupervisedThread("signer", self._renew)
        self._signing = threading.Lock()
        self._signing_error = self._expiry_warning = ""

    def start(self) -> None:
        """Serve each broker as soon as it is reachable, and after each reconnection."""
        self._worker.start()
        for shard in self._shards:
            shard.start()
        if self._signer is not None:
            self._renewer.start()

    def update(self, bundle: Bundle) -> None:
        """Serve another bundle with the same full model. Callable from any thread."""
        self._blobs = self._blobs_of(bundle)  # first: devices request what the catalogue names
        self._bundle, self._worker.manifest = bundle, bundle.manifest
        for shard in self._shards:
            self._announce(shard)

    def stop(self) -> bool:
        """End within two seconds. False if a batch is still running: a run of the model cannot be interrupted."""
        self._renewer.stopping.set()
        ended = self._worker.stop(_STOP_TIMEOUT_S)
        stopping = [threading.Thread(target=shard.stop, daemon=True) for shard in self._shards]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()
        return ended

    @property
    def connected(self) -> int:
        """Number of brokers that the server is connected to."""
        return sum(shard.link.connected.is_set() for shard in self._shards)

    @property
    def waiting(self) -> int:
        """Number of queued requests."""
        return self._worker.waiting

    def unhealthy_reason(self) -> str:
        """Why the server cannot answer; empty if it can, to the devices of one broker at least."""
        threads = self._worker.threads
        if not all(thread.alive for thread in threads):
            return "a thread of the full model has ended; start the server again"
        faults = [self._renewer.fault, *(one.fault for one in threads), *(one.fault for one in self._shards)]
        if fault := next(filter(None, faults), ""):
            return f"a thread of the server fails ({fault}); see the server's log"
        errors = [shard.error for shard in self._shards]
        return "; ".join(errors) if all(errors) else ""

    def _blobs_of(self, bundle: Bundle) -> Blobs:
        """The files of a bundle; with signatures, also those of the builder's bundle, to which it is an extension; and
        those of a version that is rolled out."""
        others = [self._signer.bundle] if self._signer is not None else []
        return Blobs(*others, *([self._canary.bundle] if self._canary is not None else []), bundle)

    def _controller(self, bundle: Bundle, canary: Canary) -> RolloutController:
        name, version = bundle.manifest.name, canary.bundle.version
        start = Rollout(name, bundle.version, version, "running", 0, canary.share, canary.devices)

        def publish(topic: str, payload: bytes) -> None:
            for shard in self._shards:
                shard.link.publish(topic, payload, qos=1, retain=True)

        return RolloutController(start, canary.files, publish, self._promote)

    def _promote(self) -> None:
        """Serve the version that was rolled out, for all devices."""
        assert self._canary is not None
        with self._signing:
            self._signer = self._canary.signer
        self.update(self._canary.bundle)

    def _renew(self) -> None:
        if not self._renewer.stopping.wait(_RENEWAL_CHECK_S):
            assert self._signer is not None
            with self._signing:
                due, error, warning = self._signer.due(), self._signer.error, self._signer.expiry_warning()
            if error and error != self._signing_error:
                log.error("renewed metadata is not used: %s", error)
            if warning and warning != self._expiry_warning:
                log.warning("%s", warning)
            self._signing_error, self._expiry_warning = error, warning
            if due:
                self._publish_signed()
                if self._rollout is not None:
                    self._rollout.publish()

    def _publish_signed(self) -> None:
        """Sign the catalogue and publish it on all brokers, so that a device which changes its broker finds no older
        one there."""
        if self._signer is None:
            return
        with self._signing:  # in order of the versions
            message = protocol.encode(SignedCatalogue(self._signer.sign(self._bundle)))
            topic = protocol.signed_catalogue(self._bundle.manifest.name)
            for shard in self._shards:
                shard.link.publish(topic, message, qos=1, retain=True)

    def _announce(self, shard: Shard) -> None:
        self._publish_signed()
        name = self._bundle.manifest.name
        shard.link.publish(protocol.catalogue(name), self._bundle.data, qos=1, retain=True)
        if self._rollout is not None:
            self._rollout.on_connect()
        # QoS 0: a broker may deny the topics of version 1, which is no fault.
        shard.link.publish(protocol.catalogue(name, version_1.ROOT), version_1.CATALOGUE, retain=True)

    # The methods below, to ``_refuse``, run on the threads of the connections and must return quickly.

    def _receive(self, shard: Shard, message: Message) -> None:
        with self.counters.change() as counts:
            counts.bytes_in += len(message.payload)
        try:
            if message.topic.startswith(version_1.ROOT + "/"):
                self._refuse_version_1(shard.link, message)
                return
            if self._rollout is not None and self._rollout.receive(message):
                return
            device, leaf = protocol.device_of(message.topic)
            if leaf == ("blob", "get"):
                self._send_chunk(shard.link, device, message)
            else:
                self._infer(shard.link, device, leaf, message)
        except Malformed as error:
            with self.counters.change() as counts:
                counts.malformed += 1
            log.debug("malformed message on %.200s: %s", message.topic, error)

    def _infer(self, link: Link, device: str, leaf: tuple[str, ...], message: Message) -> None:
        try:
            request = protocol.request(leaf, message.content, message.correlation, message.properties)
            if len(message.payload) > protocol.MAX_PICTURE:
                raise Malformed(f"picture of {len(message.payload)} bytes, {protocol.MAX_PICTURE} allowed")
            if any(label >= len(self._bundle.manifest.labels) for label in request.recent):
                raise Malformed(f"'recent' has a label that is not a label of {self._bundle.manifest.name}")
        except Malformed as error:
            if message.correlation is not None and 0 < len(message.correlation) <= 64:
                self._refuse(link, device, message.correlation, Rejection("bad-input", str(error)))
            raise
        if request.model != self._full.name:
            why = f"the full model of this server is {self._full.name}"
            self._refuse(link, device, request.correlation, Rejection("unknown-model", why))
            return
        if request.id and (rejection := self._ids.begin(device, request.id)) is not None:
            self._refuse(link, device, request.correlation, rejection)
            return
        with self.counters.change() as counts:
            counts.requests += 1
        refused = self._worker.submit(Job(device, request, message.payload, link))
        if refused is None:
            return
        with self.counters.change() as counts:
            counts.throttled += refused.over_quota
        why = "this device is over its quota and others wait" if refused.over_quota else "the server's queue is full"
        self._reply(refused.item, Rejection("busy", why, refused.retry_after_ms))

    def _send_chunk(self, link: MqttConnection, device: str, message: Message) -> None:
        request = _blob_request(message)
        payload = protocol.encode(self._blobs.chunk(request))
        # A device asks for the next piece of a file when it has the one before.
        sent = link.publish(protocol.topic(device, "blob", request.sha256), payload, single=True)
        with self.counters.change() as counts:
            counts.chunks += sent
            counts.bytes_out += len(payload) * sent

    def _refuse_version_1(self, link: Link, message: Message) -> None:
        """Reply to a device of version 1, in the form of that version, which versions meet and what to update."""
        device, leaf = protocol.device_of(message.topic, version_1.ROOT)
        if leaf == ("blob", "get"):
            request = _blob_request(message)
            payload = protocol.encode(Chunk(request.offset, 0, b"", version_1.REFUSAL))
            link.publish(protocol.topic(device, "blob", request.sha256, root=version_1.ROOT), payload)
        elif message.correlation is None or not 0 < len(message.correlation) <= 64:
            raise Malformed("correlation data missing or longer than 64 bytes")
        else:
            self._refuse(link, device, message.correlation, version_1.REJECTION, version_1.ROOT)
        log.warning("%s", version_1.old_device(device))

    def _refuse(
        self, link: Link, device: str, correlation: bytes, rejection: Rejection, root: str = protocol.ROOT
    ) -> None:
        with self.counters.change() as counts:
            counts.requests += 1
        self._send(link, device, correlation, rejection, root)

    def _reply(self, job: Job, reply: Reply) -> None:
        if job.request.id:
            self._ids.end(job.device, job.request.id, answered=not isinstance(reply, Rejection))
        assert job.link is not None
        self._send(job.link, job.device, job.request.correlation, reply)

    def _send(self, link: Link, device: str, correlation: bytes, reply: Reply, root: str = protocol.ROOT) -> None:
        payload = protocol.encode(reply)
        sent = link.publish(protocol.topic(device, "answer", root=root), payload, correlation=correlation)
        with self.counters.change() as counts:
            if isinstance(reply, Rejection):
                counts.refusals[reply.reason] = counts.refusals.get(reply.reason, 0) + 1
            else:
                counts.answers += 1
            counts.lost += not sent
            counts.bytes_out += len(payload) * sent

    def _count_batch(self) -> None:
        with self.counters.change() as counts:
            counts.batches += 1


def _blob_request(message: Message) -> BlobRequest:
    request = protocol.decode(message.payload, BlobRequest)
    if not _SHA256.fullmatch(request.sha256):  # the digest becomes part of a topic
        raise Malformed("sha256 is not 64 hexadecimal digits")
    return request
