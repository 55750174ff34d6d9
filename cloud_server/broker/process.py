"""The process of the embedded broker: rumqttd on a loopback port, and the relay in front of it.

``cloud_server.broker.embedded`` starts this process; it ends with its parent.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from cachenet.cloud_server.broker.relay import Relay
from cachenet.shared.command import logs

#: Largest number of connections of rumqttd.
_RUMQTTD_CONNECTIONS = 1000
#: Largest number of connections of the relay; lower, because a connection beyond rumqttd's bound breaks its state.
_CONNECTIONS = 900
#: File descriptors of one connection: client to relay, relay to rumqttd, rumqttd to relay.
_DESCRIPTORS = 3
#: File descriptors of everything else.
_OTHER_DESCRIPTORS = 64
#: Longest time until rumqttd listens, seconds.
_START_TIMEOUT_S = 10.0

#: Configuration of rumqttd. MQTT 5 needs a file: iotcore's own options start an MQTT 3.1.1 listener. rumqttd closes the
#: connection of a client that sends more than max_payload_size (default 20 kB). Each topic filter that had a
#: subscription keeps max_segment_count segments in memory. With a dozen devices that downloaded models, 10 segments of
#: 10 MB took 620 MB and 4 segments of 2 MB took 200 MB; neither lost one of 200 chunks to a slow reader.
_CONFIG = """\
id = 0

[router]
id = 0
max_connections = {connections}
max_outgoing_packet_count = 200
max_segment_size = 2000000
max_segment_count = 4

[v5.1]
name = "cachenet"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 10000
max_payload_size = {payload}
max_inflight_count = 100
dynamic_filters = true
"""


def main() -> None:
    """Relay connections until the parent ends.

    The arguments are the file descriptor of the listening socket, the size of the largest packet in bytes, and the
    client id of the parent's probe. Standard input is a pipe from the parent. The process prints the line ``ready``
    when it accepts connections.
    """
    logs.to_stderr(logging.WARNING)
    # rumqttd logs every routed message in a span of level ERROR.
    logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent
    listener = socket.socket(fileno=int(sys.argv[1]))
    inner = "127.0.0.1", _free_port()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "broker.toml"
        text = _CONFIG.format(connections=_RUMQTTD_CONNECTIONS, port=inner[1], payload=int(sys.argv[2]))
        file.write_text(text, "utf-8")
        threading.Thread(target=_run_rumqttd, args=(file,), name="rumqttd", daemon=True).start()
        _wait_for(inner)
    most = min(_CONNECTIONS, (_descriptors() - _OTHER_DESCRIPTORS) // _DESCRIPTORS)
    relay = Relay(listener, inner, most, trusted_id=sys.argv[3])
    os.write(1, b"ready\n")
    os.dup2(2, 1)
    relay.run()


def _end_with_parent() -> None:
    try:
        sys.stdin.buffer.read()  # until the other end of the pipe is closed
    finally:
        os._exit(0)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _run_rumqttd(file: Path) -> None:
    try:
        from iotcore.iotcore import IotCoreBroker

        IotCoreBroker(config_path=str(file)).run_forever()
    finally:
        os._exit(1)


def _wait_for(inner: tuple[str, int]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    with socket.socket() as probe:
        while probe.connect_ex(inner) != 0:
            if time.monotonic() > deadline:
                sys.exit(f"rumqttd does not listen within {_START_TIMEOUT_S:.0f} s")
            time.sleep(0.02)


def _descriptors() -> int:
    """Raise this process's limit of file descriptors as far as needed and possible; the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _CONNECTIONS * _DESCRIPTORS + _OTHER_DESCRIPTORS
    wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return most if soft == resource.RLIM_INFINITY else soft
