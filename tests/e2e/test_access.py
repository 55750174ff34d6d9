"""Access control of a deployed broker: mosquitto with TLS and its dynamic-security plugin, and real clients.

The tests check delivered messages, because brokers grant subscriptions that they do not serve, and the reverse.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2

from cachenet.shared.transport import protocol, version_1
from cachenet.shared.transport.mqtt import Address
from cachenet.shared.transport.protocol import SERVER_TOPICS, topic
from tests.bundles import tiny_bundle
from tests.deployed import Deployed
from tests.e2e.clients import Client, Connect, clients, connect, deployed
from tests.e2e.servers import ServerProcess, picture, until

__all__ = ["connect", "deployed"]

#: Longest time of a message on this machine, seconds; tests wait it before they check that no message arrived.
_DELIVERY_S = 0.4


def filters_for(device: str) -> list[str]:
    """Topic filters that match messages to or from a device."""
    return [
        "#",
        "+/#",
        "cachenet/#",
        "cachenet/2/+/answer",
        "cachenet/2/+/infer/#",
        topic(device, "#"),
        topic(device, "answer"),
        topic(device, "status"),
        topic(device, "infer", "full"),
        f"$share/own/{topic(device, '#')}",
        f"$share/own/{topic(device, 'answer')}",
    ]


def _password(deployed: Deployed, directory: str) -> str:
    return (deployed.out / directory / "password").read_text().strip()


def test_a_device_receives_all_its_own_messages_and_no_others(connect: Connect) -> None:
    """As a control, the same messages reach their own recipients."""
    server = connect("server")
    b = connect("cam-b", topic("cam-b", "answer"), topic("cam-b", "blob", "+"), protocol.CATALOGUE_TOPICS)
    a = connect("cam-a", *filters_for("cam-b"), topic("cam-a", "answer"), protocol.CATALOGUE_TOPICS)
    time.sleep(_DELIVERY_S)  # subscriptions are granted
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
    time.sleep(_DELIVERY_S)
    assert set(a.payloads()) == {b"dog", b"catalogue"}


def test_a_device_cannot_publish_to_another_subtree_or_the_catalogue(connect: Connect) -> None:
    server = connect("server")
    b = connect("cam-b", topic("cam-b", "#"), protocol.CATALOGUE_TOPICS)
    a = connect("cam-a", topic("cam-a", "answer"))
    time.sleep(_DELIVERY_S)
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
    later = connect("cam-b", topic("cam-b", "#"), protocol.CATALOGUE_TOPICS)  # would receive retained messages
    time.sleep(_DELIVERY_S)
    for client in (server, b, later):
        assert b"forged" not in client.payloads()


def test_all_of_a_thousand_requests_reach_the_servers_while_a_rogue_device_tries_to_receive_some(
    connect: Connect, deployed: Deployed
) -> None:
    """The rogue device subscribes to shared groups again and again, and tries to take another device's connection."""
    attempts = [
        *SERVER_TOPICS,
        *(name.replace("$share/cloud-", "$share/mine-") for name in SERVER_TOPICS),
        "$share/cloud-infer/#",
        "$share/cloud-infer/cachenet/2/cam-b/infer/#",
        "$share/cloud-infer/cachenet/2/cam-b/infer/full",
        "$share/cloud/cachenet/2/+/infer/#",
        "$queue/cachenet/2/+/infer/#",
        *filters_for("cam-b"),
    ]
    first, second = connect("server"), connect("server")
    b = connect("cam-b", topic("cam-b", "answer"))
    rogue = connect("cam-a", *attempts)
    stolen_name = Client(deployed.address("cam-a"), "cachenet-cam-b", *attempts)
    done = threading.Event()

    def subscribe_again() -> None:
        while not done.is_set():
            rogue.link._client.subscribe([(one, 0) for one in attempts])
            done.wait(0.02)

    subscribing = threading.Thread(target=subscribe_again)
    with clients(stolen_name):
        time.sleep(_DELIVERY_S)
        subscribing.start()
        try:
            sent = [str(number).encode() for number in range(1000)]
            for payload in sent:
                assert b.link.publish(topic("cam-b", "infer", "full"), payload, 0)
            until(lambda: len(first.messages) + len(second.messages) >= 1000)
            time.sleep(_DELIVERY_S)
        finally:
            done.set()
            subscribing.join()
        assert "does not take cam-a's password" in stolen_name.link.error
    assert sorted(first.payloads() + second.payloads(), key=int) == sent
    assert first.messages and second.messages, "the two share the work"
    assert not rogue.messages and not stolen_name.messages


def test_a_device_of_version_1_and_the_server_reach_each_other_and_no_device_reaches_others(connect: Connect) -> None:
    """So the server can refuse it in words. Both versions' topics are as closed as each other."""
    old = version_1.ROOT
    server = connect("server", *SERVER_TOPICS, *version_1.SERVER_TOPICS)
    b = connect("cam-b", f"{old}/cam-b/answer", f"{old}/cam-b/blob/+", version_1.CATALOGUE_TOPICS)
    a = connect("cam-a", f"{old}/+/answer", f"{old}/#", f"{old}/cam-b/answer", *version_1.SERVER_TOPICS)
    time.sleep(_DELIVERY_S)
    for kind in ("infer", "audit"):
        b.link.publish(f"{old}/cam-b/{kind}/full", kind.encode(), 1)
    b.link.publish(f"{old}/cam-b/blob/get", b"piece wanted", 1)
    until(lambda: {b"infer", b"audit", b"piece wanted"} <= set(server.payloads()))
    server.link.publish(f"{old}/cam-b/answer", b"refused", 1)
    server.link.publish(f"{old}/cam-b/blob/{'0' * 64}", b"no piece", 1)
    server.link.publish(f"{old}/catalogue/tiny", b"notice", 1)
    until(lambda: {b"refused", b"no piece", b"notice"} <= set(b.payloads()))
    for leaf in ("cam-b/answer", "cam-b/status", "cam-b/infer/full", "catalogue/tiny"):
        a.link.publish(f"{old}/{leaf}", b"forged", 1)
    time.sleep(_DELIVERY_S)
    assert b"forged" not in b.payloads() + server.payloads()
    assert set(a.payloads()) <= {b"notice"}


