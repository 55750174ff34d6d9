"""Chunks of a bundle's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachenet.cloud_server.serving.blobs import Blobs
from cachenet.shared.bundle.manifest import Bundle, file_digest
from cachenet.shared.transport.protocol import CHUNK, BlobRequest
from tests.bundles import tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tiny_bundle(tmp_path))


def test_chunks_make_up_the_whole_file(bundle: Bundle) -> None:
    expected = bundle.path("vehicles").read_bytes()
    blobs, received = Blobs(bundle), b""
    while len(received) < len(expected):
        chunk = blobs.chunk(BlobRequest(bundle.manifest.models["vehicles"].sha256, len(received), 1000))
        assert (chunk.error, chunk.offset, chunk.total) == ("", len(received), len(expected))
        received += chunk.data
    assert received == expected


def test_a_chunk_is_never_larger_than_the_protocol_allows(bundle: Bundle) -> None:
    path = bundle.path("base")
    path.write_bytes(bytes(3 * CHUNK))
    assert len(Blobs(bundle).chunk(BlobRequest(bundle.manifest.models["base"].sha256, 1, 1 << 40)).data) == CHUNK


@pytest.mark.parametrize(("offset", "length"), [(-1, 10), (1 << 40, 10), (0, 0), (0, -5)])
def test_a_chunk_outside_the_file_is_an_error(bundle: Bundle, offset: int, length: int) -> None:
    chunk = Blobs(bundle).chunk(BlobRequest(bundle.manifest.models["base"].sha256, offset, length))
    assert chunk.error
    assert chunk.data == b""
    assert chunk.offset == offset


def test_the_offset_after_the_last_byte_is_an_error(bundle: Bundle) -> None:
    size = bundle.path("base").stat().st_size
    assert Blobs(bundle).chunk(BlobRequest(bundle.manifest.models["base"].sha256, size, 1)).error


def test_other_files_than_those_of_the_bundle_are_an_error(bundle: Bundle) -> None:
    manifest_digest = file_digest(bundle.directory / "bundle.json")
    assert Blobs(bundle).chunk(BlobRequest(manifest_digest, 0, 10)).error
    assert Blobs(bundle).chunk(BlobRequest("../bundle.json", 0, 10)).error


def test_a_missing_file_is_an_error_for_its_own_requests_only(bundle: Bundle) -> None:
    blobs = Blobs(bundle)
    bundle.path("base").unlink()
    assert blobs.chunk(BlobRequest(bundle.manifest.models["base"].sha256, 0, 10)).error
    assert blobs.chunk(BlobRequest(bundle.manifest.models["full"].sha256, 0, 10)).data
