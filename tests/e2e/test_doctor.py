"""Each thing that goes wrong with a deployment, as a person meets it: the doctor finds it and ``run`` says it, in one
line each that tells what to do."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner, Result

from cachenet.cloud_server.cli import app as server_app
from cachenet.cloud_server.provision.authority import Authority
from cachenet.cloud_server.provision.provision import give_to_broker
from cachenet.edge_agent.cli import app as agent_app
from cachenet.edge_agent.doctor import connectivity
from cachenet.models.signing import KeyDirectory
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command import diagnostics
from tests.broker import free_port
from tests.bundles import tiny_bundle
from tests.deployed import Deployed
from tests.e2e.servers import ServerProcess, picture


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A doctor ends with its process, and leaves the log switched off."""
    import logging

    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bundle`` and ``pictures`` of which all is well."""
    place = tmp_path_factory.mktemp("place")
    tiny_bundle(place / "bundle")
    (place / "pictures").mkdir()
    for seed in range(3):
        cv2.imwrite(str(place / f"pictures/{seed}.png"), picture(seed))
    return place


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    broker = Deployed(tmp_path_factory.mktemp("deployed"), "cam")
    broker.start()
    yield broker
    broker.kill()


def found(done: Result) -> dict[str, tuple[str, str]]:
    """Grade and text by what was looked at; the last of each."""
    report = json.loads(done.stdout)
    grades = {one["what"]: (one["grade"], one["says"]) for one in report["findings"]}
    assert report["ok"] == (done.exit_code == 0) == ("problem" not in {grade for grade, _ in grades.values()})
    return grades


def agent(*arguments: str) -> Result:
    return CliRunner().invoke(agent_app, ["doctor", *arguments, "--json"])


def server(*arguments: str) -> Result:
    return CliRunner().invoke(server_app, ["doctor", *arguments, "--json"])


def test_all_is_well_with_a_server_there(
    place: Path, deployed: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over TLS with passwords: nothing is a problem, the server answers the golden picture, and the agent's own model
    is known from the catalogue though it is not here yet. The server's doctor agrees."""
    flags = ["--bundle", str(place / "bundle"), *deployed.flags("server")]
    output = found(server(*flags))
    assert {what: grade for what, (grade, _) in output.items() if what != "clock"} == dict.fromkeys(
        ("broker", "tls", "password", "bundle", "model", "pace"), "ok"
    )
    process = ServerProcess(tmp_path, *flags)
    try:
        process.wait_for("connected to")
        own = [str(place / "pictures"), "--device", "cam", "--store", str(tmp_path / "store"), *deployed.flags("cam")]
        done = agent(*own)
        output = found(done)
        assert done.exit_code == 0, done.output
        assert {output[what][0] for what in ("broker", "tls", "password", "catalogue", "server", "disk", "source")} == {
            "ok"
        }
        assert "calls the golden picture" in output["server"][1]
        assert "is not here yet" in output["model"][1]
        assert "48x48" in output["source"][1]
    finally:
        process.stop()
        process.close()
    monkeypatch.setattr(connectivity, "_TIMEOUT_S", 1.0)
    output = found(agent(*own))
    assert output["server"][0] == "warning", "the catalogue is kept by the broker, and nobody answers"
    assert "is cloud-server running" in output["server"][1]


def test_with_a_bundle_alone_it_says_how_fast_the_device_is(place: Path) -> None:
    output = found(agent(str(place / "pictures"), "--bundle", str(place / "bundle")))
    assert output["model"][0] == output["pace"][0] == "ok"
    assert "frames a second" in output["pace"][1]


def test_findings_are_one_line_each_for_a_person_too(place: Path) -> None:
    done = CliRunner().invoke(agent_app, ["doctor", "camera:99", "--bundle", str(place / "bundle")])
    assert done.exit_code == 1
    assert [line.split()[0] for line in done.stdout.splitlines()][-1] in ("ok", "warning", "problem")
    (problem,) = (line for line in done.stdout.splitlines() if line.startswith("problem"))
    assert "camera 99 cannot be opened; is it plugged in and free?" in problem
    assert done.stderr == ""


def test_bad_usage_stays_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "unknown.toml").write_text("sorce = 'x'\n")
    for runner in (agent, server):
        done = runner("--config", str(tmp_path / "unknown.toml"))
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def expired(broker: Deployed) -> None:
    where = broker.out / "broker"
    long_ago = datetime.now(timezone.utc) - timedelta(days=60)
    Authority(broker.out).issue(where / "broker.crt", where / "broker.key", ["127.0.0.1"], long_ago, 30)
    give_to_broker(broker.out)
    broker.kill()
    broker.start()


