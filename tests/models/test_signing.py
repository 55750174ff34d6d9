"""The builder's keys and commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from typer.testing import CliRunner, Result

from cachenet.models import signing
from cachenet.models.cli import app
from cachenet.shared.bundle.manifest import MANIFEST
from cachenet.shared.command import extras
from tests.bundles import tiny_bundle


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def refused(why: str, *arguments: object) -> None:
    done = run(*arguments)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert why in done.stderr


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    assert run("keys", "--out", tmp_path / "keys").exit_code == 0
    return tmp_path / "keys"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "bundle")


def test_only_their_owner_can_read_private_keys(keys: Path) -> None:
    assert run("rotate", "server", "--keys", keys).exit_code == 0
    private = list(keys.glob("*.key"))
    assert {path.name for path in private} == {"root.key", "targets.key", "server.key"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in private)


def test_existing_keys_are_not_overwritten(keys: Path) -> None:
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    refused("root.key is there already", "keys", "--out", keys)
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before


def test_show_checks_a_bundle_against_a_root(keys: Path, bundle: Path) -> None:
    """The first root stays good after every key was replaced."""
    first = keys / "1.root.json"
    refused("is not signed", "show", bundle, "--trusted-root", first)
    assert run("sign", bundle, "--keys", keys).exit_code == 0
    assert run("show", bundle, "--trusted-root", first).exit_code == 0
    for name in ("root", "targets", "server", "root"):
        assert run("rotate", name, "--keys", keys).exit_code == 0
    assert run("revoke", bundle, "--keys", keys).exit_code == 0
    assert run("show", bundle, "--trusted-root", first).exit_code == 0
    assert "Signed." in run("show", bundle, "--trusted-root", keys / "root.json").stdout
    (bundle / MANIFEST).write_bytes((bundle / MANIFEST).read_bytes() + b"\n")
    refused("do not belong together", "show", bundle, "--trusted-root", first)


def test_a_bundle_is_signed_again_with_other_keys(keys: Path, bundle: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert run("rotate", "root", "--keys", keys).exit_code == 0
    assert run("sign", bundle, "--keys", keys).exit_code == 0
    assert run("keys", "--out", tmp_path / "others").exit_code == 0
    assert run("sign", bundle, "--keys", tmp_path / "others").exit_code == 0
    assert run("show", bundle, "--trusted-root", tmp_path / "others/root.json").exit_code == 0
    refused("the keys of --trusted-root have not signed it", "show", bundle, "--trusted-root", keys / "root.json")


def test_a_key_that_cannot_be_used_is_refused_by_name(keys: Path, bundle: Path) -> None:
    elliptic = ec.generate_private_key(ec.SECP256R1())
    locked = BestAvailableEncryption(b"word")
    for data, why in (
        ((keys / "server.key").read_bytes(), "targets.key is not the key of 1.root.json"),
        (b"noise", "targets.key is no Ed25519 private key"),
        (elliptic.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked), "is locked with a passphrase"),
    ):
        (keys / "targets.key").write_bytes(data)
        refused(why, "sign", bundle, "--keys", keys)
    (keys / "targets.key").unlink()
    refused("targets.key: No such file", "sign", bundle, "--keys", keys)
    (keys / "root.key").unlink()
    refused("root.key: No such file", "rotate", "targets", "--keys", keys)
    (keys / "1.root.json").write_bytes(b"{}")
    refused("damaged root", "sign", bundle, "--keys", keys)
    refused("'model-builder keys' makes it", "sign", bundle, "--keys", bundle)


@pytest.mark.parametrize("name", ["root", "targets"])
def test_a_replaced_key_is_not_lost_if_the_power_fails_after_its_root_is_written(keys: Path, name: str) -> None:
    former = (keys / f"{name}.key").read_bytes()
    assert run("rotate", name, "--keys", keys).exit_code == 0
    replacement = (keys / f"{name}.key").rename(keys / f"{name}.key.part").read_bytes()
    (keys / f"{name}.key").write_bytes(former)
    bundle = tiny_bundle(keys.parent / "bundle")
    done = run("rotate", "server", "--keys", keys), run("sign", bundle, "--keys", keys)
    assert [one.exit_code for one in done] == [0, 0]
    assert (keys / f"{name}.key").read_bytes() == replacement
    assert not (keys / f"{name}.key.part").exists()


def test_before_devices_refuse_a_root_each_rotation_says_how_many_are_left(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("rotate", "server", "--keys", keys).stderr == ""
    monkeypatch.setattr(signing, "MAX_ROOTS", 4)
    for left in (1, 0):
        done = run("rotate", "server", "--keys", keys)
        assert (done.exit_code, done.stderr.count("\n")) == (0, 1) and f": {left} more keys can be" in done.stderr
    refused("the root has 4 versions, and devices take no more", "rotate", "server", "--keys", keys)


def test_without_the_library_one_line_names_the_extra(
    keys: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "tuf" else name)
    for command in (["keys"], ["sign", bundle], ["show", bundle, "--trusted-root", keys / "root.json"]):
        refused("needs the package tuf; install it in a clone", *command)
