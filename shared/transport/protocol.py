"""The protocol between devices and server: topics, messages and bounds.

MQTT 5 under ``cachenet/2/<device>/``. Structured payloads are MessagePack of the structs below, with checked types and
bounded sizes; JSON where other programs read them. Pictures and files are plain payloads, described by MQTT properties.
Every invalid message raises ``Malformed``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar, cast, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.detect.detections import MAX_DETECTIONS, Detections, checked

VERSION = 2
ROOT = f"cachenet/{VERSION}"

#: Largest picture of a request, bytes.
MAX_PICTURE = 4 << 20
#: Largest structured payload, bytes.
MAX_MESSAGE = 256 << 10
#: Largest piece of a file in one message, bytes. Small, so that an answer does not wait long behind a piece.
CHUNK = 128 << 10
#: Largest signed catalogue, bytes, and most files in it. One is of 2 kB for each key that was ever replaced.
MAX_SIGNED, MAX_FILES = 2 << 20, 256
#: Largest number of labels.
MAX_CLASSES = 16_384
#: Most recent labels in a request.
RECENT = 16

#: Largest time budget of a request by kind, milliseconds; a larger one counts as this. Devices give a question their
#: ``deadline_ms`` (250 by default), a posted one five seconds, and an audit this budget.
MAX_BUDGET_MS = {"infer": 10_000, "audit": 60_000}

#: Size of a box, a label and a score in a message, bytes.
_BOX, _LABEL, _SCORE = 16, 2, 4

#: Subscriptions of the server. Each topic has its own group, because rumqttd, the embedded broker, loses messages of
#: topics that share one (0 of 50 arrived, against 50 of 50 with two groups).
SERVER_TOPICS = (
    f"$share/cloud-infer/{ROOT}/+/infer/#",
    f"$share/cloud-audit/{ROOT}/+/audit/#",
    f"$share/cloud-blob/{ROOT}/+/blob/get",
)
#: Topics that a device publishes on, after its name.
DEVICE_LEAVES = ("status", "stats", "infer/#", "audit/#", "blob/get", "result/#", "snapshot/#")
#: Topics of all manifests and signed catalogues.
CATALOGUE_TOPICS = f"{ROOT}/catalogue/#"
#: Kind of a message under these topics, and the last part of its topic: a manifest, a signed catalogue or a rollout.
CatalogueKind = Literal["", "signed", "rollout"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ID = re.compile(r"(?:[0-9a-f]{32})?")

ContentType = Literal["image/png", "image/jpeg"]
#: ``duplicate``: the request with this id has an answer already. Only requests with an id are refused so.
Reason = Literal["busy", "bad-input", "unknown-model", "expired", "duplicate"]
T = TypeVar("T")


class Malformed(ValueError):
    """An invalid message. The error text may be sent to its sender."""


class Timing(msgspec.Struct, frozen=True, array_like=True):
    """Times of a request on the server, milliseconds, and the number of requests that shared its run (``batch``)."""

    queued: float
    decode: float
    run: float
    batch: int


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """A classifier's answer to a request.

    Attributes:
        scores: Logits, little-endian float32, one for each label.
        model: SHA-256 of the model file.
        submodel: Name of the submodel that the server recommends; None for none.
        risk: Where an early exit answered, the probability that the whole model would have given another label; None
            where the whole model ran.
    """

    scores: bytes
    model: str
    submodel: str | None
    timing: Timing
    risk: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None

    def logits(self, classes: int) -> npt.NDArray[np.float32]:
        """Scores as ``(classes,)`` float32. Raises ``Malformed``."""
        if len(self.scores) != 4 * classes:
            raise Malformed(f"{len(self.scores)} bytes of scores for {classes} labels")
        logits = np.frombuffer(self.scores, "<f4")
        if not np.isfinite(logits).all():
            raise Malformed("scores are not finite")
        return logits


class DetectionAnswer(msgspec.Struct, frozen=True, tag="detections"):
    """A detector's answer to a request: boxes, labels and scores of ``n`` objects; none is an answer, too.

    Attributes:
        boxes: Left, top, right and bottom as shares of the picture, little-endian float32 ``(n, 4)``.
        labels: Index of each box's label, little-endian uint16 ``(n,)``.
        scores: Score of each box, 0 to 1, little-endian float32 ``(n,)``.
        model: SHA-256 of the model file.
        submodel: Name of the submodel that the server recommends; None for none.

    Example:
        >>> found = checked([[0.1, 0.1, 0.3, 0.5]], [0], [0.9], classes=1)
        >>> answer = DetectionAnswer.of(found, "0" * 64, None, Timing(0.0, 0.0, 0.0, 1))
        >>> answer.detections(classes=1).boxes.tolist() == found.boxes.tolist()
        True
    """

    boxes: bytes
    labels: bytes
    scores: bytes
    model: str
    submodel: str | None
    timing: Timing

    @classmethod
    def of(cls, found: Detections, model: str, submodel: str | None, timing: Timing) -> DetectionAnswer:
        """The answer with these detections."""
        boxes, scores = found.boxes.astype("<f4").tobytes(), found.scores.astype("<f4").tobytes()
        return cls(boxes, found.labels.astype("<u2").tobytes(), scores, model, submodel, timing)

    def detections(self, classes: int) -> Detections:
        """The detections, clipped to the picture, of ``classes`` labels. Raises ``Malformed``."""
        count = len(self.scores) // _SCORE
        sizes = (len(self.boxes), len(self.labels), len(self.scores))
        if sizes != (count * _BOX, count * _LABEL, count * _SCORE):
            raise Malformed("boxes, labels and scores of {}, {} and {} bytes do not fit each other".format(*sizes))
        if count > MAX_DETECTIONS:
            raise Malformed(f"{count} detections, {MAX_DETECTIONS} allowed")
        boxes, scores = np.frombuffer(self.boxes, "<f4").reshape(count, 4), np.frombuffer(self.scores, "<f4")
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise Malformed("boxes or scores are not finite")
        return checked(boxes, np.frombuffer(self.labels, "<u2"), scores, classes)


class Rejection(msgspec.Struct, frozen=True, tag="refusal", omit_defaults=True):
    """Reply to a request without an answer.

    Attributes:
        detail: One line for the user.
        retry_after_ms: With the reason ``busy``, time after which the device may ask again, milliseconds; None for any
            time. Earlier devices of version 2 ignore this field.
    """

    reason: Reason
    detail: str
    retry_after_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)] | None = None


#: Reply to a request.
Reply = Answer | DetectionAnswer | Rejection


class Request(msgspec.Struct, frozen=True):
    """Description of a request to the full model; the payload is the picture.

    Attributes:
        model: SHA-256 of the model file.
        content: Content type of the picture.
        correlation: Correlation data, which the reply repeats.
        budget_ms: Time left of the frame's deadline when it was sent, milliseconds, ``MAX_BUDGET_MS`` at most. The
            server subtracts its own waiting time, so that clocks are not compared.
        recent: Indices of the device's recent labels, oldest first.
        audit: Whether the frame is already answered; other requests come first.
        risk: Largest risk of an early exit.
        id: Identifies the frame of a request that may be sent more than once, 32 hexadecimal digits; empty for others.
            A server answers it once.
    """

    model: str
    content: ContentType
    correlation: bytes
    budget_ms: int
    recent: tuple[int, ...] = ()
    audit: bool = False
    risk: float = 1.0
    id: str = ""

    def properties(self) -> list[tuple[str, str]]:
        """The MQTT user properties; content type and correlation data are properties of MQTT itself."""
        own = [("budget-ms", str(self.budget_ms)), ("recent", " ".join(map(str, self.recent)))]
        if self.risk < 1.0:
            own.append(("risk", f"{self.risk:.6f}"))
        if self.id:
            own.append(("id", self.id))
        return own


class BlobRequest(msgspec.Struct, frozen=True):
    """Request for a piece of a file, identified by its SHA-256."""

    sha256: str
    offset: int
    length: int


class Chunk(msgspec.Struct, frozen=True):
    """A piece of a file of ``total`` bytes; or an error, with ``data`` empty."""

    offset: int
    total: int
    data: bytes
    error: str = ""


class SignedCatalogue(msgspec.Struct, frozen=True):
    """A manifest with all that proves it, retained.

    One message, so that a device never sees files of two versions.

    Attributes:
        files: Metadata of The Update Framework, the manifest and its extension, by name.
    """

    files: Annotated[
        dict[Annotated[str, msgspec.Meta(max_length=128)], bytes], msgspec.Meta(min_length=1, max_length=MAX_FILES)
    ]


class Status(msgspec.Struct, frozen=True):
    """Status of a device, retained, as JSON; also its MQTT will.

    Attributes:
        state: Whether the device is connected.
        bundle: Version of the active bundle.
        resident: Names of the resident submodels.
        update: State of the newest update of the models: ``pending``, ``probing``, ``trial``, ``committed`` or
            ``failed``, with the reason in brackets.
        metadata: With a trusted root: since when no fresh signed metadata has arrived; empty while it is fresh.
        at: Time of the device's clock, seconds since the epoch; of a will, when its connection was made. 0: unknown.
    """

    state: Literal["online", "offline", "stopped"]
    version: str
    bundle: str = ""
    resident: tuple[str, ...] = ()
    update: str = ""
    metadata: str = ""
    at: Annotated[float, msgspec.Meta(ge=0)] = 0.0


def topic(device: str, *leaf: str, root: str = ROOT) -> str:
    """The topic ``cachenet/2/<device>/<leaf>``, or under another version's root."""
    return "/".join((root, check_device(device), *leaf))


