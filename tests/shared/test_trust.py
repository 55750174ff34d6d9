"""Attacks on signed catalogues, against an in-memory repository."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from cachenet.cloud_server.serving import signer
from cachenet.models.signing import MAX_ROOTS, KeyDirectory, KeyName
from cachenet.shared.bundle import trust
from cachenet.shared.bundle.manifest import MANIFEST, Bundle, parse
from cachenet.shared.bundle.signing import Files, SigningError, read_key, root_file, signed, utc
from cachenet.shared.bundle.trust import TrustedRoot, UntrustedError
from cachenet.shared.transport import protocol
from tests.shared.repositories import BEGIN, DAY, HOUR, Client, Repository

EXTENSION = "submodels/tiny.json"
ROLES = ("timestamp", "snapshot", "targets", "submodels", "server")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


@pytest.fixture
def client(repository: Repository) -> Client:
    return Client(repository)


def refused(client: Client, files: Files, why: str) -> None:
    known = client.known
    with pytest.raises(UntrustedError, match=why):
        client.take(files)
    assert client.known is known


def test_a_signed_catalogue_gives_the_manifest_and_its_validity(repository: Repository, client: Client) -> None:
    verified = client.take(repository.publish())
    assert (verified.manifest, verified.remark) == (repository.bundle.data, "")
    assert (verified.signed_at, verified.expires) == (BEGIN, BEGIN + DAY)


def test_replayed_metadata_is_refused(repository: Repository, client: Client) -> None:
    """Also of a server that has only signed the time again."""
    first = repository.publish()
    client.take(first)
    repository.now += HOUR
    second = repository.publish()
    client.take(second)
    refused(client, first, "older than what this device has")
    repository.now += HOUR
    repository.change()
    third = repository.publish()
    assert client.take(third).manifest == repository.bundle.data
    refused(client, second, "older than what this device has")
    client.take({**third, "snapshot.json": second["snapshot.json"], "targets.json": b""})
    refused(client, second, "older than what this device has")
    assert client.known is not None and client.known.files["snapshot.json"] == third["snapshot.json"]


def test_an_older_manifest_is_refused_though_the_server_signs_it_anew(repository: Repository, client: Client) -> None:
    """The thief of a server cannot bring back a version that the builder has replaced."""
    old = repository.bundle
    client.take(repository.publish())
    repository.now += HOUR
    repository.change()
    client.take(repository.publish())
    repository.now += HOUR
    repository.bundle = old
    repository.start_server()
    refused(client, repository.publish(), "older than what this device has")


def test_withheld_metadata_is_refused_once_it_has_expired(repository: Repository, client: Client) -> None:
    files = repository.publish()
    repository.now += DAY - 1
    client.take(files)
    repository.now += 1
    refused(client, files, "expired")
    refused(Client(repository), files, "expired")
    assert client.take(repository.publish()).manifest == repository.bundle.data


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repository, Files, Files]:
    """A repository, and what its server published of two versions."""
    repository = Repository(tmp_path_factory.mktemp("versions"))
    old = repository.publish(repository.trained())
    repository.now += HOUR
    repository.change()
    return repository, old, repository.publish(repository.trained("update-002-cam"))


@given(chosen=st.lists(st.booleans(), min_size=8, max_size=8), takes_old=st.booleans())
@settings(max_examples=25, deadline=None)
def test_files_of_two_versions_never_pass_together(
    versions: tuple[Repository, Files, Files], chosen: list[bool], takes_old: bool
) -> None:
    repository, old, new = versions
    client = Client(repository)
    if takes_old:
        client.take(old)
    names = sorted(old)
    assert len(names) == 8 and set(names) == set(new)
    mixed = {name: (new if newer else old)[name] for name, newer in zip(names, chosen, strict=True)}
    try:
        verified = client.take(mixed)
    except UntrustedError:
        return
    source = new if mixed["timestamp.json"] == new["timestamp.json"] else old
    models = parse(verified.manifest).models.keys() - parse(source[MANIFEST]).models.keys()
    if verified.remark or not models:
        assert verified.manifest == source[MANIFEST]
    else:
        assert mixed["submodels/tiny.json"] == source["submodels/tiny.json"]


def test_other_keys_are_refused(repository: Repository, client: Client, tmp_path: Path) -> None:
    other = Repository(tmp_path / "other")
    refused(client, other.publish(), "the keys of --trusted-root have not signed it")
    client.take(repository.publish())
    refused(client, other.publish(), "the keys of --trusted-root have not signed it")


def test_a_catalogue_of_another_bundle_is_refused_in_its_place(repository: Repository) -> None:
    root = TrustedRoot(repository.root_file)
    with pytest.raises(UntrustedError, match="it is the bundle tiny"):
        root.verify("large", repository.publish(), repository.now)


@pytest.mark.parametrize("name", ["root", "targets", "server"])
def test_a_device_follows_a_replaced_key_and_refuses_the_former_one(
    repository: Repository, client: Client, name: KeyName
) -> None:
    """After three replacements at once, as a device meets them that was off for long."""
    client.take(repository.publish())
    former = {key: read_key(repository.directory / f"keys/{key}.key") for key in ("targets", "server")}
    for _ in range(3):
        KeyDirectory(repository.directory / "keys").rotate(name, utc(repository.now))
    repository.now += HOUR
    repository.sign()
    repository.start_server()
    files = repository.publish(repository.trained())
    verified = client.take(files)
    assert verified.remark == "" and "update-001-cam" in parse(verified.manifest).models
    assert Client(repository).take(files) == verified, "so does a device that has nothing yet"
    for key, role in (("targets", "targets"), ("server", "timestamp"), ("server", "snapshot")):
        part = Metadata.from_bytes(files[f"{role}.json"]).signed
        forged = {**files, f"{role}.json": signed(part, utc(repository.now), former[key])}
        if key == name:
            refused(Client(repository), forged, "have not signed it")
        else:
            assert Client(repository).take(forged) == verified


def test_a_device_follows_as_many_rotations_as_a_builder_makes(repository: Repository, client: Client) -> None:
    files = repository.publish(repository.trained())
    root, key = repository.keys.root, read_key(repository.directory / "keys/root.key")
    for version in range(2, MAX_ROOTS + 1):
        root.version = version
        files[root_file(version)] = signed(root, utc(BEGIN), key)
    message = protocol.encode(protocol.SignedCatalogue(files))
    received = protocol.decode(message, protocol.SignedCatalogue, protocol.MAX_SIGNED).files
    assert len(received) == protocol.MAX_FILES
    assert root_file(MAX_ROOTS) in client.take(received).files


def test_a_device_forgets_neither_a_newer_root_nor_the_time_if_a_message_lacks_it(
    repository: Repository, client: Client
) -> None:
    """Here the thief of the former server's key tries, on a device without a clock."""
    client.clock = 0.0
    old = repository.publish()
    client.take(old)
    KeyDirectory(repository.directory / "keys").rotate("server", utc(repository.now))
    repository.sign()
    repository.start_server()
    new = repository.publish()
    client.take(new)
    assert client.known is not None
    del new["2.root.json"]
    client.take(new)
    client.known = trust.Known(client.known.files, age=DAY)
    refused(client, new, "expired")
    refused(client, old, "have not signed it")


