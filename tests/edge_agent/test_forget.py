"""Forgetting on a broker that lets a device in under its own name only, as a deployment's does."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cachenet.edge_agent.cli import app
from cachenet.edge_agent.doctor import forget as module
from cachenet.edge_agent.doctor.forget import forget
from cachenet.shared.transport import version_1
from cachenet.shared.transport.mqtt import Address, MqttConnection, MqttError
from cachenet.shared.transport.protocol import Status, describe, topic
from tests.broker import Mosquitto, free_port
from tests.e2e.servers import until

pytestmark = pytest.mark.e2e

_CONFIG, _STATUS = "homeassistant/device/cam/camera/config", topic("cam", "status")
_FAREWELL = _STATUS, describe(Status("stopped", "1"))


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker on this machine is quick."""
    for name, seconds in (
        ("_CONNECT_TIMEOUT_S", 0.5),
        ("_QUIET_S", 0.3),
        ("_RECONNECT_S", 0.5),
        ("_DELETE_TIMEOUT_S", 1.0),
    ):
        monkeypatch.setattr(module, name, seconds)


class Strict(Mosquitto):
    """A broker with one user, ``cam``, with client id ``cachenet-cam``, who may write ``sends``."""

    def __init__(self, directory: Path, *sends: str) -> None:
        super().__init__(directory)
        hears = (topic("cam", "#"), "homeassistant/device/cam/#")
        allowed = {"publishClientSend": sends, "publishClientReceive": hears, "subscribePattern": hears}
        acls = [{"acltype": kind, "topic": each, "allow": True} for kind, topics in allowed.items() for each in topics]
        salt = b"a few grains"
        client = {
            "username": "cam",
            "clientid": "cachenet-cam",
            "roles": [{"rolename": "device"}],
            "password": base64.b64encode(hashlib.pbkdf2_hmac("sha512", b"secret", salt, 101)).decode(),
            "salt": base64.b64encode(salt).decode(),
            "iterations": 101,
        }
        defaults = dict.fromkeys(("publishClientSend", "publishClientReceive", "subscribe"), False)
        users = {"clients": [client], "roles": [{"rolename": "device", "acls": acls}], "defaultACLAccess": defaults}
        (directory / "users.json").write_text(json.dumps(users))
        (directory / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous false\nplugin mosquitto_dynamic_security.so\n"
            f"plugin_opt_config_file {directory / 'users.json'}\n"
            f"persistence true\npersistence_location {directory}/\n" + ("user root\n" if os.geteuid() == 0 else "")
        )

    def stop(self) -> None:
        """End it as a service manager would: it writes down what it keeps."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)
        self._process = None

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port, user="cam", password="secret")


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Strict]:
    broker = Strict(tmp_path, topic("cam", "#"), "homeassistant/device/cam/#")
    broker.start()
    yield broker
    broker.kill()


def device(broker: Strict) -> MqttConnection:
    """One that is online and has introduced itself, at every connection."""

    def announce() -> None:
        link.publish(_STATUS, describe(Status("online", "1")), 1, retain=True)
        link.publish(_CONFIG, b"{}", 1, retain=True)

    link = MqttConnection(
        broker.address, "cachenet-cam", [], print, announce, (_STATUS, describe(Status("offline", "1")))
    )
    link.start()
    until(link.connected.is_set)
    return link


def test_an_absent_broker_is_one_clear_line() -> None:
    done = CliRunner().invoke(app, ["forget", "--broker", f"mqtt://127.0.0.1:{free_port()}"])
    assert done.exit_code == 2
    assert done.stderr.startswith("edge-agent: no broker at ")
    assert len(done.stderr.splitlines()) == 1


def test_of_one_that_was_never_there_nothing_is_held(broker: Mosquitto) -> None:
    assert forget(Address("127.0.0.1", broker.port), "cam", "homeassistant") == []


def test_a_stopped_device_is_forgotten(strict: Strict) -> None:
    device(strict).stop(_FAREWELL)
    assert forget(strict.address, "cam", "homeassistant") == [_STATUS, _CONFIG]


def test_the_status_that_it_had_under_version_1_is_forgotten_too(broker: Mosquitto) -> None:
    old = topic("cam", "status", root=version_1.ROOT)
    address = Address("127.0.0.1", broker.port)
    link = MqttConnection(address, "before", [], print)
    link.start()
    until(link.connected.is_set)
    link.stop((old, describe(Status("stopped", "1"))))
    assert forget(address, "cam", "homeassistant") == [old]
    assert forget(address, "cam", "homeassistant") == []


def test_an_online_device_is_not_forgotten(strict: Strict, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes back for its connection, which is how that shows."""
    monkeypatch.setattr(module, "_RECONNECT_S", 10.0)
    link = device(strict)
    with pytest.raises(MqttError, match="cam is online"):
        forget(strict.address, "cam", "homeassistant")
    until(link.connected.is_set)
    link.stop()


def test_a_refused_message_is_reported_once(strict: Strict, caplog: pytest.LogCaptureFixture) -> None:
    """A device without access to Home Assistant's topics would otherwise be missing without a reason."""
    link = device(strict)
    for _ in range(3):
        link.publish("homeassistant/device/other/camera/config", b"{}", 1, retain=True)
    until(lambda: caplog.records)
    link.stop(_FAREWELL)
    (record,) = caplog.records
    assert "may this user write" in record.getMessage()


def test_topics_that_the_broker_does_not_delete_are_reported(strict: Strict, tmp_path: Path) -> None:
    device(strict).stop(_FAREWELL)
    strict.stop()
    users = tmp_path / "users.json"
    users.write_text(users.read_text().replace('"homeassistant/device/cam/#"', '"nothing"', 1))
    strict.start()
    with pytest.raises(MqttError, match=f"the broker keeps {_CONFIG}; may this user write there"):
        forget(strict.address, "cam", "homeassistant")
