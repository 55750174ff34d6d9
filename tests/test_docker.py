"""Images, services and scripts, checked without a container engine; ``benchmarks.deploy`` runs them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from typer.testing import CliRunner

from benchmarks.engine import services, stages
from cachenet.cloud_server.cli import app as server
from cachenet.edge_agent.cli import app as agent
from cachenet.edge_agent.doctor.service import READY_S
from cachenet.edge_agent.settings import Settings

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
DOCKERFILE = DOCKER / "Dockerfile"
IMAGES = ("agent", "server", "server-cuda")
SCRIPTS = [
    path
    for path in sorted(DOCKER.rglob("*"))
    if path.is_file() and path.read_bytes().startswith((b"#!/bin/sh", b"#!/usr/bin/env bash"))
]


def chain(target: str) -> list[Any]:
    """The instructions of an image, those of its parent stages first."""
    found = stages(DOCKERFILE)
    own = found[target]
    parent = own[0].value[0]
    return [*(chain(parent) if parent in found else []), *own]


def last(target: str, instruction: str) -> tuple[str, ...]:
    """The value of the last such instruction of an image."""
    value: tuple[str, ...] = [step.value for step in chain(target) if step.cmd == instruction][-1]
    return value


def environment(target: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for step in chain(target):
        if step.cmd == "ENV":
            pairs |= dict(zip(step.value[::2], step.value[1::2], strict=True))
    return pairs


def check_with(program: str, *files: Path) -> None:
    """Assert that a linter accepts the files."""
    command = Path(sysconfig.get_path("scripts")) / program
    done = subprocess.run([command, *files], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_accepts_the_dockerfile() -> None:
    check_with("hadolint", DOCKERFILE)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_accepts_the_scripts(script: Path) -> None:
    check_with("shellcheck", script)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_service(tmp_path: Path) -> None:
    """With a program that exists in place of the installed one."""
    unit = tmp_path / "cachenet-agent.service"
    text = (DOCKER / "device/cachenet-agent.service").read_text()
    unit.write_text(text.replace("/opt/cachenet/bin/edge-agent", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_service_has_a_watchdog_that_a_frame_does_not_outlast_and_is_ready_before_its_start_times_out() -> None:
    """A frame waits for the server for a minute at most, and systemd's time for a start is 90 s."""
    text = (DOCKER / "device/cachenet-agent.service").read_text()
    assert "\nType=notify\n" in text
    (seconds,) = re.findall(r"^WatchdogSec=(\d+)$", text, re.M)
    longest_s = (
        max(meta.le for meta in get_type_hints(Settings, include_extras=True)["deadline_ms"].__metadata__) / 1000
    )
    assert int(seconds) / 2 > longest_s
    assert READY_S < 90 and "TimeoutStartSec" not in text


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_an_unprivileged_user_and_a_health_check(image: str) -> None:
    user, _, group = last(image, "USER")[0].partition(":")
    assert int(user) > 0 and int(group) > 0
    port = environment(image)["CACHENET_METRICS"].rpartition(":")[2]
    assert f"http://127.0.0.1:{port}/health" in last(image, "HEALTHCHECK")[-1]


@pytest.mark.parametrize("image", IMAGES)
def test_the_program_accepts_the_images_command(image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the settings of provisioned credentials and of the image."""
    for name, value in environment(image).items():
        if name.startswith("CACHENET_"):
            monkeypatch.setenv(name, value)
    assert CliRunner().invoke(server, ["provision", "cam", "--out", str(tmp_path), "--host", "b"]).exit_code == 0
    program, app, directory = (
        ("edge-agent", agent, "devices/cam") if image == "agent" else ("cloud-server", server, "server")
    )
    assert last(image, "ENTRYPOINT") == (program,)
    command = [word.replace("/etc/cachenet", str(tmp_path / directory)) for word in last(image, "CMD")]
    done = CliRunner().invoke(app, [*command, "--print-config"])
    assert done.exit_code == 0, done.output
    for line in ('metrics = "0.0.0.0:9100"', 'ca = "/etc/cachenet/ca.crt"', 'password_file = "/etc/cachenet/password"'):
        assert line in done.stdout


def test_the_cuda_image_has_the_tested_onnx_runtime() -> None:
    pinned = re.search(r'^onnxruntime==(\S+); python_version >= "3.11"', (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned is not None
    assert f"'onnxruntime-gpu[cuda,cudnn]=={pinned[1]}'" in DOCKERFILE.read_text()
    (python,) = {step.value[0] for step in chain("server-cuda") if step.cmd == "FROM" and ":" in step.value[0]}
    version = re.match(r"python:(3\.\d+)-", python)
    assert version is not None
    assert f"python{version[1]}/site-packages" in environment("server-cuda")["LD_LIBRARY_PATH"]


def test_every_service_has_minimal_rights() -> None:
    for name, service in services({"CACHENET_UID": "1000", "CACHENET_GID": "1000"}).items():
        assert service["user"] == "1000:1000", name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        writable = [volume for volume in service["volumes"] if not volume.endswith(":ro")]
        assert writable == {
            "broker": ["./deployment/broker:/broker"],
            "agent": ["./deployment/store:/var/lib/cachenet"],
            "provision": ["./deployment:/deployment"],
        }.get(name, [])


def test_services_do_not_start_before_provision_has_set_their_user() -> None:
    with pytest.raises(SystemExit, match=r"run \./provision first"):
        services({})
