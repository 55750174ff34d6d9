"""A fleet of real devices: its page, and the rollout of a bad and of a good version."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from typer.testing import CliRunner

from cachenet.cloud_server.cli import app
from cachenet.cloud_server.fleet.fleet import TOPICS, Fleet
from cachenet.cloud_server.fleet.reader import BrokerReader
from cachenet.shared.bundle.manifest import MANIFEST, Bundle, Manifest
from cachenet.shared.transport import protocol, rollout
from cachenet.shared.transport.mqtt import Address, addresses
from cachenet.shared.transport.rollout import Rollout
from tests.broker import Mosquitto, mosquitto
from tests.bundles import tiny_bundle
from tests.e2e.agents import AgentProcess, agents
from tests.e2e.servers import ServerProcess, until

__all__ = ["agents", "mosquitto"]

#: Longest wait for a step, seconds: devices update in several processes, on a machine that may be busy.
_BOUND_S = 180.0


def good_bundle(directory: Path, note: str) -> Bundle:
    """A bundle whose base model always agrees with the full model: it is the full model."""
    tiny_bundle(directory, risk=0.999)
    manifest = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    full, base = manifest.models["full"], manifest.models["base"]
    shutil.copy(directory / full.file, directory / base.file)
    same = msgspec.structs.replace(base, bytes=full.bytes, sha256=full.sha256)
    changed = msgspec.structs.replace(
        manifest, models={**manifest.models, "base": same}, provenance={**manifest.provenance, "note": note}
    )
    (directory / MANIFEST).write_bytes(msgspec.json.encode(changed))
    return Bundle(directory)


def command(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "cachenet.cloud_server", *arguments, "--json"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_a_rollout_is_undone_on_the_brokers_that_are_there_and_the_others_are_named(tmp_path: Path) -> None:
    brokers: list[Mosquitto] = []
    states: dict[int, str] = {}
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        brokers.append(Mosquitto(tmp_path / str(number)))
    here, gone = brokers
    where = f"{here.url},{gone.url}"
    running = Rollout("tiny", "old", "new", "running", 0, 0.5)
    reader = BrokerReader(
        addresses(where), TOPICS, lambda number, one: states.__setitem__(number, rollout.read(one.payload).line)
    )
    try:
        here.start()
        gone.start()
        with reader.running():
            assert reader.wait()
            for link in reader.links:
                link.publish(rollout.topic("tiny"), protocol.encode(running), qos=1, retain=True)
            until(lambda: len(states) == 2)
            assert CliRunner().invoke(app, ["rollout", "pause", "--broker", where]).exit_code == 0
            until(lambda: set(states.values()) == {"paused (by hand)"})
            gone.kill()
            done = CliRunner().invoke(app, ["rollout", "undo", "--broker", where])
            assert done.exit_code == 1 and "tiny: undone (by hand)" in done.stdout
            named, changed = done.stderr.splitlines()
            assert f":{gone.port}" in named and f":{here.port}" not in named
            assert "changed on 1 of 2 brokers" in changed
            until(lambda: states[0] == "undone (by hand)")
            here.kill()
            done = CliRunner().invoke(app, ["rollout", "undo", "--broker", where])
            assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 2)
    finally:
        here.kill()
        gone.kill()


def test_a_bad_version_is_undone_by_itself_and_a_good_one_promoted_by_hand(
    tmp_path: Path, mosquitto: Mosquitto, frames: Path, agents: Callable[..., AgentProcess]
) -> None:
    old, good = good_bundle(tmp_path / "old", "old"), good_bundle(tmp_path / "good", "good")
    bad = Bundle(tiny_bundle(tmp_path / "bad", risk=0.999))
    # The names of devices decide which are canaries: one of both versions, and one of none.
    bad_rollout, good_rollout = (Rollout("tiny", old.version, new.version, "running", 0, 0.5) for new in (bad, good))
    names = [f"cam{number}" for number in range(60)]
    canary = next(name for name in names if bad_rollout.has_canary(name) and good_rollout.has_canary(name))
    other = next(name for name in names if not (bad_rollout.has_canary(name) or good_rollout.has_canary(name)))

    observed = Fleet(time.monotonic)
    where = Address("127.0.0.1", mosquitto.port)
    reader = BrokerReader([where], TOPICS, lambda number, one: observed.receive(one.topic, one.payload, number))

    def fleet() -> dict[str, str]:
        """Version of each device."""
        return {row.device: row.status.bundle for row in observed.summary().rows if row.status.state == "online"}

    def wait_for(versions: dict[str, Bundle]) -> None:
        until(lambda: fleet() == {name: version.version for name, version in versions.items()}, server.log(), _BOUND_S)

    def serve(newer: Bundle) -> ServerProcess:
        flags = ["--bundle", str(old.directory), "--canary", str(newer.directory), "--set", "canary_share=0.5"]
        return ServerProcess(tmp_path, *flags, "--broker", mosquitto.url, "--threads", "1")

    server = ServerProcess(tmp_path, "--bundle", str(old.directory), "--broker", mosquitto.url, "--threads", "1")
    devices = (canary, other)
    with reader.running():
        try:
            for name in devices:
                agents(
                    *(str(frames), "--device", name, "--broker", mosquitto.url, "--store", str(tmp_path / name)),
                    *("--fps", "10", "--set", "levels=base,cloud", "--set", "audit_share=0.9", "--set", "stats=0.5"),
                )
            wait_for(dict.fromkeys(devices, old))
            server.stop()
            server = serve(bad)
            until(lambda: "undone" in server.log(), server.log(), _BOUND_S)
            assert "audited hits are wrong with the canaries" in server.log()
            wait_for(dict.fromkeys(devices, old))
            server.stop()
            server = serve(good)
            wait_for({canary: good, other: old})
            (state,) = command("rollout", "promote", "--broker", mosquitto.url)["rollouts"]
            assert (state["state"], state["canary"]) == ("promoted", good.version)
            wait_for(dict.fromkeys(devices, good))
            rows = command("fleet", "--broker", mosquitto.url, "--group", f"others={other}")["rows"]
            assert {row["device"]: row["group"] for row in rows} == {canary: "", other: "others"}
            assert all(row["stats"]["levels"]["base"] > 0 for row in rows)
        finally:
            server.close()
