"""The Helm chart and the plain manifests, checked without a cluster: Helm renders, Kubernetes' schemas judge."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.engine import services
from cachenet.cloud_server.cli import app
from cachenet.cloud_server.settings import Settings
from tests.broker import free_port
from tests.charts import CHART, MANIFESTS, ROOT, objects, text
from tests.e2e.servers import until

pytest.importorskip("helm_python", reason="Helm's library is not installed; it is for x86-64 only")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

VALUES: list[dict[str, Any]] = [
    {},
    {"shards": 1, "broker": {"service": "ClusterIP"}},
    {"shards": 12, "broker": {"service": "NodePort", "secret": "one"}, "server": {"secret": "two"}},
    {"server": {"bundleClaim": "bundles", "bundle": "mine"}},
    {"server": {"v2Url": "http://triton:8000", "waiting": 2, "minReplicas": 1, "maxReplicas": 3}},
]


@pytest.fixture(params=VALUES, ids=str)
def rendered(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[tuple[str, str], dict[str, Any]]]:
    """Values, and the objects of the chart with them."""
    return request.param, objects(text(request.param))


def pods(found: dict[tuple[str, str], dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and template of each kind of pod."""
    for (kind, _), one in found.items():
        if kind in ("Deployment", "StatefulSet"):
            yield kind, one["spec"]["template"]


