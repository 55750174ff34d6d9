"""Why there is no broker, against real sockets and real certificates: one line that says what to do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from cachenet.cloud_server.provision.authority import Authority
from cachenet.cloud_server.provision.provision import give_to_broker
from cachenet.shared.transport.mqtt import Address, MqttConnection
from cachenet.shared.transport.mqtt_errors import lost
from tests.broker import free_port
from tests.deployed import Deployed

pytestmark = pytest.mark.e2e

NOW = datetime.now(timezone.utc)


def reason(where: Address, name: str = "cachenet-cam") -> str:
    """What a first attempt to connect comes to."""
    link = MqttConnection(where, name, [], lambda _: None)
    link.start()
    try:
        return link.settle(10)
    finally:
        link.stop()


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    return Deployed(tmp_path_factory.mktemp("deployed"), "cam")


@contextmanager
def running(broker: Deployed, begins: datetime = NOW, host: str = "127.0.0.1") -> Iterator[None]:
    """The broker with a certificate for thirty days."""
    place = broker.out / "broker"
    Authority(broker.out).issue(place / "broker.crt", place / "broker.key", [host], begins, 30)
    give_to_broker(broker.out)
    broker.start()
    try:
        yield
    finally:
        broker.kill()


def test_a_working_connection_has_no_error(deployed: Deployed) -> None:
    with running(deployed):
        assert reason(deployed.address("cam")) == ""


@pytest.mark.parametrize(
    ("begins", "why"),
    [(NOW - timedelta(days=60), "has expired; have it renewed"), (NOW + timedelta(days=60), "is not valid yet")],
)
def test_a_certificate_that_is_expired_or_not_yet_valid(deployed: Deployed, begins: datetime, why: str) -> None:
    with running(deployed, begins):
        message = reason(deployed.address("cam"))
    assert why in message
    assert f"clock says {datetime.now(timezone.utc):%Y-%m-%d}" in message


def test_a_certificate_of_an_unknown_ca(deployed: Deployed, tmp_path: Path) -> None:
    other = Authority(tmp_path).certificate
    with running(deployed):
        assert f"the CA in {other} has not signed" in reason(replace(deployed.address("cam"), ca=other))
        assert "give the broker's own with --ca" in reason(replace(deployed.address("cam"), ca=None))


def test_a_certificate_for_another_name(deployed: Deployed) -> None:
    with running(deployed, host="broker.example"):
        assert "is not for 127.0.0.1" in reason(deployed.address("cam"))


def test_a_wrong_password_no_password_and_no_user(deployed: Deployed) -> None:
    where = deployed.address("cam")
    with running(deployed):
        assert "does not take cam's password" in reason(replace(where, password="wrong"))
        assert "--device" in reason(where, "cachenet-other"), "the client id is pinned to the user"
        assert "give --password-file or CACHENET_PASSWORD" in reason(replace(where, password=None))
        assert "wants a user and a password" in reason(replace(where, user=None, password=None))


def test_tls_to_a_plain_port_and_plain_to_a_tls_port(deployed: Deployed) -> None:
    where = deployed.address("cam")
    with running(deployed):
        assert "does it want mqtts://" in reason(replace(where, tls=False))
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert "does not answer in TLS" in reason(replace(where, port=port))


@contextmanager
def answering(message: bytes) -> Iterator[int]:
    """A server of something else: it says this and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.recv(1000)
                    client.sendall(message)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_no_broker() -> None:
    assert "nothing listens there; is it running" in reason(Address("127.0.0.1", free_port()))
    assert "nothing is known by that name" in reason(Address("no-such-host.invalid", 1883))


def test_two_clients_of_one_id() -> None:
    assert "--device name of its own" in lost(142, "Session taken over")
    assert lost(139, "Server shutting down") == "connection lost (Server shutting down)"
