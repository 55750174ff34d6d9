"""Misses: saved frames, their names, and the size limit of the directory."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cachenet.edge_agent.outputs.drawing import COLOURS
from cachenet.edge_agent.outputs.misses import Misses, file_name
from cachenet.edge_agent.outputs.report import AnswerLine, View
from cachenet.edge_agent.zones import Zone
from cachenet.shared.cascade.types import Level
from cachenet.shared.inference.image import encode
from cachenet.shared.media.pictures import decode
from tests.edge_agent.frames import answered_frame, detected_frame, noise, tracked

_WHOLE = {"": View()}


def saved(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_only_missed_frames_are_saved_as_classified(tmp_path: Path) -> None:
    misses = Misses(tmp_path / "new" / "misses", 1 << 20, False, _WHOLE)
    levels: list[Level] = [*COLOURS]  # type: ignore[list-item]
    for frame, level in enumerate(levels):
        misses.on_frame(answered_frame(frame, level=level, time=1.7e9 + frame))
    misses.close()
    names = saved(tmp_path / "new" / "misses")
    assert [file.split("-", 3)[3] for file in names] == ["full.png", "cloud.png", "fallback.png"]
    for frame, file in zip((4, 5, 6), names, strict=True):
        assert np.array_equal(decode((tmp_path / "new" / "misses" / file).read_bytes()), noise(48, 64, frame))


def test_a_file_name_has_time_frame_label_and_reason() -> None:
    answered = answered_frame(
        12, "traffic light / red", "fallback", reason="risk 0.390 over 0.045; no answer in time", camera="yard",
        time=1700000000.25,
    )  # fmt: skip
    assert file_name(answered.line) == (
        "20231114T221320.250Z-yard-000012-traffic-light-red-fallback-risk-0.390-over-0.045-no-answer-in-time"
    )


@given(st.text(), st.text(), st.floats(0, 4e9), st.floats(0, 4e9))
def test_names_are_names_of_files_and_sort_by_time(label: str, reason: str, one: float, other: float) -> None:
    first, second = (
        file_name(answered_frame(1, label, "cloud", reason=reason, time=time).line) for time in sorted((one, other))
    )
    assert first <= second
    assert len(first) < 250
    assert "/" not in first
    assert first.isascii()


@given(st.lists(st.integers(1, 60), max_size=30), st.integers(0, 20_000))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_directory_holds_to_its_bound_and_the_oldest_go_first(
    tmp_path_factory: pytest.TempPathFactory, sides: list[int], budget: int
) -> None:
    """Over restarts too; and what else lies there is left alone."""
    directory = tmp_path_factory.mktemp("misses")
    (directory / "mine.jpg").write_bytes(b"mine")
    frame = 0
    for run in (sides[:10], sides[10:]):
        misses = Misses(directory, budget, False, _WHOLE)
        for side in run:
            misses.on_frame(answered_frame(frame, level="cloud", picture=noise(side, side), time=1.7e9 + frame))
            frame += 1
        misses.close()
    names = saved(directory)
    assert names.pop() == "mine.jpg"
    assert sum((directory / file).stat().st_size for file in names) <= budget
    sizes = [len(encode(noise(side, side))[1]) for side in sides]
    fitting = [number for number, size in enumerate(sizes) if size <= budget]
    assert [int(file.split("-")[1]) for file in names] == fitting[len(fitting) - len(names) :]


def test_a_full_disk_is_logged_once_leaves_no_partial_picture_and_may_recover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, full = Path.write_bytes, True

    def fails(path: Path, data: bytes) -> int:
        write(path, data[: 10 if full else None])
        if full:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return len(data)

    monkeypatch.setattr(Path, "write_bytes", fails)
    misses = Misses(tmp_path, 1 << 20, False, _WHOLE)
    for frame in range(5):
        misses._save(answered_frame(frame, level="cloud", time=frame))
    assert saved(tmp_path) == []
    full = False
    misses._save(answered_frame(9, level="cloud", time=9.0))
    misses.close()
    assert len(saved(tmp_path)) == 1
    (record,) = caplog.records
    assert "No space left on device" in record.getMessage()


def test_the_region_of_a_camera_is_saved(tmp_path: Path) -> None:
    misses = Misses(tmp_path, 1 << 20, False, {"yard": View(region=(0.25, 0.5, 0.5, 0.5))})
    misses.on_frame(answered_frame(level="cloud", camera="yard"))
    misses.close()
    (file,) = tmp_path.iterdir()
    assert np.array_equal(decode(file.read_bytes()), noise(48, 64)[24:, 16:48])


def test_objects_are_saved_beside_the_picture_of_a_detector_and_deleted_with_it(tmp_path: Path) -> None:
    frames = [
        detected_frame([tracked(3, (0.1, 0.2, 0.3, 0.4))] * (number % 2), number, level="fallback", time=1.7e9 + number)
        for number in range(4)
    ]
    misses = Misses(tmp_path, 25_000, False, _WHOLE)
    misses.on_frame(detected_frame([tracked(3, (0.1, 0.2, 0.3, 0.4))], 9))  # a hit
    for answered in frames:
        misses.on_frame(answered)
    misses.close()
    names = saved(tmp_path)
    assert sum((tmp_path / name).stat().st_size for name in names) <= 25_000
    assert [name.split("-", 1)[1] for name in names] == [
        "000002-nothing-fallback.json", "000002-nothing-fallback.png",
        "000003-1-person-fallback.json", "000003-1-person-fallback.png",
    ]  # fmt: skip
    assert msgspec.json.decode((tmp_path / names[2]).read_bytes(), type=AnswerLine) == frames[3].line


def test_the_picture_of_a_zone_is_saved(tmp_path: Path) -> None:
    gate = Zone("gate", ((0.25, 0.5), (0.75, 0.5), (0.75, 1.0)))
    answered = answered_frame(level="cloud", camera="yard")
    misses = Misses(tmp_path, 1 << 20, False, {"yard": View(zones=(gate,))})
    misses.on_frame(replace(answered, line=msgspec.structs.replace(answered.line, zone="gate")))
    misses.close()
    (file,) = tmp_path.iterdir()
    assert "-yard-gate-" in file.name
    assert np.array_equal(decode(file.read_bytes()), noise(48, 64)[24:, 16:48])
