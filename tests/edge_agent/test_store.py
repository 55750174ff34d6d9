from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from cachenet.edge_agent.updates.store import Store, StoreError
from cachenet.edge_agent.updates.update_record import UpdateRecord
from cachenet.shared.bundle.manifest import parse
from tests.bundles import tiny_bundle
from tests.edge_agent.agents import install_current

DATA = bytes(range(256)) * 100
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def blobs(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "store/blobs").iterdir())


def test_a_transfer_resumes_at_the_stored_offset(store: Store, tmp_path: Path) -> None:
    assert store.offset(SHA256) == 0
    store.append(SHA256, DATA[:1000])
    again = Store(tmp_path / "store")
    assert again.offset(SHA256) == 1000
    again.append(SHA256, DATA[1000:])
    path = again.finish(SHA256)
    assert path.read_bytes() == DATA
    assert again.path(SHA256) == path
    assert blobs(tmp_path) == [SHA256]


def test_a_partial_file_has_no_path(store: Store) -> None:
    assert store.path(SHA256) is None
    store.append(SHA256, DATA)
    assert store.path(SHA256) is None


def test_another_digest_is_refused_and_the_file_begun_afresh(store: Store, tmp_path: Path) -> None:
    store.append(SHA256, DATA[:-1] + b"x")
    with pytest.raises(StoreError, match="another digest"):
        store.finish(SHA256)
    assert store.offset(SHA256) == 0
    assert store.path(SHA256) is None
    assert blobs(tmp_path) == []


def test_a_file_that_rotted_is_removed(store: Store, tmp_path: Path) -> None:
    store.append(SHA256, DATA)
    path = store.finish(SHA256)
    path.write_bytes(DATA[:-1] + b"x")
    assert store.path(SHA256) is None
    assert blobs(tmp_path) == []


def test_an_unfinished_file_can_be_discarded(store: Store) -> None:
    store.discard(SHA256)
    store.append(SHA256, DATA)
    store.discard(SHA256)
    assert store.offset(SHA256) == 0


def test_the_current_manifest_is_the_last_one_or_the_one_by_name(store: Store, tmp_path: Path) -> None:
    assert store.current() is None
    data = (tiny_bundle(tmp_path / "bundle") / "bundle.json").read_bytes()
    other = data.replace(b'"name":"tiny"', b'"name":"other"')
    for age, manifest in ((200, data), (100, other)):
        name = parse(manifest).name
        install_current(store, manifest)
        saved = tmp_path / f"store/catalogue/{name}.json"
        os.utime(saved, (saved.stat().st_atime, saved.stat().st_mtime - age))
    assert store.current() == other
    assert store.current("tiny") == data
    assert store.current("third") is None


def test_a_damaged_or_partial_manifest_is_ignored(store: Store, tmp_path: Path) -> None:
    data = (tiny_bundle(tmp_path / "bundle") / "bundle.json").read_bytes()
    install_current(store, data)
    (tmp_path / "store/catalogue/newer.json").write_bytes(data[:-10])
    (tmp_path / "store/catalogue/half.part").write_bytes(data)
    assert store.current() == data
    assert store.current("newer") is None


def test_garbage_collection_keeps_files_that_a_manifest_names(store: Store, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    data = (bundle / "bundle.json").read_bytes()
    manifest = parse(data)
    full, base = (manifest.models[name].sha256 for name in ("full", "base"))
    store.append(full, (bundle / "full/1/model.onnx").read_bytes())
    store.finish(full)
    store.append(base, b"half of it")
    store.append(SHA256, DATA)
    store.finish(SHA256)
    store.append("0" * 64, b"begun and given up")
    install_current(store, data)
    assert store.collect_garbage() == 2
    assert blobs(tmp_path) == sorted([full, f"{base}.part"])


@pytest.mark.parametrize("where", ["/proc/nowhere", "/dev/null/store"])
def test_a_store_that_cannot_be_written_is_refused_at_once(where: str) -> None:
    with pytest.raises(StoreError, match="--store"):
        Store(Path(where))


def test_a_full_disk_is_a_store_error_wherever_it_strikes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (tiny_bundle(tmp_path / "bundle") / "bundle.json").read_bytes()
    part = tmp_path / f"store/blobs/{SHA256}.part"
    part.symlink_to("/dev/full")
    with pytest.raises(StoreError, match="No space left"):
        store.append(SHA256, DATA)
    part.unlink()
    store.append(SHA256, DATA)

    def full(*_: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        store.finish(SHA256)
    with pytest.raises(StoreError, match="No space left"):
        install_current(store, data)
    assert store.path(SHA256) is None, "what was not flushed is not trusted"
    assert store.current() is None


def test_a_directory_at_the_path_of_a_file_is_deleted(store: Store, tmp_path: Path) -> None:
    for name in (SHA256, f"{SHA256}.part"):
        (tmp_path / "store/blobs" / name / "inside").mkdir(parents=True)
    assert not store.has_file(SHA256)
    assert (store.path(SHA256), store.offset(SHA256)) == (None, 0)
    store.append(SHA256, DATA)
    assert store.finish(SHA256).read_bytes() == DATA


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b'{"trial":"\xff"}', b"[" * 100_000, b'{"deaths":"x"}', b"null"], ids=range(7)
)
def test_a_record_of_an_update_that_is_damaged_is_as_none(data: bytes, store: Store, tmp_path: Path) -> None:
    (tmp_path / "store/updates/tiny.json").write_bytes(data)
    assert store.record("tiny") == UpdateRecord()


def test_a_disk_that_cannot_be_read_is_a_store_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "stat", broken)
    with pytest.raises(StoreError):
        store.offset(SHA256)
