"""Level ``cloud``: requests to the full model over MQTT, with a deadline, without waiting, or for audits."""

from __future__ import annotations

import logging
import math
import secrets
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.circuit_breaker import CircuitBreaker
from cachenet.shared.cascade.types import Miss, Reply
from cachenet.shared.inference.image import Picture, encode
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Message, MqttConnection

log = logging.getLogger(__name__)

#: Number of requests whose late reply is still accepted.
_MAX_LATE = 256
#: Largest number of posted requests without a reply.
_MAX_POSTED = 8
#: Reason of a fallback whose frame was posted.
POSTED = "to be answered later"
#: Time after which the reply to a posted request is useless, seconds.
_POST_TIMEOUT_S = 5.0
#: Longest time that an audited frame may wait in the server's background queue, milliseconds.
AUDIT_TIMEOUT_MS = 60_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a request: a reply, or the reason in ``error``."""

    reply: Reply | None
    error: str = ""


class CloudClient:
    """Client of the full model in the cloud. The hot loop waits for at most one request at a time.

    Replies after their deadline are returned by ``late``, replies to audited frames by ``audited``.
    """

    def __init__(self, link: MqttConnection, device: str, manifest: Manifest, clock: Callable[[], float]) -> None:
        self._link, self._clock = link, clock
        self._name = manifest.only("full")
        self._full = manifest.models[self._name]
        #: Input of the full model.
        self.input = self._full.input
        self._classes = len(manifest.labels)
        self._topics = {kind: protocol.topic(device, kind, self._name) for kind in ("infer", "audit")}
        #: Start of all correlation data, which tells replies to this camera and run from others.
        self._run = secrets.token_bytes(8)
        self._breaker = CircuitBreaker()
        self._condition = threading.Condition()
        #: Frame whose reply the hot loop waits for, and its outcome.
        self._waiting: int | None = None
        self._outcome: Outcome | None = None
        self._stopped = False
        #: Posted frames without a reply, and the time at which the reply becomes useless.
        self._posted: dict[int, float] = {}
        self._asked: deque[int] = deque(maxlen=_MAX_LATE)
        self._late: deque[Reply] = deque(maxlen=_MAX_LATE)
        self._audits_sent: deque[int] = deque(maxlen=_MAX_LATE)
        self._audited: deque[Reply] = deque(maxlen=_MAX_LATE)
        self.bytes_up = self.bytes_down = 0

    def ask(self, miss: Miss, picture: Callable[[], Picture]) -> Outcome:
        """Send the frame and wait for the reply, until ``miss.deadline``. ``picture``: crops the frame."""
        if error := self._blocked_reason(self._clock()):
            return Outcome(None, error)
        with self._condition:
            self._waiting, self._outcome = miss.frame.index, None
            self._asked.append(miss.frame.index)
        sent = self._send(
            "infer", miss.frame.index, picture(), lambda: int((miss.deadline - self._clock()) * 1000), miss
        )
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

    def post(self, miss: Miss, picture: Callable[[], Picture]) -> Outcome:
        """Send the frame without waiting; ``late`` returns the reply."""
        now = self._clock()
        with self._condition:
            expired = [index for index, expiry in self._posted.items() if expiry < now]
            for index in expired:
                del self._posted[index]
            pending = len(self._posted)
        if expired and not self._breaker.open:  # one failure, however many requests have expired
            self._breaker.failed(now)
        if error := self._blocked_reason(now):
            return Outcome(None, error)
        if pending >= _MAX_POSTED:
            return Outcome(None, "cloud busy")
        with self._condition:
            self._asked.append(miss.frame.index)
            self._posted[miss.frame.index] = now + _POST_TIMEOUT_S
        sent = self._send("infer", miss.frame.index, picture(), lambda: int(1000 * _POST_TIMEOUT_S), miss)
        return Outcome(None, POSTED if sent else "not connected")

    def audit(self, index: int, picture: Picture) -> bool:
        """Send an answered frame to be audited; ``audited`` returns the reply. Returns whether the frame was sent."""
        if not self._link.connected.is_set():
            return False
        with self._condition:
            self._audits_sent.append(index)
        return self._send("audit", index, picture, lambda: AUDIT_TIMEOUT_MS)

    def late(self) -> list[Reply]:
        """Replies after their deadline, each once."""
        return _drain(self._late)

    def audited(self) -> list[Reply]:
        """Replies to audited frames, each once."""
        return _drain(self._audited)

    def _blocked_reason(self, now: float) -> str:
        """Why no request is allowed now; empty if one is."""
        if not self._link.connected.is_set():
            return "not connected"
        return "" if self._breaker.allows(now) else "cloud silent, circuit open"

    def _send(
        self,
        kind: Literal["infer", "audit"],
        index: int,
        picture: Picture,
        left_ms: Callable[[], int],
        miss: Miss | None = None,
    ) -> bool:
        content, data = encode(picture)
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
        reply = protocol.decode(message.payload, protocol.Answer | protocol.Rejection)  # type: ignore[arg-type]
        if isinstance(reply, protocol.Rejection):
            outcome = Outcome(None, f"refused: {reply.reason} ({reply.detail[:80]})")
        elif reply.model != self._full.sha256:
            outcome = Outcome(None, "refused: the server runs another model than the catalogue says")
        else:
            outcome = Outcome(Reply(frame, reply.logits(self._classes), reply.submodel, exit_risk=reply.risk))
        with self._condition:
            if frame in self._audits_sent:
                self._audits_sent.remove(frame)
                if outcome.reply is not None:
                    self._audited.append(outcome.reply)
                return
            if frame not in self._asked:  # a duplicate, or far too late
                return
            if self._posted.pop(frame, None) is not None:
                self._breaker.succeeded()
            if frame == self._waiting:
                self._asked.remove(frame)
                self._outcome = outcome
                self._condition.notify()
            elif outcome.reply is not None:
                self._asked.remove(frame)
                self._late.append(outcome.reply)


def _drain(replies: deque[Reply]) -> list[Reply]:
    """Remove and return all replies; safe while another thread appends."""
    drained = []
    while replies:
        drained.append(replies.popleft())
    return drained
