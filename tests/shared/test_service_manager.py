"""Messages to systemd over a real socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from cachenet.shared.command.service_manager import ServiceManager


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_messages_arrive_on_a_socket_with_a_path_and_on_an_abstract_one(abstract: bool, tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + path if abstract else path)
        systemd.settimeout(20)
        manager = ServiceManager({"NOTIFY_SOCKET": f"@{path}" if abstract else path})
        assert manager.send("READY=1", "STATUS=answering")
        assert systemd.recv(1000) == b"READY=1\nSTATUS=answering"
        systemd.setblocking(False)
        while manager.send("WATCHDOG=1"):  # until the queue is full
            pass
    assert not manager.send("WATCHDOG=1"), "nobody listens any more"


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_USEC": "-1"}, 0.0),
        ({}, 0.0),
    ],
)
def test_pings_are_wanted_by_this_process_if_the_variables_say_so(environment: dict[str, str], seconds: float) -> None:
    assert ServiceManager({"NOTIFY_SOCKET": "/run/notify", **environment}).watchdog_s == seconds
    assert ServiceManager(environment).watchdog_s == 0.0


@pytest.mark.parametrize("name", ["", "vsock:2:1234", "relative"])
def test_without_a_socket_nothing_is_sent(name: str) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": name})
    assert not manager.listens
    assert not manager.send("READY=1")