def test_a_second_client_with_the_servers_role_receives_a_share_of_the_requests(connect: Connect) -> None:
    """Shows that the test above can fail: each member of the group receives a share."""
    honest = connect("server")
    joined = connect("server")
    b = connect("cam-b", topic("cam-b", "answer"))
    time.sleep(_DELIVERY_S)
    for number in range(20):
        b.link.publish(topic("cam-b", "infer", "full"), str(number).encode(), 1)
    until(lambda: len(honest.messages) + len(joined.messages) == 20)
    assert joined.messages


def test_a_viewer_receives_results_and_snapshots_and_no_requests_and_cannot_publish_to_devices(
    connect: Connect, deployed: Deployed
) -> None:
    deployed.provision("--viewer", "home")
    where = Address(
        "127.0.0.1", deployed.port, True, "home", _password(deployed, "viewers/home"), deployed.out / "ca.crt"
    )
    viewer = Client(
        where,
        "anything",
        *("cachenet/2/+/status", "cachenet/2/+/stats", "cachenet/2/catalogue/#", "cachenet/2/+/result/#"),
        *("cachenet/2/+/snapshot/#", "homeassistant/#", "#"),
        *SERVER_TOPICS,
    )
    server, b = connect("server"), connect("cam-b", topic("cam-b", "#"), "homeassistant/status")
    with clients(viewer):
        assert viewer.link.settle(10) == ""
        time.sleep(_DELIVERY_S)
        viewer.link.publish("homeassistant/status", b"online", 1)
        viewer.link.publish(topic("cam-b", "answer"), b"forged", 1)
        b.link.publish(topic("cam-b", "infer", "full"), b"picture", 1)
        b.link.publish(topic("cam-b", "result"), b"label", 1)
        b.link.publish(topic("cam-b", "snapshot", "yard"), b"snapshot", 1)
        b.link.publish(topic("cam-b", "stats"), b"figures", 1)
        b.link.publish(topic("cam-a", "stats"), b"forged", 1)
        server.link.publish("cachenet/2/catalogue/tiny", b"manifest", 1)
        b.link.publish("homeassistant/device/cam-b/camera/config", b"described", 1)
        b.link.publish("homeassistant/device/cam-a/camera/config", b"forged", 1)
        until(lambda: {b"label", b"snapshot", b"figures", b"manifest", b"described"} <= set(viewer.payloads()))
        until(lambda: b"picture" in server.payloads())
        until(lambda: b"online" in b.payloads())
        time.sleep(_DELIVERY_S)
        assert not {b"picture", b"forged"} & set(viewer.payloads())
        assert b"forged" not in b.payloads()
    deployed.provision("--remove", "home")


def test_a_device_cannot_change_access_rights(connect: Connect, deployed: Deployed) -> None:
    control = "$CONTROL/dynamic-security/v1"
    rogue = connect("cam-a", f"{control}/response", f"{control}/#")
    command = {"command": "addClientRole", "username": "cam-a", "rolename": "server"}
    rogue.link.publish(control, json.dumps({"commands": [command]}).encode(), 1)
    time.sleep(_DELIVERY_S)
    assert not rogue.messages
    users = json.loads((deployed.out / "broker/dynamic-security.json").read_text())["clients"]
    (cam,) = (user for user in users if user["username"] == "cam-a")
    assert cam["roles"] == [{"rolename": "device-cam-a"}]


def test_an_agent_has_all_rights_that_it_needs_and_home_assistant_receives_its_results(
    deployed: Deployed, tmp_path: Path
) -> None:
    """Models, requests, answers, results and discovery of a real agent, with a device's rights, over TLS."""
    bundle = tiny_bundle(tmp_path / "bundle", risk=1e-6)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed in range(8):
        cv2.imwrite(str(pictures / f"{seed}.png"), picture(seed))
    deployed.provision("--viewer", "hass")
    where = Address(
        "127.0.0.1", deployed.port, True, "hass", _password(deployed, "viewers/hass"), deployed.out / "ca.crt"
    )
    viewer = Client(where, "hass", "homeassistant/#", "cachenet/2/+/status", "cachenet/2/+/result/#")
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
            assert "the broker refused a message" not in done.stderr
            until(lambda: b'"stopped"' in b"".join(viewer.payloads()))
        finally:
            counts, _ = server.stop()
            server.close()
    assert counts["chunks"] > 0, "the agent downloaded its models"
    topics = set(viewer.topics())
    assert {topic("cam-a", "status"), topic("cam-a", "result")} <= topics
    assert any(name.startswith("homeassistant/device/cam-a/") for name in topics)