def test_another_trusted_root_begins_anew(repository: Repository, client: Client, tmp_path: Path) -> None:
    client.take(repository.publish())
    other = Repository(tmp_path / "other")
    moved = Client(other)
    moved.known = client.known
    assert moved.take(other.publish()).manifest == other.bundle.data


def test_a_root_that_the_former_one_has_not_signed_is_refused(repository: Repository, client: Client) -> None:
    files = repository.publish()
    root = Metadata[Root].from_bytes(files["1.root.json"]).signed
    root.version, thief = 2, read_key(repository.directory / "keys/server.key")
    root.revoke_key(root.roles["root"].keyids[0], "root")
    root.add_key(thief.public_key, "root")
    refused(client, {**files, "2.root.json": signed(root, utc(BEGIN), thief)}, "have not signed it")


def by_server(repository: Repository, manifest: bytes) -> Files:
    """A catalogue in which the server's key signs another manifest as the builder would."""
    files, key = repository.publish(), read_key(repository.directory / "keys/server.key")
    targets = Metadata[Targets].from_bytes(files["targets.json"]).signed
    targets.targets[MANIFEST] = TargetFile.from_data(MANIFEST, manifest, ["sha256"])
    return {**files, "targets.json": signed(targets, utc(repository.now), key), MANIFEST: manifest}


def test_the_server_cannot_sign_a_base_model(repository: Repository, client: Client, tmp_path: Path) -> None:
    other = Repository(tmp_path / "other").bundle
    other_data = other.data.replace(b"tests.bundles", b"tests.thieves")
    refused(client, by_server(repository, other_data), "have not signed it")
    for change in (
        lambda model: {"base": model},  # a model of the builder
        lambda model: {"x": type(model)(**{**as_dict(model), "role": "base", "file": "x/1/model.onnx"})},
        lambda model: {"x": type(model)(**{**as_dict(model), "devices": (), "file": "x/1/model.onnx"})},
    ):
        verified = client.take(with_extension(repository, change))
        assert verified.manifest == repository.bundle.data
        assert verified.remark.startswith("extension: ")
        repository.now += HOUR


def as_dict(model: object) -> dict[str, object]:
    return {name: getattr(model, name) for name in model.__struct_fields__}  # type: ignore[attr-defined]


def with_extension(repository: Repository, change: Callable[..., dict[str, object]]) -> Files:
    """What the server publishes if its extension has other models."""
    own = repository.trained().manifest.models["update-001-cam"]
    extension = signer.difference

    def forged(*arguments: object) -> object:
        made = extension(*arguments)  # type: ignore[arg-type]
        return type(made)(made.version, change(own))  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signer, "difference", forged)
        return repository.publish(repository.trained())


