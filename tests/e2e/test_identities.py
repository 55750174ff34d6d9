"""Users and passwords of a deployed broker, and devices that are added and removed."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cachenet.cloud_server.cli import app
from cachenet.cloud_server.provision import dynsec
from cachenet.cloud_server.provision.provision import give_to_broker
from cachenet.shared.transport import protocol
from cachenet.shared.transport.protocol import topic
from tests.deployed import Deployed
from tests.e2e.clients import Client, clients, deployed
from tests.e2e.servers import until

__all__ = ["deployed"]

#: Longest time of a message on this machine, seconds; tests wait it before they check that no message arrived.
_DELIVERY_S = 0.4


@pytest.mark.parametrize(
    ("user", "password_of", "client_id", "why"),
    [
        ("cam-a", "cam-b", "cachenet-cam-a", "does not take cam-a's password"),
        ("cam-a", "cam-a", "cachenet-cam-b", "does not take cam-a's password"),
        ("server", "cam-a", "cloud-x", "does not take server's password"),
        ("admin", "cam-a", "x", "does not take admin's password"),
        ("nobody", "cam-a", "x", "does not take nobody's password"),
    ],
)
def test_no_client_connects_as_another_user(
    deployed: Deployed, user: str, password_of: str, client_id: str, why: str
) -> None:
    client = Client(deployed.address(user, of=password_of), client_id)
    with clients(client):
        assert why in client.link.settle(10)


def test_no_client_connects_without_a_user(deployed: Deployed) -> None:
    client = Client(replace(deployed.address("cam-a"), user=None, password=None), "x")
    with clients(client):
        assert "wants a user and a password" in client.link.settle(10)


def test_devices_are_added_and_removed_while_the_broker_runs_and_after_its_restart(tmp_path: Path) -> None:
    broker = Deployed(tmp_path, "cam-a")
    broker.start()
    try:
        first = Client(broker.address("cam-a"), "cachenet-cam-a", topic("cam-a", "answer"))
        with clients(first):
            until(first.link.connected.is_set)
            assert "cam-c" in broker.provision("cam-a", "cam-c")
            password = (broker.credentials("cam-c") / "password").read_text()
            assert broker.provision("cam-a", "cam-c") == "", "existing credentials stay unchanged"
            assert (broker.credentials("cam-c") / "password").read_text() == password
            added = Client(broker.address("cam-c"), "cachenet-cam-c", topic("cam-c", "#"))
            with clients(added):
                assert added.link.settle(10) == ""
                time.sleep(_DELIVERY_S)
                added.link.publish(topic("cam-c", "result"), b"own", 1)
                added.link.publish(topic("cam-a", "answer"), b"forged", 1)
                until(lambda: b"own" in added.payloads())
                where = broker.address("cam-c")
                broker.provision("--remove", "cam-c")
                until(lambda: not added.link.connected.is_set(), "a removed device is disconnected at once")
            assert first.messages == []
            assert not broker.credentials("cam-c").exists()
            broker.provision("cam-d")
            broker.stop()
            broker.start()
            present, removed = Client(broker.address("cam-d"), "cachenet-cam-d"), Client(where, "cachenet-cam-c")
            with clients(present, removed):
                assert present.link.settle(10) == ""
                assert "does not take cam-c's password" in removed.link.settle(10)
    finally:
        broker.kill()


def rights_of_version_1(file: Path) -> None:
    """Give the roles in a broker's file the topics of version 1 alone, as its provisioning did."""
    content = json.loads(file.read_text())
    for role in content["roles"]:
        role["acls"] = [acl for acl in role["acls"] if protocol.ROOT not in acl["topic"]]
    file.write_text(json.dumps(content))


def test_users_of_version_1_get_the_rights_of_this_version_by_provisioning_again(tmp_path: Path) -> None:
    """On the running broker, with their passwords. Before it, the broker delivers none of their messages."""
    broker = Deployed(tmp_path, "cam-a", "cam-b", "--viewer", "home")
    rights_of_version_1(broker.out / "broker/dynamic-security.json")
    give_to_broker(broker.out)
    broker.start()

    def answered() -> bool:
        """Whether a question of cam-a reaches the server."""
        server = Client(broker.address("server"), "cloud-x", *protocol.SERVER_TOPICS)
        device = Client(broker.address("cam-a"), "cachenet-cam-a", topic("cam-a", "answer"))
        with clients(server, device):
            until(lambda: server.link.connected.is_set() and device.link.connected.is_set())
            time.sleep(_DELIVERY_S)
            device.link.publish(topic("cam-a", "infer", "full"), b"question", 1)
            time.sleep(_DELIVERY_S)
            return b"question" in server.payloads()

    try:
        assert not answered()
        password = (broker.credentials("cam-a") / "password").read_text()
        assert broker.provision() == "giving the rights of this version to device-cam-a, device-cam-b, server, viewer\n"
        assert answered()
        assert (broker.credentials("cam-a") / "password").read_text() == password
        assert broker.provision() == "", "nothing is left to do"
        broker.stop()
        broker.start()
        assert answered(), "the rights survive a restart"
    finally:
        broker.kill()


