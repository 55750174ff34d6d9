"""Who may do what on a broker as it is deployed: real mosquitto, TLS, its dynamic-security plugin, real clients.

What counts is what is delivered: brokers grant subscriptions that they then do not serve, and the other way round.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2

from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Address
from cachenet.shared.transport.protocol import SERVER_TOPICS, topic
from tests.bundles import tiny_bundle
from tests.deployed import Deployed
from tests.e2e.clients import Client, Connect, clients, connect, deployed
from tests.e2e.servers import ServerProcess, picture, until

__all__ = ["connect", "deployed"]

#: For how long a message may be on its way on this machine; used only to find that nothing comes.
_A_WHILE_S = 0.4


def everything_of(device: str) -> list[str]:
    """Filters that would show some of what concerns a device."""
    return [
        "#",
        "+/#",
        "cachenet/#",
        "cachenet/1/+/answer",
        "cachenet/1/+/infer/#",
        topic(device, "#"),
        topic(device, "answer"),
        topic(device, "status"),
        topic(device, "infer", "full"),
        f"$share/own/{topic(device, '#')}",
        f"$share/own/{topic(device, 'answer')}",
    ]


def _password(deployed: Deployed, kit: str) -> str:
    return (deployed.out / kit / "password").read_text().strip()


def test_a_device_hears_all_of_its_own_and_nothing_of_anothers(connect: Connect) -> None:
    """The control is in it: the same messages do reach those that they are for."""
    server = connect("server")
    b = connect("cam-b", topic("cam-b", "answer"), topic("cam-b", "blob", "+"), protocol.CATALOGUE_TOPICS)
    a = connect("cam-a", *everything_of("cam-b"), topic("cam-a", "answer"), protocol.CATALOGUE_TOPICS)
    time.sleep(_A_WHILE_S)  # subscriptions are granted
    b.link.publish(topic("cam-b", "status"), b"here", 1, retain=True)
    b.link.publish(topic("cam-b", "infer", "full"), b"picture", 1)
    b.link.publish(topic("cam-b", "result"), b"label", 1)
    until(lambda: topic("cam-b", "infer", "full") in server.topics())
    server.link.publish(topic("cam-b", "answer"), b"cat", 1)
    server.link.publish(topic("cam-b", "blob", "0" * 64), b"piece", 1)
    server.link.publish(protocol.catalogue("tiny"), b"catalogue", 1)
    server.link.publish(topic("cam-a", "answer"), b"dog", 1)
    until(lambda: {b"cat", b"piece", b"catalogue"} <= set(b.payloads()))
    until(lambda: {b"dog", b"catalogue"} <= set(a.payloads()))
    time.sleep(_A_WHILE_S)
    assert set(a.payloads()) == {b"dog", b"catalogue"}


def test_a_device_can_write_nothing_into_anothers_subtree_nor_the_catalogue(connect: Connect) -> None:
    server = connect("server")
    b = connect("cam-b", topic("cam-b", "#"), protocol.CATALOGUE_TOPICS)
    a = connect("cam-a", topic("cam-a", "answer"))
    time.sleep(_A_WHILE_S)
    forbidden = [
        topic("cam-b", "answer"),
        topic("cam-b", "status"),
        topic("cam-b", "infer", "full"),
        topic("cam-b", "blob", "get"),
        topic("cam-b", "audit", "full"),
        protocol.catalogue("tiny"),
        "elsewhere",
    ]
    for retain in (False, True):
        for where in forbidden:
            a.link.publish(where, b"forged", 1, retain=retain)
    a.link.publish(topic("cam-a", "infer", "full"), b"its own", 1)
    until(lambda: b"its own" in server.payloads())
    later = connect("cam-b", topic("cam-b", "#"), protocol.CATALOGUE_TOPICS)  # who would get what is retained
    time.sleep(_A_WHILE_S)
    for client in (server, b, later):
        assert b"forged" not in client.payloads()


def test_all_of_a_thousand_requests_reach_the_servers_while_a_rogue_device_tries_to_have_some(
    connect: Connect, deployed: Deployed
) -> None:
    """It joins the servers' groups, makes others, asks again and again, and tries to take the victim's and the servers'
    connections."""
    tries = [
        *SERVER_TOPICS,
        *(name.replace("$share/cloud-", "$share/mine-") for name in SERVER_TOPICS),
        "$share/cloud-infer/#",
        "$share/cloud-infer/cachenet/1/cam-b/infer/#",
        "$share/cloud-infer/cachenet/1/cam-b/infer/full",
        "$share/cloud/cachenet/1/+/infer/#",
        "$queue/cachenet/1/+/infer/#",
        *everything_of("cam-b"),
    ]
    first, second = connect("server"), connect("server")
    b = connect("cam-b", topic("cam-b", "answer"))
    rogue = connect("cam-a", *tries)
    stolen_name = Client(deployed.address("cam-a"), "cachenet-cam-b", *tries)
    done = threading.Event()

    def insist() -> None:
        while not done.is_set():
            rogue.link._client.subscribe([(one, 0) for one in tries])
            done.wait(0.02)

    insisting = threading.Thread(target=insist)
    with clients(stolen_name):
        time.sleep(_A_WHILE_S)
        insisting.start()
        try:
            sent = [str(number).encode() for number in range(1000)]
            for payload in sent:
                assert b.link.publish(topic("cam-b", "infer", "full"), payload, 0)
            until(lambda: len(first.heard) + len(second.heard) >= 1000)
            time.sleep(_A_WHILE_S)
        finally:
            done.set()
            insisting.join()
        assert "does not take cam-a's password" in stolen_name.link.trouble
    assert sorted(first.payloads() + second.payloads(), key=int) == sent
    assert first.heard and second.heard, "the two share the work"
    assert not rogue.heard and not stolen_name.heard


def test_the_same_rogue_would_have_some_under_the_servers_role(connect: Connect) -> None:
    """So the test above can fail: who may join the group gets a share."""
    honest = connect("server")
    joined = connect("server")
    b = connect("cam-b", topic("cam-b", "answer"))
    time.sleep(_A_WHILE_S)
    for number in range(20):
        b.link.publish(topic("cam-b", "infer", "full"), str(number).encode(), 1)
    until(lambda: len(honest.heard) + len(joined.heard) == 20)
    assert joined.heard


def test_a_viewer_sees_what_devices_answer_and_no_pictures_and_writes_nothing_of_theirs(
    connect: Connect, deployed: Deployed
) -> None:
    deployed.provision("--viewer", "home")
    where = Address(
        "127.0.0.1", deployed.port, True, "home", _password(deployed, "viewers/home"), deployed.out / "ca.crt"
    )
    viewer = Client(
        where, "anything", "cachenet/1/+/status", "cachenet/1/+/result/#", "homeassistant/#", "#", *SERVER_TOPICS
    )
    server, b = connect("server"), connect("cam-b", topic("cam-b", "#"), "homeassistant/status")
    with clients(viewer):
        assert viewer.link.settle(10) == ""
        time.sleep(_A_WHILE_S)
        viewer.link.publish("homeassistant/status", b"online", 1)
        viewer.link.publish(topic("cam-b", "answer"), b"forged", 1)
        b.link.publish(topic("cam-b", "infer", "full"), b"picture", 1)
        b.link.publish(topic("cam-b", "result"), b"label", 1)
        b.link.publish("homeassistant/device/cam-b/camera/config", b"described", 1)
        b.link.publish("homeassistant/device/cam-a/camera/config", b"forged", 1)
        until(lambda: {b"label", b"described"} <= set(viewer.payloads()))
        until(lambda: b"picture" in server.payloads())
        until(lambda: b"online" in b.payloads())
        time.sleep(_A_WHILE_S)
        assert not {b"picture", b"forged"} & set(viewer.payloads())
        assert b"forged" not in b.payloads()
    deployed.provision("--remove", "home")


def test_a_device_cannot_change_who_may_do_what(connect: Connect, deployed: Deployed) -> None:
    control = "$CONTROL/dynamic-security/v1"
    rogue = connect("cam-a", f"{control}/response", f"{control}/#")
    wish = {"command": "addClientRole", "username": "cam-a", "rolename": "server"}
    rogue.link.publish(control, json.dumps({"commands": [wish]}).encode(), 1)
    time.sleep(_A_WHILE_S)
    assert not rogue.heard
    users = json.loads((deployed.out / "broker/dynamic-security.json").read_text())["clients"]
    (cam,) = (user for user in users if user["username"] == "cam-a")
    assert cam["roles"] == [{"rolename": "device-cam-a"}]


def test_an_agent_may_do_all_that_it_does_and_home_assistant_sees_it(deployed: Deployed, tmp_path: Path) -> None:
    """Models, questions, answers, results and discovery of a real agent, with a device's rights, over TLS."""
    bundle = tiny_bundle(tmp_path / "bundle", risk=1e-6)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed in range(8):
        cv2.imwrite(str(pictures / f"{seed}.png"), picture(seed))
    deployed.provision("--viewer", "hass")
    where = Address(
        "127.0.0.1", deployed.port, True, "hass", _password(deployed, "viewers/hass"), deployed.out / "ca.crt"
    )
    viewer = Client(where, "hass", "homeassistant/#", "cachenet/1/+/status", "cachenet/1/+/result/#")
    server = ServerProcess(tmp_path, "--bundle", str(bundle), *deployed.flags("server"))
    with clients(viewer):
        try:
            server.wait_for("connected to")
            done = subprocess.run(
                [sys.executable, "-m", "cachenet.edge_agent", "run", str(pictures), "--device", "cam-a", "--fps", "4",
                 "--json", "--set", "results=true", "--set", "home_assistant=true", "--store", str(tmp_path / "store"),
                 *deployed.flags("cam-a")],
                capture_output=True, text=True, timeout=120, check=True,
            )  # fmt: skip
            summary = json.loads(done.stdout)
            assert summary["cloud"] > 0
            assert "did not take a message" not in done.stderr
            until(lambda: b'"stopped"' in b"".join(viewer.payloads()))
        finally:
            counts, _ = server.stop()
            server.close()
    assert counts["chunks"] > 0, "it fetched its models"
    heard = set(viewer.topics())
    assert {topic("cam-a", "status"), topic("cam-a", "result")} <= heard
    assert any(name.startswith("homeassistant/device/cam-a/") for name in heard)
