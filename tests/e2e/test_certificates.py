"""Certificates of a deployed broker."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from tests.deployed import Deployed
from tests.e2e.clients import Client, clients
from tests.e2e.servers import until


def test_a_renewed_certificate_is_used_without_a_restart(tmp_path: Path) -> None:
    """Connected clients stay connected."""
    broker = Deployed(tmp_path, "cam-a")
    broker.start()
    try:
        first = Client(broker.address("cam-a"), "cachenet-cam-a")
        with clients(first):
            assert first.link.settle(10) == ""
            assert "elsewhere.example" in broker.provision("--host", "elsewhere.example", "--host", "127.0.0.2")
            broker.reload()
            context = ssl.create_default_context(cafile=broker.out / "ca.crt")

            def renewed() -> bool:
                connection = socket.create_connection(("127.0.0.1", broker.port), 10)
                try:
                    with context.wrap_socket(connection, server_hostname="elsewhere.example"):
                        return True
                except ssl.SSLCertVerificationError:
                    return False

            until(renewed)
            assert first.link.connected.is_set()
    finally:
        broker.kill()
