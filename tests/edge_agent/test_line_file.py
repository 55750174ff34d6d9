"""``--output``: lines are added to what is there, by several runs at a time too, and within a bound."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachenet.edge_agent.outputs.line_file import LineFile


def test_what_was_there_stays_unless_it_is_to_go(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    path.write_bytes(b"old\n")
    for append, left in ((True, b"old\nnew\n"), (False, b"new\n")):
        file = LineFile(path, append)
        file.write(b"new\n")
        file.close()
        assert path.read_bytes() == left


def test_a_line_that_was_cut_off_is_not_glued_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    path.write_bytes(b'{"frame": 1}\n{"fra')
    file = LineFile(path)
    file.write(b"one\n")
    file.write(b"two\n")
    assert path.read_bytes() == b'{"frame": 1}\n{"fra\none\ntwo\n'


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(20, 200), st.lists(st.integers(0, 39), max_size=3))
@settings(max_examples=50)
def test_the_newest_lines_are_in_two_files_of_bounded_size(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], most: int, restarts: list[int]
) -> None:
    directory = tmp_path_factory.mktemp("lines")
    path, old = directory / "answers", directory / "answers.1"
    lines = [bytes([65 + number % 26]) * (length - 1) + b"\n" for number, length in enumerate(lengths)]
    file = LineFile(path, max_bytes=most)
    for number, line in enumerate(lines):
        if number in restarts:
            file.close()
            file = LineFile(path, max_bytes=most)
        file.write(line)
        assert path.stat().st_size <= max(most, len(line))
    file.close()
    assert {entry.name for entry in directory.iterdir()} <= {"answers", "answers.1"}
    saved = (old.read_bytes() if old.exists() else b"") + path.read_bytes()
    assert b"".join(lines).endswith(saved)
    if old.exists():
        assert len(saved) > most - 60


def test_a_renamed_or_deleted_file_is_created_again(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    file = LineFile(path)
    file.write(b"one\n")
    path.rename(tmp_path / "moved")
    file.write(b"two\n")
    path.unlink()
    file.write(b"three\n")
    assert (tmp_path / "moved").read_bytes() == b"one\n"
    assert path.read_bytes() == b"three\n"


def test_two_processes_on_one_file_lose_no_line_and_tear_none(tmp_path: Path) -> None:
    """Without a bound all lines are there; with one, the newest of them, and no rename takes away another's file."""
    path, count = tmp_path / "answers", 3000
    code = (
        "import sys; from pathlib import Path; from cachenet.edge_agent.outputs.line_file import LineFile\n"
        "name, most = sys.argv[2], int(sys.argv[3]) or None\n"
        "file = LineFile(Path(sys.argv[1]), max_bytes=most)\n"
        f"for number in range({count}): file.write(f'{{name}} {{number:06d}}\\n'.encode())\n"
    )
    for most in (0, 20_000):
        path.unlink(missing_ok=True)
        writers = [
            subprocess.Popen([sys.executable, "-c", code, str(path), name, str(most)]) for name in ("left", "rite")
        ]
        assert [writer.wait(120) for writer in writers] == [0, 0]
        old = Path(f"{path}.1")
        lines = [line for one in (old, path) if one.exists() for line in one.read_text().splitlines()]
        assert all(line.split()[0] in ("left", "rite") and len(line) == 11 for line in lines)
        if not most:
            assert len(set(lines)) == len(lines) == 2 * count
        else:
            assert path.stat().st_size <= most
            assert old.stat().st_size > most - 100, "a file was renamed when it was full, and not before"


def test_a_file_that_another_process_has_renamed_meanwhile_is_not_renamed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check of the size and the lock, so that the new file would replace the full one."""
    path = tmp_path / "answers"
    one, other = LineFile(path, max_bytes=10), LineFile(path, max_bytes=10)
    one.write(b"12345678\n")
    locked = fcntl.flock

    def late(fd: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", locked)
        one.write(b"one\n")
        locked(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    other.write(b"other\n")
    assert Path(f"{path}.1").read_bytes() == b"12345678\n"
    assert path.read_bytes() == b"one\nother\n"


def test_what_is_no_file_is_written_to_as_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    file = LineFile(pipe, max_bytes=1)
    file.write(b"one\n")
    file.write(b"two\n")
    assert os.read(reader, 100) == b"one\ntwo\n"
    os.close(reader)
    with pytest.raises(OSError) as raised:
        LineFile(Path("/dev/full"), max_bytes=1).write(b"x\n")
    assert raised.value.errno == errno.ENOSPC
