"""Recording: recorded frames are read back; a failed recording does not affect the run."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cachenet.edge_agent.outputs.recorder import Recorder
from cachenet.edge_agent.sources import SourceFrame, open_source
from cachenet.shared.media import recording as stream


class Shots:
    dropped, broken, losses, error, fps = 2, 1, 3, "it is away", None

    def __init__(self, shots: list[SourceFrame]) -> None:
        self.closed, self._shots = False, shots

    def __iter__(self) -> Iterator[SourceFrame]:
        return iter(self._shots)

    def close(self) -> None:
        self.closed = True


def shots(count: int, side: int = 32, truth: tuple[str | None, ...] = ("ship", "cat")) -> list[SourceFrame]:
    rng = np.random.default_rng(0)
    return [
        SourceFrame(rng.integers(0, 256, (side, side, 3), np.uint8), truth[number % len(truth)])
        for number in range(count)
    ]


def record(directory: Path, given: list[SourceFrame], fps: float | None = 25.0) -> list[SourceFrame]:
    recorder = Recorder(Shots(given), directory, fps)
    elapsed = list(recorder)
    recorder.finish()
    return elapsed


def test_frames_pass_through_and_are_played_again_with_their_truth(tmp_path: Path) -> None:
    given = shots(3)
    assert record(tmp_path / "new", given) == given
    recording = stream.read(tmp_path / "new")
    assert (recording.frames, recording.fps, recording.name) == (3, 25.0, "new")
    for played, shot in zip(open_source(str(tmp_path / "new")), given, strict=True):
        assert np.array_equal(played.picture, shot.picture)
        assert played.truth == shot.truth


def test_truth_that_is_not_known_of_every_frame_is_known_of_none(tmp_path: Path) -> None:
    record(tmp_path / "new", shots(4, truth=("ship", None)))
    assert stream.read(tmp_path / "new").truth is None


def test_large_pictures_are_recorded_as_jpeg(tmp_path: Path) -> None:
    record(tmp_path / "new", shots(1, side=200))
    assert stream.read(tmp_path / "new").files == "%06d.jpg"


def test_a_source_without_frames_leaves_no_stream(tmp_path: Path) -> None:
    record(tmp_path / "new", [])
    assert not list((tmp_path / "new").iterdir())


def test_a_directory_with_something_in_it_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(b"")
    with pytest.raises(stream.StreamError, match="is not empty"):
        Recorder(Shots([]), tmp_path, None)


def test_a_full_disk_ends_the_recording_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames until then are a valid stream: the partial picture is deleted for the manifest."""
    write, half = Path.write_bytes, tmp_path / "new" / "000002.png"

    def fails(path: Path, data: bytes) -> int:
        if path == half or half.exists():
            write(path, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fails)
    assert len(record(tmp_path / "new", shots(5))) == 5
    assert stream.read(tmp_path / "new").frames == 2


def test_one_frame_has_the_requested_rate(tmp_path: Path) -> None:
    record(tmp_path / "new", shots(1))
    assert stream.read(tmp_path / "new").fps == 25.0


@pytest.mark.parametrize("rounding", [1e-6, 1e-3])
def test_a_file_is_recorded_at_its_own_rate_however_fast_it_was_played(tmp_path: Path, rounding: float) -> None:
    """Times are rounded in a file, to milliseconds in Matroska."""
    given = [replace(shot, time=round(2 + n / 30 / rounding) * rounding) for n, shot in enumerate(shots(31))]
    record(tmp_path / "new", given, fps=None)
    recording = stream.read(tmp_path / "new")
    assert recording.fps == pytest.approx(30, rel=1e-3)
    assert recording.times is msgspec.UNSET


def test_a_varying_rate_is_recorded_as_times_and_played_with_them(tmp_path: Path) -> None:
    times = (1.0, 1.1, 1.2, 2.5, 9.0)
    record(tmp_path / "new", [replace(shot, time=time) for shot, time in zip(shots(5), times, strict=True)], fps=None)
    recording = stream.read(tmp_path / "new")
    assert recording.times == pytest.approx([0.0, 0.1, 0.2, 1.5, 8.0])
    assert recording.fps == pytest.approx(0.5)
    assert [shot.time for shot in open_source(str(tmp_path / "new"))] == list(recording.times)


def test_a_requested_rate_is_recorded(tmp_path: Path) -> None:
    record(tmp_path / "new", [replace(shot, time=n / 5) for n, shot in enumerate(shots(3))], fps=25.0)
    assert stream.read(tmp_path / "new").fps == 25.0


def test_the_directory_may_have_any_name(tmp_path: Path) -> None:
    directory = tmp_path / os.fsdecode(b"caf\xe9")
    record(directory, shots(2))
    assert stream.read(directory).name == "caf\\xe9"


def test_what_the_source_counts_shows_and_closing_closes_it(tmp_path: Path) -> None:
    source = Shots([])
    recorder = Recorder(source, tmp_path / "new", None)
    assert (recorder.dropped, recorder.broken, recorder.losses, recorder.error) == (2, 1, 3, "it is away")
    recorder.close()
    assert source.closed