def catalogue(bundle: str, root: str = ROOT) -> str:
    """The topic of a bundle's manifest."""
    return f"{root}/catalogue/{check_device(bundle)}"


def signed_catalogue(bundle: str) -> str:
    """The topic of a bundle's signed catalogue."""
    return f"{catalogue(bundle)}/signed"


def catalogue_of(received: str) -> tuple[str, CatalogueKind]:
    """The bundle of a topic under ``CATALOGUE_TOPICS``, and the kind of its message.

    Raises:
        Malformed: The topic is of no such message.
    """
    bundle, _, kind = received.removeprefix(CATALOGUE_TOPICS[:-1]).partition("/")
    if kind not in get_args(CatalogueKind):
        raise Malformed("topic of no catalogue")
    return check_device(bundle), cast(CatalogueKind, kind)


def check_device(name: str) -> str:
    """Return ``name`` if it is a valid device name: letters, digits, and ``. _ -``, 64 at most.

    Raises:
        Malformed: The name is not valid.
    """
    if not _NAME.fullmatch(name) or name == "catalogue":
        raise Malformed(f"{name[:80]!r} is no device name: letters, digits, '.', '_', '-', 64 at most")
    return name


def device_of(received: str, root: str = ROOT) -> tuple[str, tuple[str, ...]]:
    """Split a received topic into the device's name and the rest. Raises ``Malformed``."""
    prefix = root + "/"
    if not received.startswith(prefix):
        raise Malformed(f"topic outside {root}")
    device, *leaf = received[len(prefix) :].split("/")
    return check_device(device), tuple(leaf)