def test_without_the_broker_the_rights_of_version_1_stay_and_one_line_says_so(tmp_path: Path) -> None:
    broker = Deployed(tmp_path, "cam-a")
    users = broker.out / "broker/dynamic-security.json"
    rights_of_version_1(users)
    before = users.read_bytes()
    done = CliRunner().invoke(app, ["provision", "--out", str(broker.out), "--broker", f"127.0.0.1:{broker.port}"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert "nothing listens there" in done.stderr
    assert users.read_bytes() == before


def test_rights_that_an_operator_added_are_no_reason_to_change_a_role(tmp_path: Path) -> None:
    broker = Deployed(tmp_path, "cam-a")
    users = broker.out / "broker/dynamic-security.json"
    content = json.loads(users.read_text())
    content["roles"][0]["acls"].append({"acltype": "publishClientSend", "topic": "lights/#", "allow": True})
    users.write_text(json.dumps(content))
    assert broker.provision() == ""


@pytest.mark.parametrize("content", [b"", b"{}", b'{"clients": [], "roles": [{}]}', b'{"roles": 1}', b"\xff"])
def test_a_damaged_file_of_users_names_nobody(content: bytes) -> None:
    assert dynsec.outdated(content) == []


def test_lost_credentials_are_replaced_and_the_old_password_is_refused(tmp_path: Path) -> None:
    broker = Deployed(tmp_path, "cam-a")
    broker.start()
    try:
        old = broker.address("cam-a")
        for file in broker.credentials("cam-a").iterdir():
            file.unlink()
        broker.credentials("cam-a").rmdir()
        broker.provision("cam-a")
        new, stale = Client(broker.address("cam-a"), "cachenet-cam-a"), Client(old, "cachenet-cam-a")
        with clients(new, stale):
            assert new.link.settle(10) == ""
            assert "does not take cam-a's password" in stale.link.settle(10)
    finally:
        broker.kill()


def test_the_plugins_own_tool_lists_the_users(deployed: Deployed) -> None:
    """``mosquitto_ctrl`` is part of mosquitto."""
    password = (deployed.out / "admin.password").read_text().strip()
    listed = subprocess.run(
        ["mosquitto_ctrl", "-h", "127.0.0.1", "-p", str(deployed.port), "--cafile", str(deployed.out / "ca.crt"),
         "-u", "admin", "-P", password, "dynsec", "listClients"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert listed.stdout.split() == ["admin", "cam-a", "cam-b", "server"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only a broker that root starts changes its user")
def test_a_broker_that_root_starts_drops_its_rights_and_still_reads_and_writes_its_files(tmp_path: Path) -> None:
    broker = Deployed(tmp_path, "cam-a")
    broker.start()
    try:
        assert broker._process is not None
        status = Path(f"/proc/{broker._process.pid}/status").read_text()
        assert f"\nUid:\t{pwd.getpwnam('mosquitto').pw_uid}\t" in status
        broker.provision("cam-b")
        broker.reload()
        broker.provision("cam-c")
        broker.stop()
        broker.start()
        for user in ("cam-a", "cam-b", "cam-c"):
            client = Client(broker.address(user), f"cachenet-{user}")
            with clients(client):
                assert client.link.settle(10) == ""
    finally:
        broker.kill()


def test_removing_an_unknown_user_is_an_error_that_lists_the_known_users(deployed: Deployed) -> None:
    out = ["--out", str(deployed.out), "--broker", f"127.0.0.1:{deployed.port}"]
    for name in ("cam-x", "server", "admin"):
        done = CliRunner().invoke(app, ["provision", "--remove", name, "--remove", "cam-a", *out])
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
        assert f"--remove {name}: no such device or viewer; known are cam-a, cam-b" in done.stderr
    assert deployed.credentials("cam-a").exists()


def test_a_long_list_of_known_users_is_shortened(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out")]
    names = [f"cam{number:02}" for number in range(40)]
    assert CliRunner().invoke(app, ["provision", *names, *out]).exit_code == 0
    done = CliRunner().invoke(app, ["provision", "--remove", "cam", *out])
    assert done.exit_code == 2
    assert "known are cam00, cam01, cam02, cam03, cam04 and 35 more" in done.stderr


def test_a_device_without_credentials_can_be_removed(tmp_path: Path) -> None:
    broker = Deployed(tmp_path, "cam-a")
    broker.start()
    try:
        address = broker.address("cam-a")
        shutil.rmtree(broker.credentials("cam-a"))
        broker.provision("--remove", "cam-a")
        client = Client(replace(address, ca=broker.out / "ca.crt"), "cachenet-cam-a")
        with clients(client):
            assert "does not take cam-a's password" in client.link.settle(10)
    finally:
        broker.kill()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["a/b"], "no device name"),
        (["server"], "another user"),
        (["cam", "--broker", "127.0.0.1:1"], "nothing listens there"),
        (["cam", "--trusted-root", "/nowhere/root.json"], "/nowhere/root.json: No such file"),
    ],
)
def test_invalid_provisioning_gives_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], why: str) -> None:
    out = ["--out", str(tmp_path / "out")]
    if "--broker" in arguments:
        assert CliRunner().invoke(app, ["provision", *out]).exit_code == 0
    done = CliRunner().invoke(app, ["provision", *arguments, *out])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert why in done.stderr
    assert not (tmp_path / "out/devices/cam").exists()
