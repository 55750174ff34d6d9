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


def test_a_file_comes_whole_in_pieces(bundle: Bundle) -> None:
    wanted = bundle.path("vehicles").read_bytes()
    blobs, got = Blobs(bundle), b""
    while len(got) < len(wanted):
        chunk = blobs.chunk(BlobRequest(bundle.manifest.models["vehicles"].sha256, len(got), 1000))
        assert (chunk.error, chunk.offset, chunk.total) == ("", len(got), len(wanted))
        got += chunk.data
    assert got == wanted


def test_a_piece_is_never_larger_than_the_protocol_allows(bundle: Bundle) -> None:
    path = bundle.path("base")
    path.write_bytes(bytes(3 * CHUNK))
    assert len(Blobs(bundle).chunk(BlobRequest(bundle.manifest.models["base"].sha256, 1, 1 << 40)).data) == CHUNK


@pytest.mark.parametrize(("offset", "length"), [(-1, 10), (1 << 40, 10), (0, 0), (0, -5)])
def test_a_piece_outside_the_file_is_refused(bundle: Bundle, offset: int, length: int) -> None:
    chunk = Blobs(bundle).chunk(BlobRequest(bundle.manifest.models["base"].sha256, offset, length))
    assert chunk.error
    assert chunk.data == b""
    assert chunk.offset == offset


def test_the_offset_after_the_last_byte_is_outside(bundle: Bundle) -> None:
    size = bundle.path("base").stat().st_size
    assert Blobs(bundle).chunk(BlobRequest(bundle.manifest.models["base"].sha256, size, 1)).error


def test_only_files_of_the_bundle_are_given_out(bundle: Bundle) -> None:
    manifest_digest = file_digest(bundle.directory / "bundle.json")
    assert Blobs(bundle).chunk(BlobRequest(manifest_digest, 0, 10)).error
    assert Blobs(bundle).chunk(BlobRequest("../bundle.json", 0, 10)).error


def test_a_file_that_has_gone_is_an_error_for_the_asker_alone(bundle: Bundle) -> None:
    blobs = Blobs(bundle)
    bundle.path("base").unlink()
    assert blobs.chunk(BlobRequest(bundle.manifest.models["base"].sha256, 0, 10)).error
    assert blobs.chunk(BlobRequest(bundle.manifest.models["full"].sha256, 0, 10)).data
