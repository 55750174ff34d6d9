"""What crosses the wire: topics, messages, bounds. Pure: no client, no clock.

MQTT 5 under ``cachenet/1/<device>/``. Structured payloads are MessagePack of the structs below, decoded with types
checked and sizes bounded; JSON where others read them. Whatever is malformed raises ``Malformed`` and nothing else, so
that a receiving loop has one thing to catch. Pictures and blobs travel as they are; what describes them travels in MQTT
properties.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar, cast, get_args

import msgspec
import numpy as np
import numpy.typing as npt

VERSION = 1
ROOT = f"cachenet/{VERSION}"

#: Largest picture a request may carry and largest structured payload, bytes.
MAX_PICTURE = 4 << 20
MAX_MESSAGE = 256 << 10
#: Largest piece of a file in one message, bytes. Small enough that an answer never waits long behind it.
CHUNK = 128 << 10
MAX_CLASSES = 16_384
#: How many of its recent labels a device tells the server.
RECENT = 16

#: A group of its own for each topic: with both in one, rumqttd, the embedded broker, loses messages of one or the
#: other (measured: 0 of 50 arrived, against 50 of 50 with two groups).
SERVER_TOPICS = (
    f"$share/cloud-infer/{ROOT}/+/infer/#",
    f"$share/cloud-audit/{ROOT}/+/audit/#",
    f"$share/cloud-blob/{ROOT}/+/blob/get",
)
CATALOGUE_TOPICS = f"{ROOT}/catalogue/#"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

ContentType = Literal["image/png", "image/jpeg"]
Reason = Literal["busy", "bad-input", "unknown-model", "expired"]
T = TypeVar("T")


class Malformed(ValueError):
    """A message that does not say what it must; the text is fit for a refusal."""


class Timing(msgspec.Struct, frozen=True, array_like=True):
    """Where a request's time went on the server, milliseconds, and how many requests shared its run."""

    queued: float
    decode: float
    run: float
    batch: int


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """The full model's word on one frame.

    ``scores``: logits, little-endian float32, one per label. ``model``: SHA-256 of the model file that gave them.
    ``submodel``: the one that the selector recommends for this device now, if any. ``risk``: where a cache
    between the model's layers has answered, the probability that the whole model would have said otherwise.
    """

    scores: bytes
    model: str
    submodel: str | None
    timing: Timing
    risk: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None

    def logits(self, classes: int) -> npt.NDArray[np.float32]:
        """Scores as ``(classes,)`` float32. Raises ``Malformed`` if they are not that many or not finite."""
        if len(self.scores) != 4 * classes:
            raise Malformed(f"{len(self.scores)} bytes of scores for {classes} labels")
        logits = np.frombuffer(self.scores, "<f4")
        if not np.isfinite(logits).all():
            raise Malformed("scores are not finite")
        return logits


class Rejection(msgspec.Struct, frozen=True, tag="refusal"):
    """Why there is no answer; ``detail`` is one line for a person."""

    reason: Reason
    detail: str


class Request(msgspec.Struct, frozen=True):
    """A frame on its way to the full model, beside its picture.

    ``budget_ms``: what was left of the frame's deadline when it was sent; the server counts its own queueing against
    it and no two clocks are compared. ``recent``: indices of the device's recent labels, oldest first. ``risk``: at
    which a cache between the model's layers may answer at the most. ``audit``: the device has answered already and only
    checks itself, so anybody else comes first.
    """

    model: str
    content: ContentType
    correlation: bytes
    budget_ms: int
    recent: tuple[int, ...] = ()
    audit: bool = False
    risk: float = 1.0

    def properties(self) -> list[tuple[str, str]]:
        """The MQTT user properties; content type and correlation data have properties of their own."""
        own = [("budget-ms", str(self.budget_ms)), ("recent", " ".join(map(str, self.recent)))]
        return own if self.risk >= 1.0 else [*own, ("risk", f"{self.risk:.6f}")]


class BlobRequest(msgspec.Struct, frozen=True):
    """A piece of a content-addressed file, please."""

    sha256: str
    offset: int
    length: int


