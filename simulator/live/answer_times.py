"""How fast a server answers: one question at a time, of a device of its own, as long as the context is open."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import numpy as np

from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection

#: Name of the device.
_DEVICE = "answer-times"
#: Time between two questions, and the longest wait for an answer, seconds.
_PERIOD_S, _WAIT_S = 0.2, 5.0


class AnswerTimes:
    """Asks about one picture five times a second, straight at the broker.

    Example:
        with AnswerTimes(port, bundle, jpeg) as times:
            time.sleep(20)
        print(times.measures["p99"])
    """

    def __init__(self, broker: int, bundle: Bundle, picture: bytes) -> None:
        """``broker``: port of the broker on this machine; ``picture``: a JPEG as devices send it."""
        self._name, self._picture = bundle.manifest.only("full"), picture
        self._ms: list[float] = []
        self._answered, self._stopping = threading.Event(), threading.Event()
        address, topic = Address("127.0.0.1", broker), protocol.topic(_DEVICE, "answer")
        self._link = MqttConnection(address, _DEVICE, [(topic, 1)], self._receive)
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> AnswerTimes:
        self._link.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._link.stop()

    @property
    def measures(self) -> dict[str, float]:
        """Number of answers, and percentiles of their times, milliseconds; a lost answer counts as the longest wait."""
        if not self._ms:
            return {"answers": 0, "p50": float("nan"), "p99": float("nan")}
        p50, p99 = np.percentile(self._ms, (50, 99))
        return {"answers": len(self._ms), "p50": round(float(p50), 2), "p99": round(float(p99), 2)}

    def _receive(self, _message: Message) -> None:
        self._answered.set()

    def _ask(self) -> None:
        number = 0
        while not self._stopping.wait(_PERIOD_S):
            number += 1
            request = protocol.Request(self._name, "image/jpeg", number.to_bytes(8, "big"), round(1000 * _WAIT_S))
            self._answered.clear()
            begun = time.monotonic()
            sent = self._link.publish(
                protocol.topic(_DEVICE, "infer", self._name),
                self._picture,
                content=request.content,
                correlation=request.correlation,
                properties=request.properties(),
            )
            if sent:
                self._answered.wait(_WAIT_S)
                self._ms.append(1000 * (time.monotonic() - begun))