def test_a_stolen_key_of_the_server_signs_submodels_for_seven_days_at_most(
    repository: Repository, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the thief signs for ten years. The builder's models are taken all the time."""
    monkeypatch.setattr(signer, "DAY", timedelta(days=3650))
    client.take(repository.publish())
    repository.now += 7 * DAY - 1
    assert b"update-001-cam" in client.take(repository.publish(repository.trained())).manifest
    repository.now += 1
    verified = client.take(repository.publish(repository.trained()))
    assert verified.manifest == repository.bundle.data and "expired" in verified.remark
    repository.sign()
    assert b"update-001-cam" in client.take(repository.publish(repository.trained())).manifest


def test_a_withdrawn_permission_ends_submodels_at_once(repository: Repository, client: Client) -> None:
    assert b"update-001-cam" in client.take(repository.publish(repository.trained())).manifest
    repository.now += HOUR
    repository.sign(permission=False)
    assert client.take(repository.publish(repository.trained())).manifest == repository.bundle.data


def test_a_time_that_a_thief_signs_counts_until_the_key_is_replaced(repository: Repository, client: Client) -> None:
    client.take(repository.publish())
    repository.now += 100 * DAY
    client.take(repository.publish())
    repository.now -= 99 * DAY
    repository.sign()
    refused(client, repository.publish(), "expired|older")
    KeyDirectory(repository.directory / "keys").rotate("server", utc(repository.now))
    repository.sign()
    repository.start_server()
    assert client.take(repository.publish()).manifest == repository.bundle.data


def test_a_device_without_a_clock_notices_replay_and_withheld_metadata(repository: Repository, client: Client) -> None:
    """Its time is the newest that it has seen signed, and goes on while it runs."""
    client.clock = 0.0
    first = repository.publish()
    client.take(first)
    repository.now += 2 * DAY
    second = repository.publish()
    client.take(second)
    refused(client, first, "expired|older")
    assert client.known is not None
    client.known = trust.Known(client.known.files, age=DAY - 1)
    client.take(second)
    client.known = trust.Known(client.known.files, age=DAY)
    refused(client, second, "expired")
    del second["1.root.json"]
    refused(client, second, "expired")
    repository.now += 2 * DAY
    client.take(repository.publish())


def test_endless_metadata_is_refused(repository: Repository, client: Client) -> None:
    files = repository.publish()
    for name in ("timestamp.json", "snapshot.json", "targets.json"):
        refused(client, {**files, name: files[name] + b" " * (1 << 20)}, "too large")
    refused(client, {**files, "2.root.json": b" " * (1 << 20)}, "too large|invalid")


@pytest.mark.parametrize("name", [*(f"{role}.json" for role in ROLES), MANIFEST, EXTENSION])
def test_an_incomplete_catalogue_is_refused(repository: Repository, client: Client, name: str) -> None:
    """Nobody can take away the submodels of the server without its key."""
    files = repository.publish(repository.trained())
    del files[name]
    refused(client, files, "missing")


@given(
    name=st.sampled_from(["1.root.json", "2.root.json", *(f"{role}.json" for role in ROLES), MANIFEST, EXTENSION]),
    junk=st.binary(max_size=300) | st.sampled_from([b"null", b"[]", b"{}", b"-1", b'""', b"1e999"]),
    place=st.integers(0, 2000),
    whole=st.booleans(),
)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_files_are_refused_and_raise_nothing_else(
    versions: tuple[Repository, Files, Files], name: str, junk: bytes, place: int, whole: bool
) -> None:
    repository, _, new = versions
    data = new.get(name, b"")
    damaged = junk if whole else data[:place] + junk + data[place + len(junk) :]
    try:
        verified = Client(repository).take({**new, name: damaged})
    except UntrustedError:
        return
    assert verified.manifest == Client(repository).take(new).manifest, "white space, or a file that is not used"


def test_a_bundle_in_a_directory_is_checked_without_a_server(repository: Repository, tmp_path: Path) -> None:
    """Its age is not: there is no newer one, and a device must start."""
    root = TrustedRoot(repository.root_file)
    root.verify_bundle(repository.bundle)
    KeyDirectory(repository.directory / "keys").rotate("targets", utc(BEGIN))
    repository.sign()
    root.verify_bundle(repository.bundle)
    with pytest.raises(UntrustedError, match="have not signed it"):
        TrustedRoot(Repository(tmp_path / "other").root_file).verify_bundle(repository.bundle)
    path = repository.bundle.directory / MANIFEST
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(UntrustedError, match="do not belong together"):
        root.verify_bundle(Bundle(repository.bundle.directory))
    for file in (repository.bundle.directory / "metadata").iterdir():
        file.unlink()
    with pytest.raises(UntrustedError, match="is not signed, and --trusted-root is set"):
        root.verify_bundle(Bundle(repository.bundle.directory))


def test_a_file_that_is_no_root_is_refused_by_name(repository: Repository, tmp_path: Path) -> None:
    forged = repository.root_file.read_bytes().replace(b"2027", b"2097").replace(b"2028", b"2098")
    for name, data in (("noise", b"\xff\x00"), ("forged", forged), ("targets", repository.publish()["targets.json"])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SigningError, match=f"{tmp_path / name} is no root of trust"):
            TrustedRoot(tmp_path / name)
    with pytest.raises(SigningError, match="nowhere: No such file"):
        TrustedRoot(tmp_path / "nowhere")