class Chunk(msgspec.Struct, frozen=True):
    """A piece of a file of ``total`` bytes, or the reason why there is none (``data`` empty)."""

    offset: int
    total: int
    data: bytes
    error: str = ""


class Status(msgspec.Struct, frozen=True):
    """Birth and will of a device, retained; as JSON, for others read it too. ``update``: how the newest update of the
    models stands: ``pending``, ``probing``, ``trial``, ``committed`` or ``failed``, and why in brackets."""

    state: Literal["online", "offline", "stopped"]
    version: str
    bundle: str = ""
    resident: tuple[str, ...] = ()
    update: str = ""


def topic(device: str, *leaf: str) -> str:
    """``cachenet/1/<device>/<leaf>``; see ``check_device``."""
    return "/".join((ROOT, check_device(device), *leaf))


def catalogue(bundle: str) -> str:
    return f"{ROOT}/catalogue/{check_device(bundle)}"


def signed(signature: bytes) -> list[tuple[str, str]]:
    """The MQTT user properties of a catalogue entry with that signature; none without."""
    return [("signature", signature.hex())] if signature else []


def signature(properties: Sequence[tuple[str, str]]) -> bytes:
    """The signature of a catalogue entry, empty if it has none. Raises ``Malformed``."""
    try:
        return bytes.fromhex(dict(properties).get("signature", ""))
    except ValueError:
        raise Malformed("the signature is not hexadecimal") from None


def check_device(name: str) -> str:
    """``name`` if it may stand in a topic, else ``Malformed``: letters, digits and ``. _ -``, 64 at most."""
    if not _NAME.fullmatch(name) or name == "catalogue":
        raise Malformed(f"{name[:80]!r} is no device name: letters, digits, '.', '_', '-', 64 at most")
    return name


def device_of(received: str) -> tuple[str, tuple[str, ...]]:
    """Split a received topic into the device's name and the rest. Raises ``Malformed``."""
    prefix = ROOT + "/"
    if not received.startswith(prefix):
        raise Malformed(f"topic outside {ROOT}")
    device, *leaf = received[len(prefix) :].split("/")
    return check_device(device), tuple(leaf)


def request(
    leaf: Sequence[str], content: str | None, correlation: bytes | None, properties: Sequence[tuple[str, str]]
) -> Request:
    """Read a request's description from its topic and properties. Raises ``Malformed``."""
    if len(leaf) != 2 or leaf[0] not in ("infer", "audit"):
        raise Malformed("topic is not infer/<model> or audit/<model>")
    if content not in get_args(ContentType):
        raise Malformed(f"content type {str(content)[:40]!r} is not image/png or image/jpeg")
    if correlation is None or not 0 < len(correlation) <= 64:
        raise Malformed("correlation data missing or longer than 64 bytes")
    named = dict(properties)
    try:
        budget = int(named.get("budget-ms", ""))
        recent = tuple(int(label) for label in named.get("recent", "").split())
        risk = float(named.get("risk", "1"))
    except ValueError:
        raise Malformed("budget-ms and recent must be whole numbers, and risk a number") from None
    if not 0 <= risk <= 1:
        raise Malformed(f"risk {risk} is not in 0..1")
    if not 0 <= budget <= 600_000:
        raise Malformed(f"budget-ms {budget} is not in 0..600000")
    if len(recent) > RECENT or any(not 0 <= label < MAX_CLASSES for label in recent):
        raise Malformed(f"recent holds more than {RECENT} labels or one that cannot be")
    return Request(leaf[1], cast(ContentType, content), correlation, budget, recent, leaf[0] == "audit", risk)


def encode(message: msgspec.Struct) -> bytes:
    return msgspec.msgpack.encode(message)


def describe(message: msgspec.Struct) -> bytes:
    """As JSON: what any program may want to read."""
    return msgspec.json.encode(message)


def decode(payload: bytes, kind: type[T], limit: int = MAX_MESSAGE) -> T:
    """Decode ``payload`` as ``kind`` (a struct or a union of tagged ones). Raises ``Malformed``."""
    if len(payload) > limit:
        raise Malformed(f"message of {len(payload)} bytes, {limit} allowed")
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from None