#: What is wrong, which finding it is, and what both doctors and both programs say of it.
TROUBLES = {
    "wrong password": ("password", "password (Not authorized); check it"),
    "expired certificate": ("tls", "its certificate has expired; have it renewed"),
    "wrong CA": ("tls", "has not signed its certificate; get this broker's CA certificate"),
    "no broker": ("broker", "nothing listens there; is it running"),
}


def with_problems(error: str, directory: Path) -> Deployed:
    """A broker with that wrong with it, or with who wants to use it."""
    directory.mkdir()
    broker = Deployed(directory, "cam")
    if error != "no broker":
        broker.start()
    if error == "expired certificate":
        expired(broker)
    for user in ("cam", "server"):
        if error == "wrong password":
            (broker.credentials(user) / "password").write_text("wrong\n")
        elif error == "wrong CA":
            (directory / user).mkdir()
            shutil.copy(Authority(directory / user).certificate, broker.credentials(user) / "ca.crt")
    return broker


@pytest.mark.parametrize("error", TROUBLES)
def test_the_doctors_find_what_is_wrong_with_the_broker(error: str, place: Path, tmp_path: Path) -> None:
    what, why = TROUBLES[error]
    broker = with_problems(error, tmp_path / "broker")
    own = [str(place / "pictures"), "--device", "cam", "--store", str(tmp_path / "store")]
    try:
        for done in (
            agent(*own, *broker.flags("cam")),
            server("--bundle", str(place / "bundle"), *broker.flags("server")),
        ):
            assert done.exit_code == 1
            grade, output = found(done)[what]
            assert grade == "problem"
            assert why in output
    finally:
        broker.kill()


def test_both_programs_say_it_in_one_line_and_try_again(place: Path, tmp_path: Path) -> None:
    """All four troubles at once: a test of each would take four times as long."""
    commands = {
        "cam": ["edge_agent", "run", str(place / "pictures"), "--device", "cam"],
        "server": ["cloud_server", "run", "--bundle", str(place / "bundle")],
    }
    brokers, running = [], []
    for error, (_, why) in TROUBLES.items():
        brokers.append(with_problems(error, tmp_path / error))
        for user, command in commands.items():
            log = tmp_path / error / f"{user}.log"
            store = ["--store", str(tmp_path / error / "store")] if user == "cam" else []
            with log.open("wb") as err:
                process = subprocess.Popen(
                    [sys.executable, "-m", *command, *store, *brokers[-1].flags(user)],
                    stdout=subprocess.DEVNULL,
                    stderr=err,
                )
            running.append((process, log, why))
    try:
        for process, log, why in running:
            deadline = time.monotonic() + 60
            while why not in log.read_text():
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
        time.sleep(2.5)  # some attempts later, and after an agent has said that it waits
        for process, log, why in running:
            assert process.poll() is None, log.read_text()
            warnings = [line for line in log.read_text().splitlines() if line.startswith("WARNING")]
            assert sum(why in line for line in warnings) == 1, warnings
            assert warnings[1:] in ([], ["WARNING waiting for a model: there is no connection yet"])
            assert "Traceback" not in log.read_text()
    finally:
        for process, _, _ in running:
            process.send_signal(signal.SIGTERM)
        for process, _, _ in running:
            assert process.wait(30) == 0
        for broker in brokers:
            broker.kill()


