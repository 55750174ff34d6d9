"""L3 ``cloud``: the full model, over MQTT, within a deadline; and, when there is time, for audits."""

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

#: Questions whose answer may still come late; older ones are forgotten.
_REMEMBERED = 256
#: Questions that may be open at a time when nobody waits for them.
_PENDING = 8
#: What is said of a frame that was sent and whose answer nobody waits for.
POSTED = "to be answered later"
#: For how long the answer to such a question is of use, seconds.
_LATEST_S = 5.0
#: For how long an audited frame may wait on the server, which serves everybody else first.
_PATIENCE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a question: a reply, or in ``trouble`` why there is none."""

    reply: Reply | None
    error: str = ""


class Cloud:
    """Asks one question at a time. Answers that come after their deadline are kept for ``late``, those to audited
    frames for ``audited``."""

    def __init__(self, link: MqttConnection, device: str, manifest: Manifest, clock: Callable[[], float]) -> None:
        self._link, self._clock = link, clock
        self._name = manifest.only("full")
        self._full = manifest.models[self._name]
        #: What the full model wants to see.
        self.input = self._full.input
        self._classes = len(manifest.labels)
        self._topics = {kind: protocol.topic(device, kind, self._name) for kind in ("infer", "audit")}
        #: So that neither an earlier run's late answers are taken for ours, nor another camera's.
        self._run = secrets.token_bytes(8)
        self._breaker = CircuitBreaker()
        self._news = threading.Condition()
        self._waiting: int | None = None
        self._got: Outcome | None = None
        self._stopped = False
        #: Frames that were posted and whose answer is not here, and when it is not waited for any more.
        self._open: dict[int, float] = {}
        self._asked: deque[int] = deque(maxlen=_REMEMBERED)
        self._late: deque[Reply] = deque(maxlen=_REMEMBERED)
        self._sent: deque[int] = deque(maxlen=_REMEMBERED)
        self._audited: deque[Reply] = deque(maxlen=_REMEMBERED)
        self.bytes_up = self.bytes_down = 0

    def ask(self, miss: Miss, view: Callable[[], Picture]) -> Outcome:
        """Send the frame and wait for its answer, until ``miss.deadline`` at most."""
        if error := self._barred(self._clock()):
            return Outcome(None, error)
        with self._news:
            self._waiting, self._got = miss.frame.index, None
            self._asked.append(miss.frame.index)
        sent = self._send("infer", miss.frame.index, view(), lambda: int((miss.deadline - self._clock()) * 1000), miss)
        with self._news:
            if sent:
                left = max(0.0, miss.deadline - self._clock())
                self._news.wait_for(lambda: self._got is not None or self._stopped, left)
            self._waiting = None
            outcome = self._got or Outcome(None, "no answer in time" if sent else "not connected")
        # A refusal shows that somebody is there; only silence opens the circuit.
        if self._got is None:
            self._breaker.failed(self._clock())
        else:
            self._breaker.succeeded()
        return outcome

    def post(self, miss: Miss, view: Callable[[], Picture]) -> Outcome:
        """Send the frame and wait for nothing: its answer is for ``late``, whenever it comes."""
        now = self._clock()
        with self._news:
            silent = [index for index, latest in self._open.items() if latest < now]
            for index in silent:
                del self._open[index]
            pending = len(self._open)
        if silent and not self._breaker.open:  # one silence, however many questions it has swallowed
            self._breaker.failed(now)
        if error := self._barred(now):
            return Outcome(None, error)
        if pending >= _PENDING:
            return Outcome(None, "cloud busy")
        with self._news:
            self._asked.append(miss.frame.index)
            self._open[miss.frame.index] = now + _LATEST_S
        sent = self._send("infer", miss.frame.index, view(), lambda: int(1000 * _LATEST_S), miss)
        return Outcome(None, POSTED if sent else "not connected")

    def audit(self, index: int, picture: Picture) -> bool:
        """Send a frame that was answered already, for ``audited``. Without a connection it is left out; whether it was
        sent."""
        if not self._link.connected.is_set():
            return False
        with self._news:
            self._sent.append(index)
        return self._send("audit", index, picture, lambda: _PATIENCE_MS)

    def late(self) -> list[Reply]:
        """Replies that came after their deadline, each once."""
        return _taken(self._late)

    def audited(self) -> list[Reply]:
        """Replies to audited frames, each once."""
        return _taken(self._audited)

    def _barred(self, now: float) -> str:
        """Why nothing can be asked now; empty if it can."""
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
        budget_ms = max(0, left_ms())  # encoding took its time
        recent, exit_risk = ((), 1.0) if miss is None else (miss.recent, miss.exit_risk)
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
        """Wait for no answer any more, the present one included."""
        with self._news:
            self._stopped = True
            self._news.notify()

    def receive(self, message: Message) -> None:
        """Take a message from the ``answer`` topic (on the link's thread). Raises ``protocol.Malformed``."""
        correlation = message.correlation or b""
        if len(correlation) != 16 or correlation[:8] != self._run:
            return
        frame = int.from_bytes(correlation[8:], "big")
        self.bytes_down += len(message.payload)
        said = protocol.decode(message.payload, protocol.Answer | protocol.Rejection)  # type: ignore[arg-type]
        if isinstance(said, protocol.Rejection):
            outcome = Outcome(None, f"refused: {said.reason} ({said.detail[:80]})")
        elif said.model != self._full.sha256:
            outcome = Outcome(None, "refused: the server runs another model than the catalogue says")
        else:
            outcome = Outcome(Reply(frame, said.logits(self._classes), said.submodel, exit_risk=said.risk))
        with self._news:
            if frame in self._sent:
                self._sent.remove(frame)
                if outcome.reply is not None:
                    self._audited.append(outcome.reply)
                return
            if frame not in self._asked:  # a second answer, or one far too late
                return
            if self._open.pop(frame, None) is not None:
                self._breaker.succeeded()
            if frame == self._waiting:
                self._asked.remove(frame)
                self._got = outcome
                self._news.notify()
            elif outcome.reply is not None:
                self._asked.remove(frame)
                self._late.append(outcome.reply)


def _taken(replies: deque[Reply]) -> list[Reply]:
    """All of them, and they are gone: another thread may add while this one takes."""
    taken = []
    while replies:
        taken.append(replies.popleft())
    return taken
