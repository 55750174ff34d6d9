"""The embedded broker: an MQTT 5 broker for one machine, without an installation.

The broker is rumqttd, written in Rust, from the wheel ``iotcore``; it runs in a process of its own (``process``). It
has no access control: every client that reaches its port may read and publish every message. A deployment with several
machines uses an external broker.
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

#: Python code of the child process. The first entry of its path is this package's root; ``python -m`` would put the
#: working directory there.
_BOOTSTRAP = "import sys; sys.path[0] = sys.argv.pop(1); from cachenet.cloud_server.broker.process import main; main()"
#: Longest time until the process accepts connections, seconds.
_START_TIMEOUT_S = 15.0
#: Time between two checks whether the process runs, seconds.
_CHECK_S = 0.5
#: Time that ``stop`` waits for a running probe, seconds.
_STOP_TIMEOUT_S = 0.5
#: Failed probes in a row after which the broker is started again.
_MAX_FAILED_PROBES = 2
#: First and longest delay between two restarts, seconds.
_RESTART_S = (1.0, 60.0)


class BrokerError(UserError):
    """The embedded broker cannot run; the message says what to do."""


class EmbeddedBroker:
    """A broker in a child process, which ends with this process.

    A probe checks the broker every few seconds. A broker that has ended or does not answer is started again.

    Example:
        broker = EmbeddedBroker("127.0.0.1", 1883)
        broker.start()
        ...
        broker.stop()
    """

    def __init__(self, listen: str, port: int) -> None:
        """Create a broker that is not yet started.

        Args:
            listen: IPv4 address of this machine.
            port: TCP port.

        Raises:
            BrokerError: ``listen`` is not an IPv4 address.
        """
        try:
            self._listen = ipaddress.IPv4Address(listen)
        except ValueError:
            raise BrokerError(f"--listen {listen}: not an IPv4 address, such as 127.0.0.1 or 0.0.0.0") from None
        self._port = port
        self._listener: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._supervisor: SupervisedThread | None = None
        # rumqttd keeps 0.5 kB for every client id. So all probes use this id, which the relay does not change.
        self._probe_id = f"probe-{secrets.token_hex(8)}"
        self._backoff = Backoff(*_RESTART_S)
        self._next_probe = self._next_start = 0.0
        self._failed_probes = 0
        #: Why the broker does not work; empty while it works.
        self.error = ""
        #: Number of restarts.
        self.restarts = 0

    @property
    def address(self) -> Address:
        """Address for a client on this machine."""
        return Address("127.0.0.1" if self._listen.is_unspecified else str(self._listen), self._port)

    def start(self) -> None:
        """Start the broker and return when it accepts connections. Raises ``BrokerError``."""
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
            raise BrokerError(
                f"embedded broker: {why}; is port {self._port} free, and {self._listen} an address of this machine?"
            ) from None
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
        """End the broker and free its port. May be called twice."""
        if self._supervisor is not None:
            self._supervisor.stop(_STOP_TIMEOUT_S)
        self._kill()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _spawn(self) -> None:
        """Start the process and wait until it accepts connections. Raises ``BrokerError``."""
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
            ready, _, _ = select.select([process.stdout], [], [], _START_TIMEOUT_S)
            started = bool(ready) and process.stdout.readline() == b"ready\n"
        if not started:
            self._kill()
            raise BrokerError(f"embedded broker: it did not start (exit code {process.returncode})")

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()  # the broker has no state on disk
        process.wait()
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()

    def _supervise(self) -> None:
        """Check the broker once, and start it again if it does not work."""
        assert self._supervisor is not None
        if self._supervisor.stopping.wait(_CHECK_S):
            return
        now = time.monotonic()
        if self._process is None or self._process.poll() is not None:
            code = "" if self._process is None else f" (exit code {self._process.returncode})"
            self.error = f"the embedded broker has ended{code}"
        elif now < self._next_probe:
            return
        else:
            self._next_probe = now + PROBE_S
            if not (why := exchange(self.address, PROBE_TIMEOUT_S, self._probe_id)):
                if self.error:
                    log.info("the embedded broker works again")
                self.error, self._failed_probes = "", 0
                self._backoff.reset()
                return
            self._failed_probes += 1
            self.error = f"the embedded broker does not work: {why}"
            if self._failed_probes < _MAX_FAILED_PROBES:
                return
        if now >= self._next_start:
            self._restart()

    def _restart(self) -> None:
        log.error("%s; starting it again", self.error)
        self._next_start = time.monotonic() + self._backoff.failed()
        self._failed_probes = 0
        self.restarts += 1
        self._kill()
        try:
            self._spawn()
        except BrokerError as error:
            self.error = str(error)
            log.error(self.error)
        if self._supervisor is not None and self._supervisor.stopping.is_set():
            self._kill()
        self._next_probe = time.monotonic()
