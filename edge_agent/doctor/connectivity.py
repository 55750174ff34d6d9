"""Connectivity checks of the doctor: broker, catalogue and server."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator
from contextlib import suppress

from cachenet.edge_agent.frame_inputs import FrameInputs
from cachenet.edge_agent.preparation import brokers, trusted_root
from cachenet.edge_agent.remote import CloudClient
from cachenet.edge_agent.server_version import ServerVersion
from cachenet.edge_agent.settings import Settings
from cachenet.shared.bundle.manifest import BundleError, Manifest, parse
from cachenet.shared.cascade.detect.types import SceneReply
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.types import Miss, Prediction
from cachenet.shared.command import diagnostics
from cachenet.shared.command.diagnostics import Finding
from cachenet.shared.command.errors import UserError
from cachenet.shared.media.signature import sign
from cachenet.shared.transport import protocol, version_1
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection, MqttError
from cachenet.shared.transport.shards import ranked

#: Longest wait for a connection, and for a reply of the server, seconds.
_TIMEOUT_S = 5.0
#: Longest wait for a catalogue, seconds.
_CATALOGUE_TIMEOUT_S = 2.0


def check_connectivity(settings: Settings, stored: Manifest | None) -> Generator[Finding, None, Manifest | None]:
    """Check broker, catalogue and server, of each broker of a list; returns the catalogue's manifest.

    Args:
        stored: Manifest on the device, used if the catalogue is empty.
    """
    try:
        device = protocol.check_device(settings.device)
        found = ranked(brokers(settings), device)
    except (MqttError, protocol.Malformed) as error:
        yield Finding("broker", "problem", str(error))
        return None
    offered: Manifest | None = None
    for where in found:
        checks = _check_broker(settings, device, where, stored)
        manifest = yield from diagnostics.at(where, checks) if len(found) > 1 else checks
        offered = offered or manifest
    return offered


def _check_broker(
    settings: Settings, device: str, where: Address, stored: Manifest | None
) -> Generator[Finding, None, Manifest | None]:
    """Check one broker; returns the manifest of its catalogue."""
    try:
        messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        topics = [(protocol.topic(device, "answer"), 0), *ServerVersion.TOPICS]
        link = MqttConnection(where, f"cachenet-{device}", topics, messages.put)
    except MqttError as error:
        yield Finding("broker", "problem", str(error))
        return None
    for finding in diagnostics.reach(where):
        yield finding
        if finding.grade == "problem":
            return None
    link.start()
    try:
        if reason := link.settle(_TIMEOUT_S):
            yield Finding("password", "problem", reason.removesuffix("; trying again"))
            return None
        yield Finding("password", "ok", f"the broker takes {where.user or 'anybody'}")
        wanted = settings.catalogue or (stored.name if stored is not None else "")
        offered = yield from _catalogue(settings, wanted, messages)
        if (manifest := offered or stored) is not None and "cloud" in settings.levels and settings.mode != "offline":
            yield _server(link, device, manifest, messages)
        return offered
    finally:
        link.stop()


def _catalogue(
    settings: Settings, wanted: str, messages: queue.SimpleQueue[Message]
) -> Generator[Finding, None, Manifest | None]:
    """Check the catalogue; returns the manifest that this device would take.

    Args:
        wanted: Name of the bundle; empty for the first one.
    """
    end = time.monotonic() + _CATALOGUE_TIMEOUT_S
    old_server = False
    others: set[str] = set()
    unsigned: set[str] = set()
    try:
        root = trusted_root(settings)
    except UserError as error:
        yield Finding("catalogue", "problem", str(error))
        return None
    with suppress(queue.Empty):
        while (left := end - time.monotonic()) > 0:
            message = messages.get(timeout=left)
            old_server |= version_1.is_server(message.topic, message.payload)
            if not message.topic.startswith(protocol.CATALOGUE_TOPICS[:-1]):
                continue
            name, kind = protocol.catalogue_of(message.topic)
            if kind == "rollout":
                continue
            if wanted not in ("", name):
                others.add(name)
                continue
            if (kind == "signed") != (root is not None):
                unsigned |= set() if kind else {name}
                continue
            try:
                data = message.payload
                if root is not None:
                    files = protocol.decode(data, protocol.SignedCatalogue, protocol.MAX_SIGNED).files
                    data = root.verify(name, files, time.time()).manifest
                manifest = parse(data)
            except (BundleError, ValueError) as error:
                yield Finding("catalogue", "problem", f"{name}: {error}")
                return None
            count = len(manifest.labels)
            yield Finding("catalogue", "ok", f"{manifest.name}, {count} label{'s' * (count > 1)}")
            return manifest
    if old_server:
        yield Finding("catalogue", "problem", version_1.OLD_SERVER)
        return None
    if root is not None and unsigned:
        name = sorted(unsigned)[0]
        yield Finding("catalogue", "problem", f"{name}: not signed, and --trusted-root is set; sign what is served")
        return None
    missing = f"the catalogue has no {wanted}" if wanted else "the catalogue is empty"
    advice = "start cloud-server on this broker"
    if others:
        advice = f"it offers {', '.join(sorted(others))}, which --set catalogue=NAME chooses"
    yield Finding("catalogue", "warning", f"{missing}; {advice}")
    return None


def _server(link: MqttConnection, device: str, manifest: Manifest, messages: queue.SimpleQueue[Message]) -> Finding:
    """Check that a server replies to a request."""
    cloud = CloudClient(link, device, manifest, time.monotonic)
    ended = threading.Event()

    def receive() -> None:
        while not ended.is_set():
            with suppress(queue.Empty, protocol.Malformed):
                message = messages.get(timeout=0.05)
                if message.topic == protocol.topic(device, "answer"):
                    cloud.receive(message)

    receiver = threading.Thread(target=receive, daemon=True)
    receiver.start()
    picture = diagnostics.golden()
    begun = time.monotonic()
    frame = Frame(0, FrameInputs(picture), sign(picture))
    miss = Miss(frame, (), begun, begun + _TIMEOUT_S, Prediction(None, 1.0, 1.0, "base", ""), "")
    detects = manifest.task == "detection"
    outcome = cloud.ask(miss, lambda: picture if detects else frame.view.crop(cloud.input))
    latency_ms = (time.monotonic() - begun) * 1000
    ended.set()
    receiver.join()
    reply = outcome.reply
    if reply is None:
        return Finding("server", "warning", f"{outcome.error}; is cloud-server running on this broker?")
    if isinstance(reply, SceneReply):
        found = diagnostics.objects_text(len(reply.detections))
        return Finding("server", "ok", f"the full model {found}, after {latency_ms:.0f} ms")
    label = manifest.labels[int(reply.logits.argmax())]
    return Finding("server", "ok", f"calls the golden picture {label}, after {latency_ms:.0f} ms")
