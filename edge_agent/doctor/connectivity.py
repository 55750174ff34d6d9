"""Whether a device has contact: a broker that takes it, a catalogue, a server that answers. For the doctor."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

from cachenet.edge_agent.frame_inputs import FrameInputs
from cachenet.edge_agent.remote import Cloud
from cachenet.edge_agent.settings import Settings
from cachenet.shared.bundle.manifest import BundleError, Manifest, parse
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.types import Miss, Prediction
from cachenet.shared.command import diagnostics
from cachenet.shared.command.diagnostics import Finding
from cachenet.shared.media.signature import sign
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Message, MqttConnection, MqttError, address, password

_PATIENCE_S = 5.0
#: For how long a catalogue may be on its way.
_CATALOGUE_S = 2.0


def check_connectivity(settings: Settings, kept: Manifest | None) -> Generator[Finding, None, Manifest | None]:
    """Whether the broker takes us, and whether a server answers; what its catalogue offers."""
    try:
        device = protocol.check_device(settings.device)
        ca = Path(settings.ca) if settings.ca else None
        where = address(settings.broker, password(settings.password_file), ca)
        said: queue.SimpleQueue[Message] = queue.SimpleQueue()
        topics = [(protocol.topic(device, "answer"), 0), (protocol.CATALOGUE_TOPICS, 1)]
        link = MqttConnection(where, f"cachenet-{device}", topics, said.put)
    except (MqttError, protocol.Malformed) as error:
        yield Finding("broker", "problem", str(error))
        return None
    for finding in diagnostics.reach(where):
        yield finding
        if finding.grade == "problem":
            return None
    link.start()
    try:
        if error := link.settle(_PATIENCE_S):
            yield Finding("password", "problem", error.removesuffix("; trying again"))
            return None
        yield Finding("password", "ok", f"the broker takes {where.user or 'anybody'}")
        target = yield from _catalogue(settings, said)
        if (manifest := target or kept) is not None and "cloud" in settings.levels and settings.mode != "offline":
            yield _server(link, device, manifest, said)
        return target
    finally:
        link.stop()


def _catalogue(settings: Settings, said: queue.SimpleQueue[Message]) -> Generator[Finding, None, Manifest | None]:
    """What a server has on offer, and whether this device would take it."""
    end = time.monotonic() + _CATALOGUE_S
    with suppress(queue.Empty):
        while (left := end - time.monotonic()) > 0:
            message = said.get(timeout=left)
            name = message.topic.rsplit("/", 1)[-1]
            if not message.topic.startswith(protocol.CATALOGUE_TOPICS[:-1]) or settings.catalogue not in ("", name):
                continue
            try:
                manifest = parse(message.payload)
                if not is_signed(settings, message.payload, protocol.signature(message.properties)):
                    raise BundleError("--trusted-key has not signed it; sign what cloud-server serves")
            except (BundleError, ValueError) as error:
                yield Finding("catalogue", "problem", f"{name}: {error}")
                return None
            yield Finding("catalogue", "ok", f"{manifest.name}, {len(manifest.labels)} labels")
            return manifest
    what = f"no {settings.catalogue} is on offer" if settings.catalogue else "nothing is on offer"
    yield Finding("catalogue", "warning", f"{what}; start cloud-server on this broker")
    return None


def is_signed(settings: Settings, data: bytes, signature: bytes) -> bool:
    """Whether the trusted key, if there is one, has signed a manifest. Raises ``SigningError``."""
    if not settings.trusted_key:
        return True
    from cachenet.shared.bundle.trust import Key

    return Key(Path(settings.trusted_key)).vouches(data, signature)


def _server(link: MqttConnection, device: str, manifest: Manifest, said: queue.SimpleQueue[Message]) -> Finding:
    """Whether somebody answers a question, now."""
    cloud = Cloud(link, device, manifest, time.monotonic)
    ended = threading.Event()

    def hear() -> None:
        while not ended.is_set():
            with suppress(queue.Empty, protocol.Malformed):
                message = said.get(timeout=0.05)
                if message.topic == protocol.topic(device, "answer"):
                    cloud.receive(message)

    hearing = threading.Thread(target=hear, daemon=True)
    hearing.start()
    picture = diagnostics.golden()
    begun = time.monotonic()
    frame = Frame(0, FrameInputs(picture), sign(picture))
    miss = Miss(frame, (), begun, begun + _PATIENCE_S, Prediction(None, 1.0, 1.0, "base", ""), "")
    outcome = cloud.ask(miss, lambda: frame.view.crop(cloud.input))
    took = (time.monotonic() - begun) * 1000
    ended.set()
    hearing.join()
    if outcome.reply is None:
        return Finding("server", "warning", f"{outcome.trouble}; is cloud-server running on this broker?")
    label = manifest.labels[int(outcome.reply.logits.argmax())]
    return Finding("server", "ok", f"calls the golden picture {label}, after {took:.0f} ms")