def test_no_room_and_no_permission(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is simulated, as a test can have none: nothing else asks the system for free space."""
    own = [str(place / "pictures"), "--broker", f"mqtt://127.0.0.1:{free_port()}"]
    output = found(agent(*own, "--store", "/dev/null/store"))
    assert output["disk"] == ("problem", "store /dev/null/store: Not a directory; choose another with --store")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(diagnostics.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    output = found(agent(*own, "--store", str(tmp_path / "store"), "--output", str(tmp_path / "answers.jsonl")))
    assert output["disk"][0] == output["output"][0] == "problem"
    assert "has 1 MB left" in output["disk"][1] and "choose another with --store" in output["disk"][1]
    monkeypatch.setattr(diagnostics.shutil, "disk_usage", shutil.disk_usage)
    output = found(agent(*own, "--store", str(tmp_path / "store"), "--output", "/nowhere/answers.jsonl"))
    assert output["output"] == ("problem", "/nowhere cannot be written to; choose another place for output")


def test_run_reports_a_full_disk_in_one_line_and_tries_again(place: Path, tmp_path: Path) -> None:
    """What the store writes first meets a device that the kernel says is full."""
    bundle = Bundle(place / "bundle")
    broker = Deployed(tmp_path, "cam")
    broker.start()
    process = ServerProcess(tmp_path, "--bundle", str(bundle.directory), *broker.flags("server"))
    store, log = tmp_path / "store", tmp_path / "agent.log"
    (store / "blobs").mkdir(parents=True)
    (store / "blobs" / f"{bundle.manifest.models['base'].sha256}.part").symlink_to("/dev/full")
    why = f"{os.strerror(errno.ENOSPC)}; make room there, or choose another with --store"
    try:
        process.wait_for("connected to")
        with log.open("wb") as err:
            running = subprocess.Popen(
                [sys.executable, "-m", "cachenet.edge_agent", "run", str(place / "pictures"), "--device", "cam",
                 "--store", str(store), *broker.flags("cam")],
                stdout=subprocess.DEVNULL, stderr=err,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while why not in log.read_text():
            assert running.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        time.sleep(1.5)
        assert running.poll() is None
        assert log.read_text().count(why) == 1, "said once"
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
    finally:
        process.close()
        broker.kill()


def test_a_served_bundle_without_signatures_is_a_problem_with_a_trusted_root(
    place: Path, deployed: Deployed, tmp_path: Path
) -> None:
    root = KeyDirectory.create(tmp_path / "keys", datetime.now(timezone.utc)).directory / "root.json"
    process = ServerProcess(tmp_path, "--bundle", str(place / "bundle"), *deployed.flags("server"))
    try:
        process.wait_for("connected to")
        own = [str(place / "pictures"), "--device", "cam", "--store", str(tmp_path / "store"), *deployed.flags("cam")]
        done = agent(*own, "--trusted-root", str(root))
        assert done.exit_code == 1
        assert found(done)["catalogue"] == (
            "problem", "tiny: not signed, and --trusted-root is set; sign what is served"
        )  # fmt: skip
    finally:
        process.stop()
        process.close()


def test_settings_that_no_run_could_begin_with(place: Path, tmp_path: Path) -> None:
    own = [str(place / "pictures"), "--bundle", str(place / "bundle")]
    for flags, why in (
        (["--region", "0.5,0,0.6,1"], "no region"),
        (["--set", "memory_budget=much"], "150MB"),
        (["--set", "metrics=x"], "no port"),
        (["--set", "outbox=much"], "150MB"),
    ):
        assert why in found(agent(*own, *flags))["settings"][1]
    assert "give --broker" in found(agent(*own, "--set", "outbox=5MB"))["outbox"][1]
    asking = ("--broker", "mqtt://127.0.0.1:1", "--store", str(tmp_path / "new" / "store"), "--set", "outbox=5MB")
    grade, text = found(agent(*own, *asking))["outbox"]
    assert (grade, text.startswith("up to 5 MB of pictures are stored in")) == ("ok", True)
    root = KeyDirectory.create(tmp_path / "keys", datetime.now(timezone.utc)).directory / "root.json"
    output = found(agent(*own, "--trusted-root", str(root)))
    assert output["bundle"][0] == "problem"
    assert "is not signed, and --trusted-root is set" in output["bundle"][1]
    assert found(agent("--broker", "mqtt://127.0.0.1:1", "--store", str(tmp_path / "s")))["source"][0] == "problem"
    assert found(agent(str(place / "pictures"), "--store", str(tmp_path / "s")))["broker"][0] == "problem"


def test_a_damaged_bundle_and_a_taken_port(deployed: Deployed, tmp_path: Path) -> None:
    damaged = tiny_bundle(tmp_path / "damaged")
    with (damaged / "base/1/model.onnx").open("ab") as file:
        file.write(b"x")
    output = found(server("--bundle", str(damaged), "--port", str(deployed.port)))
    assert output["bundle"][0] == output["broker"][0] == "problem"
    assert "damaged" in output["bundle"][1]
    assert "Address already in use; choose another with --port" in output["broker"][1]


def test_a_clock_from_before_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a Pi without a battery has it until the network tells it the time."""

    class Past(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Past:
            return cls(1970, 1, 1, tzinfo=tz)

    monkeypatch.setattr(diagnostics, "datetime", Past)
    output = diagnostics.clock()
    assert output.grade == "problem"
    assert "1970-01-01" in output.says and "timedatectl set-ntp true" in output.says
