"""Level ``cloud``: requests to the full model over MQTT, with a deadline, without waiting, or for audits."""

from __future__ import annotations

import logging
import math
import secrets
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from cachenet.edge_agent.outbox.outbox import Outbox, UnsentFrame
from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.circuit_breaker import CircuitBreaker
from cachenet.shared.cascade.detect.types import SceneMiss, SceneReply
from cachenet.shared.cascade.types import Miss, Reply
from cachenet.shared.inference.detector import in_whole_picture
from cachenet.shared.inference.image import Picture, encode, wire_picture
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Link, Message

log = logging.getLogger(__name__)

#: Number of requests whose late reply is still accepted.
_MAX_LATE = 256
#: Largest number of posted requests without a reply: of a classifier, and of a detector, whose pictures are large and
#: whose replies are worth less the later they come. ``benchmarks.detector_requests`` compares numbers on slow links.
_MAX_POSTED, _MAX_POSTED_DETECTOR = 8, 2
#: Reason of a fallback whose frame was posted.
POSTED = "to be answered later"
#: Errors of a frame whose picture was not sent.
NOT_SENT = frozenset(
    (
        "not connected",
        "no cloud",
        "no time left in this frame",
        "cloud busy",
        "cloud busy, asked for a pause",
        "cloud silent, circuit open",
    )
)
#: Time after which the reply to a posted request is useless, seconds: of a classifier and of a detector, whose objects
#: have moved on.
_POST_TIMEOUT_S, _POST_TIMEOUT_DETECTOR_S = 5.0, 2.0
#: Longest time that a client obeys a server that asks for a pause, seconds.
_MAX_PAUSE_S = 10.0
#: Longest time that an audited frame may wait in the server's background queue, milliseconds.
AUDIT_TIMEOUT_MS = 60_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a request: a reply, or the reason in ``error``.

    Attributes:
        reply: ``Reply`` of a classifier or ``SceneReply`` of a detector, as the bundle's task says; None for none.
    """

    reply: Any
    error: str = ""


class CloudClient:
    """Client of the full model in the cloud. The hot loop waits for at most one request at a time.

    Replies after their deadline are returned by ``late``, replies to audited frames by ``audited``.
    """

    def __init__(
        self,
        link: Link,
        device: str,
        manifest: Manifest,
        clock: Callable[[], float],
        outbox: Outbox | None = None,
        camera: str = "",
    ) -> None:
        """
        Args:
            outbox: Stores frames that cannot be sent; None: they are lost.
            camera: Name of the camera and zone, for the outbox.
        """
        self._link, self._clock, self._outbox, self._camera = link, clock, outbox, camera
        self._name = manifest.only("full")
        self._full = manifest.models[self._name]
        #: Input of the full model.
        self.input = self._full.input
        self._classes, self._detects = len(manifest.labels), manifest.task == "detection"
        self._max_posted = _MAX_POSTED_DETECTOR if self._detects else _MAX_POSTED
        self._post_timeout_s = _POST_TIMEOUT_DETECTOR_S if self._detects else _POST_TIMEOUT_S
        self._topics = {kind: protocol.topic(device, kind, self._name) for kind in ("infer", "audit")}
        #: Start of all correlation data, which tells replies to this camera and run from others.
        self._run = secrets.token_bytes(8)
        self._breaker = CircuitBreaker()
        #: Time until which the server wants no questions, and no audits: it was busy, and told when to ask again.
        self._paused_until = {"infer": -math.inf, "audit": -math.inf}
        self._condition = threading.Condition()
        #: Frame whose reply the hot loop waits for, and its outcome.
        self._waiting: int | None = None
        self._outcome: Outcome | None = None
        self._stopped = False
        #: Posted frames without a reply, oldest first, and the time of their posting.
        self._posted: dict[int, float] = {}
        #: Frames whose reply is still accepted, oldest first, and the size of their picture, pixels.
        self._asked: dict[int, tuple[int, int]] = {}
        self._late: deque[Any] = deque(maxlen=_MAX_LATE)
        self._audits_sent: dict[int, tuple[int, int]] = {}
        self._audited: deque[Any] = deque(maxlen=_MAX_LATE)
        self.bytes_up = self.bytes_down = 0

    def ask(self, miss: Miss | SceneMiss, picture: Callable[[], Picture]) -> Outcome:
        """Send the frame and wait for the reply, until ``miss.deadline``.

        Args:
            picture: Gives the frame ``(height, width, 3)`` BGR: cropped for a classifier, whole for a detector.
        """
        if error := self._refusal(self._clock(), picture):
            return Outcome(None, error)
        index, own = miss.frame.index, picture()
        with self._condition:
            self._waiting, self._outcome = index, None
            self._note(self._asked, index, own)
        sent = self._send("infer", index, own, lambda: int((miss.deadline - self._clock()) * 1000), miss)
        with self._condition:
            if sent:
                left = max(0.0, miss.deadline - self._clock())
                self._condition.wait_for(lambda: self._outcome is not None or self._stopped, left)
            self._waiting = None
            outcome = self._outcome or Outcome(None, "no answer in time" if sent else "not connected")
        # A rejection shows that a server is there; only silence opens the circuit.
        if self._outcome is None:
            self._breaker.failed(self._clock())
        else:
            self._breaker.succeeded()
        return outcome

    def post(self, miss: Miss | SceneMiss, picture: Callable[[], Picture]) -> Outcome:
        """Send the frame without waiting; ``late`` returns the reply. ``picture``: see ``ask``."""
        now = self._clock()
        if not self._link.connected.is_set():
            with self._condition:
                self._posted.clear()  # their replies are lost, which says nothing about the server
        with self._condition:
            expired = self._expired(now)
            for index in expired:
                del self._posted[index]
            if expired:
                self._breaker.failed(now)  # one failure, however many requests have expired
                if self._breaker.open:
                    self._posted.clear()
            under_way = len(self._posted)
        if error := self._refusal(now, picture):
            return Outcome(None, error)
        if under_way >= (1 if self._breaker.open else self._max_posted):  # after silence one request at a time
            return Outcome(None, "cloud busy")
        index, own = miss.frame.index, picture()
        with self._condition:
            self._note(self._asked, index, own)
            self._posted[index] = now
        sent = self._send("infer", index, own, lambda: int(1000 * self._post_timeout_s), miss)
        return Outcome(None, POSTED if sent else "not connected")

    def audit(self, index: int, picture: Picture) -> bool:
        """Send an answered frame to be audited; ``audited`` returns the reply.

        Args:
            picture: See ``ask``.

        Returns:
            Whether the frame was sent.
        """
        now = self._clock()
        if self._absence(now):
            self._store(lambda: picture, miss=False)
            return False
        if now < self._paused_until["audit"]:
            return False
        with self._condition:
            self._note(self._audits_sent, index, picture)
        return self._send("audit", index, picture, lambda: AUDIT_TIMEOUT_MS)

    @property
    def is_asking(self) -> bool:
        """Whether the answer to a question is awaited."""
        with self._condition:
            return self._waiting is not None or len(self._posted) > len(self._expired(self._clock()))

    def late(self) -> list[Any]:
        """Replies after their deadline, each once."""
        return _drain(self._late)

    def audited(self) -> list[Any]:
        """Replies to audited frames, each once."""
        return _drain(self._audited)

    @staticmethod
    def _note(frames: dict[int, tuple[int, int]], index: int, picture: Picture) -> None:
        """Record a sent frame and the width and height of its picture, among at most ``_MAX_LATE``."""
        if len(frames) >= _MAX_LATE:
            del frames[next(iter(frames))]
        frames[index] = picture.shape[1], picture.shape[0]

    def _expired(self, now: float) -> list[int]:
        """Posted frames whose reply is useless by now."""
        return [index for index, at in self._posted.items() if at + self._post_timeout_s < now]

    def _store(self, picture: Callable[[], Picture], miss: bool) -> None:
        """Pass a frame that cannot be sent to the outbox."""
        if self._outbox is not None:
            own = picture()
            self._outbox.offer(UnsentFrame(self._camera, miss, self._name, lambda: self._encode(own)))

    def _encode(self, picture: Picture) -> tuple[protocol.ContentType, bytes]:
        """Content type and bytes of a picture, as they are sent."""
        return encode(wire_picture(picture, self.input) if self._detects else picture)

    def _refusal(self, now: float, picture: Callable[[], Picture]) -> str:
        """Why no question is allowed now; empty if one is. Without a server the frame goes to the outbox."""
        if error := self._absence(now):
            self._store(picture, miss=True)
            return error
        return "cloud busy, asked for a pause" if now < self._paused_until["infer"] else ""

    def _absence(self, now: float) -> str:
        """Why there seems to be no server; empty if there is one."""
        if not self._link.connected.is_set():
            return "not connected"
        return "" if self._breaker.allows(now) else "cloud silent, circuit open"

    def _send(
        self,
        kind: Literal["infer", "audit"],
        index: int,
        picture: Picture,
        left_ms: Callable[[], int],
        miss: Miss | SceneMiss | None = None,
    ) -> bool:
        content, data = self._encode(picture)
        budget_ms = max(0, left_ms())  # after the time that encoding took
        recent, exit_risk = ((), 1.0) if miss is None else (miss.recent, miss.max_exit_risk)
        correlation = self._run + index.to_bytes(8, "big")
        request = protocol.Request(self._name, content, correlation, budget_ms, recent, risk=exit_risk)
        sent = self._link.publish(
            self._topics[kind],
            data,
            qos=int(kind == "audit"),
            content=content,
            correlation=request.correlation,
            properties=request.properties(),
            expiry_s=max(1, math.ceil(budget_ms / 1000)),
        )
        self.bytes_up += len(data) * sent
        return sent

    def stop(self) -> None:
        """End the present wait and all later ones."""
        with self._condition:
            self._stopped = True
            self._condition.notify()

    def receive(self, message: Message) -> None:
        """Receive a message of the ``answer`` topic, on the connection's thread. Raises ``protocol.Malformed``."""
        correlation = message.correlation or b""
        if len(correlation) != 16 or correlation[:8] != self._run:
            return
        frame = int.from_bytes(correlation[8:], "big")
        self.bytes_down += len(message.payload)
        reply: protocol.Reply = protocol.decode(message.payload, protocol.Reply)  # type: ignore[arg-type]
        with self._condition:
            size = self._audits_sent.get(frame) or self._asked.get(frame)
            if size is None:  # a duplicate, or far too late
                return
            if isinstance(reply, protocol.Rejection):
                if reply.retry_after_ms is not None:
                    kind = "audit" if frame in self._audits_sent else "infer"
                    self._paused_until[kind] = self._clock() + min(_MAX_PAUSE_S, reply.retry_after_ms / 1000)
                outcome = Outcome(None, f"refused: {reply.reason} ({reply.detail[:80]})")
            elif reply.model != self._full.sha256:
                outcome = Outcome(None, "refused: the server runs another model than the catalogue says")
            else:
                outcome = Outcome(self._read(frame, reply, size))
            if frame in self._audits_sent:
                del self._audits_sent[frame]
                if outcome.reply is not None:
                    self._audited.append(outcome.reply)
                return
            if frame in self._posted:
                self._breaker.succeeded()
                # A server answers in order: requests from before this one are lost, or overtaken by another server.
                self._posted = {index: at for index, at in self._posted.items() if index > frame}
            if frame == self._waiting:
                del self._asked[frame]
                self._outcome = outcome
                self._condition.notify()
            elif outcome.reply is not None:
                del self._asked[frame]
                self._late.append(outcome.reply)

    def _read(
        self, frame: int, answer: protocol.Answer | protocol.DetectionAnswer, size: tuple[int, int]
    ) -> Reply | SceneReply:
        """The reply to a frame whose picture has ``size`` (width, height). Raises ``protocol.Malformed``."""
        if isinstance(answer, protocol.DetectionAnswer):
            if not self._detects:
                raise protocol.Malformed("boxes as the answer of a classifier")
            found = in_whole_picture(answer.detections(self._classes), size, self.input)
            return SceneReply(frame, found, answer.submodel)
        if self._detects:
            raise protocol.Malformed("an answer without boxes of a detector")
        return Reply(frame, answer.logits(self._classes), answer.submodel, exit_risk=answer.risk)


def _drain(replies: deque[Any]) -> list[Any]:
    """Remove and return all replies; safe while another thread appends."""
    drained = []
    while replies:
        drained.append(replies.popleft())
    return drained
