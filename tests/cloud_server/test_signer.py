"""When a server signs, and which metadata of the builder it uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachenet.cloud_server.serving.signer import RENEW_S
from cachenet.shared.bundle.signing import version_of
from tests.shared.repositories import Client, Repository


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
