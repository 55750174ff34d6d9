"""Signed catalogues on a device: what is taken, what is stored, and how fresh it is."""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Timestamp

from cachenet.edge_agent.updates import signed_catalogue
from cachenet.edge_agent.updates.signed_catalogue import SignedCatalogue
from cachenet.edge_agent.updates.store import Store
from cachenet.edge_agent.updates.updater import COMMIT_AFTER
from cachenet.models.signing import KeyDirectory
from cachenet.shared.bundle.manifest import Bundle, digest
from cachenet.shared.bundle.signing import Files, read_key, signed, utc
from cachenet.shared.bundle.trust import TrustedRoot
from cachenet.shared.transport import protocol
from tests.edge_agent.loaders import Site, bundle, ready, site, small_chunks_and_short_timeouts, until
from tests.shared.repositories import HOUR, Repository

__all__ = ["bundle", "site", "small_chunks_and_short_timeouts"]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


class Device:
    """A device's signed catalogue with its store; the manifests that it passes on."""

    def __init__(self, repository: Repository, clock: float | None = None) -> None:
        self._repository, self._clock = repository, clock
        self.taken: list[bytes] = []
        self.canaries: list[bytes] = []
        self.changes = 0
        self.restart()

    def restart(self) -> None:
        self.catalogue = SignedCatalogue(
            TrustedRoot(self._repository.root_file),
            Store(self._repository.directory / "store"),
            self.taken.append,
            lambda: "tiny" if self.taken else "",
            self.changed,
            lambda: self._repository.now if self._clock is None else self._clock,
            lambda: self._repository.now,
            self.canaries.append,
        )

    def changed(self) -> None:
        self.changes += 1

    def receive(self, files: Files, name: str = "tiny", canary: bool = False) -> None:
        self.catalogue.receive(name, protocol.encode(protocol.SignedCatalogue(files)), canary)
        self.catalogue.work()


def test_a_verified_manifest_is_taken_and_an_older_one_refused_after_a_restart(repository: Repository) -> None:
    device = Device(repository)
    old = repository.publish()
    repository.now += HOUR
    repository.change()
    device.receive(repository.publish())
    device.restart()
    device.receive(old)
    assert device.taken == [repository.bundle.data]
    assert "older than what this device has" in device.catalogue.error
    repository.now += HOUR
    device.receive(repository.publish(repository.trained()))
    assert b"update-001-cam" in device.taken[-1] and device.catalogue.error == ""


