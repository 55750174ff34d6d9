"""The embedded broker: MQTT 5 without anything to install, for one machine.

It is rumqttd, a broker in Rust, as the ``iotcore`` wheel brings it, in a process of its own (``broker_process``). It
has no access lists, so whoever reaches its port may read and send everything; a deployment with more than one machine
uses a broker of its own.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import secrets
import select
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from cachenet.cloud_server.broker.probe import PROBE_S, PROBE_TIMEOUT_S, exchange
from cachenet.shared.command.errors import UserError
from cachenet.shared.command.extras import how_to_install
from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.transport.backoff import Backoff
from cachenet.shared.transport.mqtt import Address
from cachenet.shared.transport.protocol import MAX_PICTURE

log = logging.getLogger(__name__)

# The directory of this package and nothing else may come first on the path: `python -m` would put the user's there.
_BOOTSTRAP = "import sys; sys.path[0] = sys.argv.pop(1); from cachenet.cloud_server.broker.process import main; main()"
_START_S = 15.0
_LOOK_S = 0.5
#: How long ``stop`` waits for a probe in hand, seconds.
_STOP_S = 0.5
#: Exchanges that fail in a row before the broker is started again.
_FAILED_PROBES = 2
#: Delay between two restarts: the first and the longest, seconds.
_RESTART_S = (1.0, 60.0)


class BrokerError(UserError):
    """The embedded broker cannot run like this; the message says what to do."""


class EmbeddedBroker:
    """A broker in a child process, which ends with this process, however that ends. The broker is probed by a real
    exchange every few seconds and started again if it ends or does not answer."""

    def __init__(self, listen: str, port: int) -> None:
        """``listen`` is an IPv4 address of this machine. Raises ``BrokerError``."""
        try:
            self._listen = ipaddress.IPv4Address(listen)
        except ValueError:
            raise BrokerError(f"--listen {listen}: not an IPv4 address, such as 127.0.0.1 or 0.0.0.0") from None
        self._port = port
        self._listener: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._supervisor: SupervisedThread | None = None
        # rumqttd keeps half a kilobyte of every client id that it has ever seen; the relay leaves this one as it is.
        self._probe_id = f"probe-{secrets.token_hex(8)}"
        self._backoff = Backoff(*_RESTART_S)
        self._next_probe = self._next_start = 0.0
        self._failed = 0
        #: Why the broker does not work, for a person; empty while all is well.
        self.trouble = ""
        #: How often it was started again.
        self.restarts = 0

    @property
    def address(self) -> Address:
        """Where a client on this machine finds it."""
        return Address("127.0.0.1" if self._listen.is_unspecified else str(self._listen), self._port)

    def start(self) -> None:
        """Return as soon as it answers connections. Raises ``BrokerError``."""
        if find_spec("iotcore") is None:
            raise BrokerError(
                f"the embedded broker needs iotcore: give --broker mqtt://host, or {how_to_install('cloud')}"
            )
        if not self._listen.is_loopback:
            log.warning("the embedded broker has no access control: anyone who reaches port %d may use it", self._port)
        try:
            self._listener = socket.create_server((str(self._listen), self._port), backlog=1024)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise BrokerError(f"embedded broker: {why}; is --port {self._port} free?") from None
        try:
            self._spawn()
        except BrokerError:
            self.stop()
            raise
        log.info("embedded broker (MQTT 5) on %s:%d", self._listen, self._port)
        self._next_probe = time.monotonic() + PROBE_S
        self._supervisor = SupervisedThread("broker-probe", self._supervise)
        self._supervisor.start()

    def stop(self) -> None:
        """End it and free the port. May be called twice."""
        if self._supervisor is not None:
            self._supervisor.stop(_STOP_S)
        self._end()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _spawn(self) -> None:
        """Start the process and wait until it answers connections. Raises ``BrokerError``."""
        if self._listener is None:
            raise BrokerError("embedded broker: it has been stopped")
        number, root = self._listener.fileno(), str(Path(__file__).parents[3])
        process = subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP, root, str(number), str(MAX_PICTURE + 65536), self._probe_id],
            stdin=subprocess.PIPE,  # the process ends when this pipe is closed
            stdout=subprocess.PIPE,
            pass_fds=[number],
            env={**os.environ, "RUST_BACKTRACE": "0"},  # a client that makes rumqttd panic must not fill the log
        )
        self._process = process
        assert process.stdout is not None
        with process.stdout:
            ready, _, _ = select.select([process.stdout], [], [], _START_S)
            started = bool(ready) and process.stdout.readline() == b"ready\n"
        if not started:
            self._end()
            raise BrokerError(f"embedded broker: it did not start (exit code {process.returncode})")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()  # it keeps nothing
        process.wait()
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()

    def _supervise(self) -> None:
        """Look at the broker once (on a thread of its own)."""
        assert self._supervisor is not None
        if self._supervisor.stopping.wait(_LOOK_S):
            return
        now = time.monotonic()
        if self._process is None or self._process.poll() is not None:
            code = "" if self._process is None else f" (exit code {self._process.returncode})"
            self.trouble = f"the embedded broker has ended{code}"
        elif now < self._next_probe:
            return
        else:
            self._next_probe = now + PROBE_S
            if not (why := exchange(self.address, PROBE_TIMEOUT_S, self._probe_id)):
                self._recovered()
                return
            self._failed += 1
            self.trouble = f"the embedded broker does not work: {why}"
            if self._failed < _FAILED_PROBES:
                return
        if now >= self._next_start:
            self._restart()

    def _recovered(self) -> None:
        if self.trouble:
            log.info("the embedded broker works again")
        self.trouble = ""
        self._failed = 0
        self._backoff.reset()

    def _restart(self) -> None:
        log.error("%s; starting it again", self.trouble)
        self._next_start = time.monotonic() + self._backoff.failed()
        self._failed = 0
        self.restarts += 1
        self._end()
        try:
            self._spawn()
        except BrokerError as error:
            self.trouble = str(error)
            log.error(self.trouble)
        if self._supervisor is not None and self._supervisor.stopping.is_set():
            self._end()
        self._next_probe = time.monotonic()