def request(
    leaf: Sequence[str], content: str | None, correlation: bytes | None, properties: Sequence[tuple[str, str]]
) -> Request:
    """Read a request's description.

    Args:
        leaf: Topic after the device's name.

    Raises:
        Malformed: A part is missing or not valid.
    """
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
    if budget < 0:
        raise Malformed("budget-ms is negative")
    if len(recent) > RECENT or any(not 0 <= label < MAX_CLASSES for label in recent):
        raise Malformed(f"recent holds more than {RECENT} labels or one that cannot be")
    if not _ID.fullmatch(own := named.get("id", "")):
        raise Malformed("id is not 32 hexadecimal digits")
    audit, budget_ms = leaf[0] == "audit", min(budget, MAX_BUDGET_MS[leaf[0]])
    return Request(leaf[1], cast(ContentType, content), correlation, budget_ms, recent, audit, risk, own)


def encode(message: msgspec.Struct) -> bytes:
    """Encode a message as MessagePack."""
    return msgspec.msgpack.encode(message)


def describe(message: msgspec.Struct) -> bytes:
    """Encode a message as JSON, for other programs."""
    return msgspec.json.encode(message)


def decode(payload: bytes, kind: type[T], limit: int = MAX_MESSAGE) -> T:
    """Decode MessagePack as ``kind``, a struct or a union of tagged structs, of at most ``limit`` bytes.

    Raises:
        Malformed: The payload is too large or not valid.
    """
    if len(payload) > limit:
        raise Malformed(f"message of {len(payload)} bytes, {limit} allowed")
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from None
