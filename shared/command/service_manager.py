"""Messages to systemd, as ``sd_notify(3)`` sends them: readiness, pings of the watchdog, one line of status."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress


class ServiceManager:
    """The service manager that started this process, if it wants messages (``Type=notify``).

    Attributes:
        watchdog_s: Longest time between two pings, seconds (``WatchdogSec=``); 0: no pings are wanted.

    Example:
        >>> manager = ServiceManager({})
        >>> manager.listens, manager.watchdog_s
        (False, 0.0)
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Read ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``. Values that systemd does not set are no
        request for messages."""
        name = environment.get("NOTIFY_SOCKET", "")
        # A name with @ is in the abstract namespace, in which names begin with a zero byte.
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self.watchdog_s = 0.0
        if self.listens and environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            with suppress(ValueError):
                self.watchdog_s = max(0, int(environment.get("WATCHDOG_USEC", "0"))) / 1e6

    @property
    def listens(self) -> bool:
        """Whether there is a service manager that wants messages."""
        return self._address.startswith(("/", "\0"))

    def send(self, *assignments: str) -> bool:
        """Send assignments such as ``READY=1``. Returns whether the service manager's socket took them."""
        if not self.listens or not assignments:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)  # a full queue of the service manager must not stop this process
                out.sendto("\n".join(assignments).encode(), self._address)
        except OSError:
            return False
        return True
