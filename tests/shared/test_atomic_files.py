"""A file that is written atomically has its old or its new content, whenever the write is interrupted."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cachenet.shared.command import atomic_files

OLD = b"old"


@given(st.binary(max_size=100))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_a_file_has_what_was_written_and_leaves_no_other(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "below" / "file"
    atomic_files.write(path, data)
    atomic_files.write(path, memoryview(data))
    assert path.read_bytes() == data
    assert [one.name for one in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("step", ["flush", "replace"])
def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic_files, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        atomic_files.write(path, b"new")
    assert path.read_bytes() == OLD
    monkeypatch.undo()
    atomic_files.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert [one.name for one in tmp_path.iterdir()] == ["file"], "the partial file of the interrupted write is gone"


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    fsync = os.fsync

    def flushed(handle: int) -> None:
        kind = "directory" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        steps.append((kind, (tmp_path / "file").exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", flushed)
    atomic_files.write(tmp_path / "file", b"new")
    assert steps == [("file", False), ("directory", True)]


def test_a_rename_replaces_the_target(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"new")
    target.write_bytes(OLD)
    atomic_files.replace(source, target)
    assert target.read_bytes() == b"new"
    assert not source.exists()


def test_git_ignores_a_directory_and_an_existing_gitignore_stays(tmp_path: Path) -> None:
    atomic_files.keep_from_git(tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "*\n"
    (tmp_path / ".gitignore").write_text("own\n")
    atomic_files.keep_from_git(tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "own\n"
