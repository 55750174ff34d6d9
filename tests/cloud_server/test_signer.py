"""When a server signs, and which metadata of the builder it uses."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cachenet.cloud_server.doctor import _signatures
from cachenet.cloud_server.serving.signer import RENEW_S
from cachenet.shared.bundle.signing import utc, version_of
from tests.shared.repositories import DAY, Client, Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_a_server_signs_the_time_every_hour(repository: Repository) -> None:
    repository.publish()
    repository.now += RENEW_S - 1
    assert not repository.server.due()
    repository.now += 1
    assert repository.server.due()


def test_two_catalogues_of_one_second_have_different_versions(repository: Repository) -> None:
    client = Client(repository)
    first = client.take(repository.publish())
    second = client.take(repository.publish(repository.trained()))
    assert first.signed_at == second.signed_at and b"update-001-cam" in second.manifest


@pytest.mark.parametrize("days", [304, 306, 366])
def test_a_server_warns_60_days_before_root_or_targets_expire(repository: Repository, days: int) -> None:
    repository.now += days * DAY
    warning = repository.server.expiry_warning()
    assert bool(warning) == (days > 305)
    if warning:
        verb = "has expired on" if days > 365 else "expires on"
        assert f"the signed root and targets of {repository.bundle.directory} {verb} 2028-01-15" in warning
        repository.keys.rotate("root", utc(repository.now))
        repository.sign()
        assert repository.server.due() and repository.server.expiry_warning() == ""


def test_a_server_names_what_expires_alone(repository: Repository) -> None:
    repository.now += 100 * DAY
    repository.sign()
    repository.now += 220 * DAY
    repository.server.due()
    assert "the signed root of" in repository.server.expiry_warning()


def test_the_doctor_checks_the_key_and_warns_of_metadata_that_expires(repository: Repository) -> None:
    keys = repository.directory / "keys"
    assert _signatures(repository.bundle, keys / "server.key").grade == "ok"
    assert _signatures(repository.bundle, keys / "root.key").grade == "problem"
    repository.now = time.time() - 310 * DAY
    repository.keys.rotate("root", utc(repository.now))
    repository.sign()
    found = _signatures(repository.bundle, keys / "server.key")
    assert found.grade == "warning" and "model-builder rotate root, then model-builder sign" in found.says


def test_renewed_metadata_is_used_at_once_and_damaged_metadata_never(repository: Repository) -> None:
    files, targets = repository.publish(), repository.bundle.directory / "metadata/targets.json"
    repository.sign()
    assert repository.server.due() and repository.server.error == ""
    renewed = repository.server.sign(repository.bundle)
    assert version_of(renewed["targets.json"]) > version_of(files["targets.json"])
    whole = targets.read_bytes()
    for damaged in (whole[:-9], whole.replace(b"1800", b"1900"), b""):
        targets.write_bytes(damaged)
        assert not repository.server.due() and "metadata" in repository.server.error
        assert repository.server.sign(repository.bundle)["targets.json"] == whole
    targets.unlink()
    assert not repository.server.due() and repository.server.error
    targets.write_bytes(whole)
    assert not repository.server.due() and repository.server.error == ""