@pytest.mark.parametrize("clock", [None, 0.0], ids=["clock", "no clock"])
def test_withheld_metadata_is_stated_once_and_the_device_goes_on(
    repository: Repository, clock: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    """After a restart, too, where the device has a clock."""
    caplog.set_level(logging.INFO, signed_catalogue.__name__)
    device, files = Device(repository, clock), repository.publish()
    for _ in range(24):
        device.receive(files)
        assert device.catalogue.stale == ""
        repository.now += HOUR
    for _ in range(3):
        device.receive(files)
    why = "no fresh metadata since 2027-01-15 08:00 UTC; updates may be withheld"
    assert device.catalogue.stale == why and caplog.text.count(why) == device.changes == 1
    assert caplog.text.count("tiny is not taken: its metadata has expired") == 1
    device.restart()
    device.catalogue.work()
    assert device.catalogue.stale == (why if clock is None else "")
    device.receive(repository.publish())
    assert device.catalogue.stale == "" and device.taken == [repository.bundle.data] * 25


def test_nothing_that_arrives_raises_or_grows(repository: Repository, caplog: pytest.LogCaptureFixture) -> None:
    """Endless data, too many files, noise, and floods of names and messages."""
    device = Device(repository)
    device.receive(repository.publish())
    many = {f"{number}.root.json": b"" for number in range(65)}
    noise = [b"", b"\xc1", b"\x00" * (protocol.MAX_SIGNED + 1), protocol.encode(protocol.SignedCatalogue(many))]
    for number in range(500):
        device.catalogue.receive(f"name{number}", noise[number % len(noise)])
        device.catalogue.receive_unsigned(f"name{number}")
        device.catalogue.receive("name0", noise[number % len(noise)])
        if number % 50 == 0:
            repository.now += HOUR
            device.catalogue.work()
    for number in range(200):
        device.catalogue.receive(f"more{number}", b"")
        device.catalogue.work()
    assert len(caplog.records) <= 100
    assert len(list((repository.directory / "store/signed").iterdir())) == 1
    assert len(device.taken) == 1
    repository.now -= 10 * HOUR - 1
    device.receive(repository.publish())
    assert len(device.taken) == 2, "and what is signed is still taken"


def test_a_flood_of_names_neither_hides_a_catalogue_nor_makes_a_device_forget(repository: Repository) -> None:
    device, old = Device(repository), repository.publish()
    repository.now += HOUR
    device.receive(repository.publish())
    device.restart()
    for _ in range(2):
        for number in range(100):
            device.catalogue.receive(f"name{number}", b"")
        device.receive(old)
    assert device.catalogue.error.startswith("tiny is not taken: its metadata is older")


def test_a_catalogue_without_signatures_is_reported(repository: Repository) -> None:
    device = Device(repository)
    device.catalogue.receive_unsigned("tiny")
    device.catalogue.work()
    assert device.catalogue.error == "", "the signed one may be on its way"
    repository.now += 10
    device.catalogue.work()
    assert device.catalogue.error == "tiny is not taken: the server does not sign it, and --trusted-root is set"
    device.receive(repository.publish())
    assert device.catalogue.error == ""


def test_damaged_state_is_replaced(repository: Repository) -> None:
    device = Device(repository)
    device.receive(repository.publish())
    (repository.directory / "store/signed/tiny").write_bytes(b"\x81noise")
    device.restart()
    device.catalogue.work()
    device.receive(repository.publish())
    assert len(device.taken) == 2 and device.catalogue.error == ""


@pytest.mark.parametrize("name", ["2.root.json", "timestamp.json"])
def test_damage_within_the_stored_metadata_does_not_end_updates(repository: Repository, name: str) -> None:
    """The file can still be read, but its time is another one, and nobody has signed it."""
    KeyDirectory(repository.directory / "keys").rotate("root", utc(repository.now))
    repository.sign()
    repository.start_server()
    device = Device(repository)
    device.receive(repository.publish())
    stored = repository.directory / "store/signed/tiny"
    files = protocol.decode(stored.read_bytes(), protocol.SignedCatalogue, protocol.MAX_SIGNED).files
    damaged = files[name].replace(b"1800000000", b"9800000000")
    assert damaged != files[name]
    stored.write_bytes(protocol.encode(protocol.SignedCatalogue({**files, name: damaged})))
    device.restart()
    device.receive(repository.publish())
    assert len(device.taken) == 2 and device.catalogue.error == device.catalogue.stale == ""


class _Beyond(datetime):
    """A time after the end of Python's calendar."""

    def timestamp(self) -> float:
        return float(1 << 39)


def test_a_time_after_the_end_of_the_calendar_ends_no_device(repository: Repository) -> None:
    """The thief of a server's key signs it. A check that raises ends the process, again after each start."""
    device, files = Device(repository), repository.publish()
    timestamp = Metadata[Timestamp].from_bytes(files["timestamp.json"]).signed
    forged = signed(timestamp, _Beyond(2027, 1, 1), read_key(repository.directory / "keys/server.key"))
    device.receive({**files, "timestamp.json": forged})
    device.restart()
    device.catalogue.work()
    repository.now += HOUR
    device.receive(repository.publish())
    assert device.taken[-1] == repository.bundle.data and device.catalogue.error == ""


def test_a_candidate_that_an_earlier_run_has_stored_without_the_root_is_vouched_for(site: Site, bundle: Bundle) -> None:
    site.store.stage(bundle.data, bundle.manifest)
    loader = site.loader(root="a" * 64)
    loader.announce(bundle.data)
    ready(loader)
    until(site.store.current)
    assert site.store.root_of(bundle.data) == "a" * 64
    loader.stop()


def test_of_a_store_only_sets_of_the_trusted_root_are_used(site: Site, bundle: Bundle) -> None:
    """A device that starts without a network must trust what it has; what vouches for an older version goes."""
    loader = site.loader(root="a" * 64)
    loader.announce(bundle.data)
    ready(loader)
    until(site.store.current)
    loader.stop()
    for root, found in (("b" * 64, False), ("a" * 64, True), ("", True)):
        again = site.loader(root=root, restore=True)
        assert (again.target is not None) == found
        again.stop()
    loader = site.loader(root="a" * 64, restore=True)
    newer = bundle.data + b"\n"
    loader.announce(newer)
    while ready(loader).version != digest(newer):
        pass
    for _ in range(COMMIT_AFTER):
        loader.on_answer(digest(newer))
    until(lambda: not site.store.root_of(bundle.data))
    assert site.store.root_of(newer) == "a" * 64


def test_the_signed_version_of_a_rollout_does_not_make_that_of_the_catalogue_an_older_one(
    repository: Repository,
) -> None:
    """So that a rollout can be undone, also after a restart; within each of the two, older ones are refused."""
    device = Device(repository)
    stable, builder = repository.bundle, repository.server
    device.receive(repository.publish())
    repository.now += HOUR
    repository.change()
    newer = repository.publish()
    device.receive(newer, canary=True)
    assert (device.taken, device.canaries) == ([stable.data], [repository.bundle.data])
    repository.now += HOUR
    device.restart()
    device.receive(builder.sign(stable))
    assert device.taken[-1] == stable.data and device.catalogue.error == ""
    repository.now += HOUR
    device.receive(repository.publish(), canary=True)
    device.restart()
    device.receive(newer, canary=True)
    assert len(device.canaries) == 2
    assert "older than what this device has" in device.catalogue.error


def test_a_version_of_a_rollout_that_nobody_signed_is_refused(repository: Repository) -> None:
    device = Device(repository)
    device.receive({"bundle.json": repository.bundle.data}, canary=True)
    assert not device.canaries and "is not taken" in device.catalogue.error


def test_a_promoted_version_is_taken_in_the_catalogue(repository: Repository) -> None:
    device = Device(repository)
    device.receive(repository.publish())
    repository.now += HOUR
    repository.change()
    device.receive(repository.publish(), canary=True)
    repository.now += HOUR
    device.receive(repository.publish())
    assert device.taken[-1] == repository.bundle.data and device.catalogue.error == ""