def variables(found: dict[tuple[str, str], dict[str, Any]]) -> dict[str, str]:
    (server,) = found["Deployment", "cachenet-server"]["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one["value"] for one in server["env"]}


def test_helm_lints_the_chart_without_a_warning() -> None:
    from helm_python.chart import lint

    report = lint(CHART, strict=True)
    assert [one for one in report["messages"] if one["severity"] > 1] == report["errors"] == []


@pytest.mark.parametrize(("values", "version"), [({}, "1.29"), *((values, "1.37") for values in VALUES)], ids=str)
def test_every_object_fits_the_schema_of_kubernetes_whatever_the_values(values: dict[str, Any], version: str) -> None:
    """In an old and a new version of Kubernetes. One Service of a shard is as good as all."""
    for (_, name), one in objects(text(values)).items():
        if not name.startswith("cachenet-broker-") or name.endswith("-0"):
            kubernetes_validate.validate(one, version, strict=True)


def test_the_schema_check_refuses_an_unknown_field() -> None:
    wrong = objects(text())["Service", "cachenet-broker"]
    wrong["spec"]["clusterip"] = "None"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


def test_the_plain_manifests_are_the_chart_with_its_default_values() -> None:
    assert objects(MANIFESTS.read_text("utf-8")) == objects(text()), "run: python -m tests.charts"


def test_servers_connect_to_each_shard_and_devices_reach_each_shard(
    rendered: tuple[dict[str, Any], dict[tuple[str, str], dict[str, Any]]],
) -> None:
    values, found = rendered
    shards = values.get("shards", 3)
    broker = found["StatefulSet", "cachenet-broker"]["spec"]
    assert broker["replicas"] == shards
    names = [f"cachenet-broker-{shard}" for shard in range(shards)]
    addresses = [f"mqtts://server@{name}.{broker['serviceName']}:8883" for name in names]
    assert variables(found)["CACHENET_BROKER"].split(",") == addresses
    labels = broker["template"]["metadata"]["labels"]
    shared = found["Service", broker["serviceName"]]["spec"]
    assert shared["clusterIP"] == "None"
    assert shared["selector"].items() <= labels.items()
    for name in names:
        assert found["Service", name]["spec"]["selector"] == {"statefulset.kubernetes.io/pod-name": name}


def test_secrets_are_referred_to_and_not_part_of_the_chart(
    rendered: tuple[dict[str, Any], dict[tuple[str, str], dict[str, Any]]],
) -> None:
    values, found = rendered
    assert not any(kind == "Secret" for kind, _ in found)
    named = {
        volume["secret"]["secretName"]
        for _, template in pods(found)
        for volume in template["spec"]["volumes"]
        if "secret" in volume
    }
    expected = {values.get(part, {}).get("secret", f"cachenet-{part}") for part in ("broker", "server")}
    assert named == expected


def test_pods_have_no_privileges_and_are_selected_by_their_labels(
    rendered: tuple[dict[str, Any], dict[tuple[str, str], dict[str, Any]]],
) -> None:
    for (kind, _), one in rendered[1].items():
        if kind in ("Deployment", "StatefulSet"):
            labels = one["spec"]["template"]["metadata"]["labels"]
            assert one["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for _, template in pods(rendered[1]):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] and not spec["automountServiceAccountToken"]
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"] and not own["allowPrivilegeEscalation"]
            assert own["capabilities"]["drop"] == ["ALL"]
            assert "memory" in container["resources"]["limits"]


def test_the_server_gets_settings_that_it_has(
    rendered: tuple[dict[str, Any], dict[tuple[str, str], dict[str, Any]]],
) -> None:
    values, found = rendered
    own = variables(found)
    assert {name.removeprefix("CACHENET_").lower() for name in own} <= set(Settings.__struct_fields__)
    server = values.get("server", {})
    assert own.get("CACHENET_V2_URL", "") == server.get("v2Url", "")
    assert own.get("CACHENET_EXECUTOR", "local") == ("v2" if "v2Url" in server else "local")
    assert own["CACHENET_BUNDLE"] == ("/bundle/mine" if "bundleClaim" in server else "cifar10")


def test_servers_are_added_by_a_metric_that_they_have() -> None:
    (metric,) = objects(text())["HorizontalPodAutoscaler", "cachenet-server"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    gauge = name.removeprefix("cachenet_server_")
    assert gauge != name
    assert f'("{gauge}", "Requests in the queue."' in (ROOT / "cloud_server/serving/metrics.py").read_text("utf-8")


def test_the_broker_is_that_of_compose() -> None:
    found, compose = objects(text()), services({"CACHENET_UID": "1", "CACHENET_GID": "1"})["broker"]
    (mosquitto,) = found["StatefulSet", "cachenet-broker"]["spec"]["template"]["spec"]["containers"]
    assert mosquitto["image"] == compose["image"]
    assert f"ulimit -d {compose['ulimits']['data'] // 1024} " in mosquitto["command"][-1]
    configuration = found["ConfigMap", "cachenet-broker"]["data"]["mosquitto.conf"]
    assert configuration == (ROOT / "docker/mosquitto.conf").read_text("utf-8")


@pytest.mark.skipif(shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin") is None, reason="needs mosquitto")
def test_the_commands_of_the_brokers_start_two_shards_that_take_the_servers_password(tmp_path: Path) -> None:
    """With the directories of the pod replaced; the configuration has another port, and on root's machine its user."""
    made = tmp_path / "deployment"
    hosts = ["--host", "localhost", "--host", "cachenet-broker-0.cachenet-broker"]
    assert CliRunner().invoke(app, ["provision", "cam1", *hosts, "--out", str(made)]).exit_code == 0
    spec = objects(text())["StatefulSet", "cachenet-broker"]["spec"]["template"]["spec"]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for shard in range(2):
            own, port = tmp_path / f"shard{shard}", free_port()
            own.mkdir()
            configuration = (ROOT / "docker/mosquitto.conf").read_text("utf-8").replace("8883", str(port))
            (own / "mosquitto.conf").write_text(configuration + ("user root\n" if os.geteuid() == 0 else ""))
            environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin"}
            for container in (spec["initContainers"][0], spec["containers"][0]):
                script = container["command"][-1].replace("/broker/", f"{own}/")
                script = script.replace("/secret/", f"{made}/broker/").replace("/etc/mosquitto/", f"{own}/")
                running.append(subprocess.Popen([*container["command"][:-1], script], cwd=own, env=environment))
                if container["name"] == "users":
                    assert running.pop().wait(30) == 0
            doctor = [sys.executable, "-m", "cachenet.cloud_server", "doctor", "--json",
                      "--broker", f"mqtts://server@localhost:{port}", "--ca", str(made / "ca.crt"),
                      "--password-file", str(made / "server/password")]  # fmt: skip
            found: dict[str, str] = {}

            def accepted(doctor: list[str] = doctor, found: dict[str, str] = found) -> bool:
                done = subprocess.run(doctor, capture_output=True, text=True, timeout=60, check=False)
                found |= {one["what"]: one["grade"] for one in json.loads(done.stdout)["findings"]}
                return found.get("password") == "ok"

            until(accepted, str(found))
            assert found["tls"] == "ok"
    finally:
        for broker in running:
            broker.kill()
            broker.wait()
