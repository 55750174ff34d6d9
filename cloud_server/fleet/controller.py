"""Carries out the rollout of a server: publishes it, and undoes it when the canaries are worse than the others.

Its state is the retained message of the rollout, which all servers and the command ``cloud-server rollout`` share.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from cachenet.cloud_server.fleet.comparison import Comparison
from cachenet.cloud_server.fleet.fleet import DEVICE_TOPICS
from cachenet.shared.transport import protocol, rollout
from cachenet.shared.transport.fleet import Stats, read
from cachenet.shared.transport.mqtt import Message
from cachenet.shared.transport.protocol import Status
from cachenet.shared.transport.rollout import Rollout

log = logging.getLogger(__name__)

#: Time to wait for the rollout that the broker has retained, before a new one begins, seconds.
_RETAINED_S = 1.0


class RolloutController:
    """The rollout of one newer version; its methods are called from any thread.

    Example:
        controller = RolloutController(start, files, publish, promote)
        # on the connection: controller.on_connect(), controller.receive(message)
    """

    def __init__(
        self,
        start: Rollout,
        files: Callable[[], dict[str, bytes]],
        publish: Callable[[str, bytes], object],
        on_promoted: Callable[[], None],
    ) -> None:
        """
        Args:
            start: First state, without files.
            files: Returns the files of the newer version, with fresh signatures.
            publish: Sends a retained message to all brokers without waiting.
            on_promoted: Called when the newer version has become that of the catalogue.
        """
        #: State of the rollout.
        self.rollout = start
        #: Topics to subscribe to.
        self.topics = (rollout.TOPICS, *DEVICE_TOPICS)
        self._files, self._publish, self._on_promoted = files, publish, on_promoted
        self._comparison = Comparison(start)
        self._known = False
        self._lock = threading.RLock()

    def on_connect(self) -> None:
        """Publish the rollout, at the first connection once it is known that the broker has none."""
        if self._known:
            self.publish()
            return
        timer = threading.Timer(_RETAINED_S, self.publish)
        timer.daemon = True
        timer.start()

    def publish(self) -> None:
        """Publish the state, with fresh signatures."""
        with self._lock:
            active = self.rollout.state in ("running", "paused")
            message = self.rollout.with_files(self._files() if active else {})
            if self._publish(rollout.topic(self.rollout.bundle), protocol.encode(message)):
                self._known = True

    def receive(self, message: Message) -> bool:
        """Take a message; returns whether it is one of ``topics``. Raises ``Malformed``."""
        if message.topic.startswith(protocol.CATALOGUE_TOPICS[:-1]):
            if message.payload and message.topic == rollout.topic(self.rollout.bundle):
                self._follow(rollout.read(message.payload))
            return True
        device, leaf = protocol.device_of(message.topic)
        if leaf not in (("status",), ("stats",)):
            return False
        if message.payload:
            with self._lock:
                if leaf == ("status",):
                    self._comparison.on_status(device, read(message.payload, Status))
                else:
                    self._comparison.on_stats(device, read(message.payload, Stats), message.retained)
                self._judge()
        return True

    def _follow(self, received: Rollout) -> None:
        """Take a later state, or publish this one where a server has published an earlier one."""
        with self._lock:
            own = self.rollout
            if (received.bundle, received.stable, received.canary) != (own.bundle, own.stable, own.canary):
                return  # the rollout before this one, or that of a server with other settings
            self._known = True
            if own.supersedes(received):
                self.publish()
            elif received.supersedes(own):
                self.rollout = received.with_files({})
                if (received.state, own.state) == ("running", "undone"):
                    self._comparison = Comparison(self.rollout)
                self._comparison.rollout = self.rollout  # its share may have changed
                log.info("rollout of %s: %s", own.canary[:12], self.rollout.line)
                if received.state == "promoted":
                    self._on_promoted()
                self.publish()  # with files, and on all brokers: a change may come over one of them alone

    def _judge(self) -> None:
        if self.rollout.state in ("running", "paused") and (reason := self._comparison.verdict()):
            self.rollout = self.rollout.changed("undone", reason)
            log.error("rollout of %s: %s", self.rollout.canary[:12], self.rollout.line)
            self.publish()
