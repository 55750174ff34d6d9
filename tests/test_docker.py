"""What can be said of images, services and scripts without a container engine; ``benchmarks.deploy`` runs them."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.engine import services, stages
from cachenet.cloud_server.cli import app as server
from cachenet.edge_agent.cli import app as agent

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
    """The instructions that an image is made of, those of the stages below it first."""
    known = stages(DOCKERFILE)
    own = known[target]
    below = own[0].value[0]
    return [*(chain(below) if below in known else []), *own]


def last(target: str, instruction: str) -> tuple[str, ...]:
    found: tuple[str, ...] = [step.value for step in chain(target) if step.cmd == instruction][-1]
    return found


def environment(target: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for step in chain(target):
        if step.cmd == "ENV":
            pairs |= dict(zip(step.value[::2], step.value[1::2], strict=True))
    return pairs


def linted(program: str, *files: Path) -> None:
    command = Path(sysconfig.get_path("scripts")) / program
    done = subprocess.run([command, *files], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_is_clean_to_hadolint() -> None:
    linted("hadolint", DOCKERFILE)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean_to_shellcheck(script: Path) -> None:
    linted("shellcheck", script)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_nobody_in_particular_and_says_how_it_is(image: str) -> None:
    user, _, group = last(image, "USER")[0].partition(":")
    assert int(user) > 0 and int(group) > 0
    port = environment(image)["CACHENET_METRICS"].rpartition(":")[2]
    assert f"http://127.0.0.1:{port}/health" in last(image, "HEALTHCHECK")[-1]


@pytest.mark.parametrize("image", IMAGES)
def test_an_images_command_is_one_that_its_program_takes(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the settings of a kit and of the image itself."""
    for name, value in environment(image).items():
        if name.startswith("CACHENET_"):
            monkeypatch.setenv(name, value)
    assert CliRunner().invoke(server, ["provision", "cam", "--out", str(tmp_path), "--host", "b"]).exit_code == 0
    program, app, kit = ("edge-agent", agent, "devices/cam") if image == "agent" else ("cloud-server", server, "server")
    assert last(image, "ENTRYPOINT") == (program,)
    command = [word.replace("/etc/cachenet", str(tmp_path / kit)) for word in last(image, "CMD")]
    done = CliRunner().invoke(app, [*command, "--print-config"])
    assert done.exit_code == 0, done.output
    for said in ('metrics = "0.0.0.0:9100"', 'ca = "/etc/cachenet/ca.crt"', 'password_file = "/etc/cachenet/password"'):
        assert said in done.stdout


def test_the_cuda_image_has_the_tested_onnx_runtime() -> None:
    pinned = re.search(r'^onnxruntime==(\S+); python_version >= "3.11"', (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned is not None
    assert f"'onnxruntime-gpu[cuda,cudnn]=={pinned[1]}'" in DOCKERFILE.read_text()
    (python,) = {step.value[0] for step in chain("server-cuda") if step.cmd == "FROM" and ":" in step.value[0]}
    version = re.match(r"python:(3\.\d+)-", python)
    assert version is not None
    assert f"python{version[1]}/site-packages" in environment("server-cuda")["LD_LIBRARY_PATH"]


def test_every_service_is_locked_down() -> None:
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


def test_services_do_not_start_before_there_is_a_user_to_run_them() -> None:
    with pytest.raises(SystemExit, match=r"run \./provision first"):
        services({})
