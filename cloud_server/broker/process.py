"""The process of the embedded broker: rumqttd on a port of the loopback interface, and the relay before it.

It is started by ``cloud_server.broker.embedded`` and ends with the process that started it.
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

from cachenet.cloud_server.broker.relay import Front
from cachenet.shared.command import logs

#: Connections that rumqttd takes; the relay takes fewer, for one too many would leave rumqttd with a broken state.
_RUMQTTD_CONNECTIONS = 1000
_CONNECTIONS = 900
#: Descriptors of one connection: client to relay, relay to rumqttd, rumqttd to relay; and those of all else.
_DESCRIPTORS, _OTHER_DESCRIPTORS = 3, 64
_START_S = 10.0

# iotcore's own options start an MQTT 3.1.1 listener; version 5 is only to be had through a file. A message above
# max_payload_size, 20 kB unless told, costs its sender the connection. Every topic filter that was ever subscribed
# to keeps a log of max_segment_count segments in memory: 10 MB x 10 came to 620 MB with a dozen devices that pulled
# models, 2 MB x 4 to 200 MB, and neither lost one of 200 chunks sent at once to a slow reader.
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
    """Relay until the parent ends. Arguments: descriptor of the listening socket; size of the largest packet, bytes;
    client id of the parent's probe. Standard input is a pipe from the parent. The line ``ready`` on standard output
    says that connections are answered."""
    logs.to_stderr(logging.WARNING)
    # rumqttd puts every message that it routes into a span of level ERROR.
    logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    listener = socket.socket(fileno=int(sys.argv[1]))
    inner = "127.0.0.1", _free_port()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "broker.toml"
        text = _CONFIG.format(connections=_RUMQTTD_CONNECTIONS, port=inner[1], payload=int(sys.argv[2]))
        file.write_text(text, "utf-8")
        threading.Thread(target=_run_rumqttd, args=(file,), name="rumqttd", daemon=True).start()
        _wait_for(inner)
    most = min(_CONNECTIONS, (_descriptors() - _OTHER_DESCRIPTORS) // _DESCRIPTORS)
    front = Front(listener, inner, most, trusted_id=sys.argv[3])
    os.write(1, b"ready\n")
    os.dup2(2, 1)
    front.run()


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
    deadline = time.monotonic() + _START_S
    with socket.socket() as probe:
        while probe.connect_ex(inner) != 0:
            if time.monotonic() > deadline:
                sys.exit(f"rumqttd does not listen within {_START_S:.0f} s")
            time.sleep(0.02)


def _descriptors() -> int:
    """How many this process may have, after raising the bound as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _CONNECTIONS * _DESCRIPTORS + _OTHER_DESCRIPTORS
    wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return most if soft == resource.RLIM_INFINITY else soft
