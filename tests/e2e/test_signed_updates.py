"""Signed bundles from the builder's keys to a device, over a real broker."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from cachenet.cloud_server.cli import app as server
from cachenet.models.cli import app
from cachenet.shared.bundle.extension import difference, merge
from cachenet.shared.bundle.manifest import MANIFEST, Bundle, digest
from tests.broker import Mosquitto, free_port
from tests.bundles import tiny_bundle
from tests.e2e.agents import AgentProcess
from tests.e2e.servers import ServerProcess, until


def build(*arguments: object) -> None:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output


def signed_bundle(directory: Path, keys: Path, seed: int = 0) -> Bundle:
    build("sign", tiny_bundle(directory, seed), "--keys", keys)
    return Bundle(directory)


def updated(bundle: Bundle, work: Path) -> Bundle:
    """The bundle with a trained submodel for ``cam``, where a server with ``--fine-tune`` looks for it."""
    out = work / bundle.version[:16]
    shutil.copytree(bundle.directory, out)
    shutil.copytree(out / "base", out / "update-001-cam")
    base = bundle.manifest.models["base"]
    own = msgspec.structs.replace(base, role="submodel", file="update-001-cam/1/model.onnx", devices=("cam",))
    manifest = msgspec.structs.replace(bundle.manifest, models={**bundle.manifest.models, "update-001-cam": own})
    (out / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return Bundle(out)


@contextmanager
def serving(directory: Path, bundle: Bundle, *flags: str) -> Iterator[ServerProcess]:
    server = ServerProcess(directory, "--bundle", str(bundle.directory), *flags)
    try:
        yield server
    finally:
        server.close()


def test_signed_updates_and_trained_submodels_are_taken_and_an_older_bundle_is_refused(
    tmp_path: Path, mosquitto: Mosquitto, frames: Path
) -> None:
    """A device follows updates while it answers, and later starts without a network."""
    keys, work = tmp_path / "keys", tmp_path / "updates"
    build("keys", "--out", keys)
    first = signed_bundle(tmp_path / "first", keys)
    second = signed_bundle(tmp_path / "second", keys, 1)
    own = [str(frames), "--trusted-root", str(keys / "root.json"), "--store", str(tmp_path / "store"), "--fps", "20"]
    own += ["--mode", "offline"]  # asks nothing, so the server trains nothing
    broker, key = ["--broker", mosquitto.url], ["--key", str(keys / "server.key")]
    trained = updated(second, work)
    merged = digest(merge(second.data, difference(second.version, second.manifest, trained.manifest)))
    with closing(AgentProcess(tmp_path, *own, *broker)) as agent:

        def current(version: str) -> int:
            return agent.log().count(f"version {version[:12]} is current")

        with serving(tmp_path, first, *broker, *key):
            until(lambda: current(first.version))
        with serving(tmp_path, second, *broker, *key, "--fine-tune", "--work", str(work)):
            until(lambda: current(merged))
            build("revoke", second.directory, "--keys", keys)
            until(lambda: current(second.version))
        with serving(tmp_path, first, *broker, *key):
            until(lambda: "tiny is not taken: its metadata is older" in agent.log())
        summary, _ = agent.stop()
    assert summary["metadata"] == "" and current(first.version) == 1
    nowhere = ["--broker", f"mqtt://127.0.0.1:{free_port()}", "--frames", "20"]
    assert AgentProcess(tmp_path, *own, *nowhere, name="alone").finish()["frames"] == 20


def test_signed_catalogues_pass_the_embedded_broker(tmp_path: Path, frames: Path) -> None:
    keys, port = tmp_path / "keys", free_port()
    build("keys", "--out", keys)
    bundle = signed_bundle(tmp_path / "bundle", keys)
    with serving(tmp_path, bundle, "--port", str(port), "--key", str(keys / "server.key")):
        own = ["--trusted-root", str(keys / "root.json"), "--store", str(tmp_path / "store"), "--frames", "20"]
        agent = AgentProcess(tmp_path, str(frames), *own, "--broker", f"mqtt://127.0.0.1:{port}")
        assert agent.finish()["frames"] == 20


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("unsigned", "is not signed; sign it with: model-builder sign"),
        ("changed", "was changed after it was signed"),
        ("key", "is not the server's key of 1.root.json"),
        ("no key", "No such file"),
    ],
)
def test_a_server_that_cannot_sign_says_so_and_ends(tmp_path: Path, change: str, why: str) -> None:
    keys, bundle = tmp_path / "keys", tiny_bundle(tmp_path / "bundle")
    build("keys", "--out", keys)
    if change != "unsigned":
        build("sign", bundle, "--keys", keys)
    if change == "changed":
        (bundle / MANIFEST).write_bytes((bundle / MANIFEST).read_bytes() + b"\n")
    key = {"key": keys / "targets.key", "no key": keys / "none.key"}.get(change, keys / "server.key")
    done = CliRunner().invoke(server, ["run", "--bundle", str(bundle), "--port", str(free_port()), "--key", str(key)])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1) and why in done.stderr
