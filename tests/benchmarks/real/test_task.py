"""Task files: valid ones, and one line for each error."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.real import task

KEYS = {
    "video": '"clip.avi"',
    "region": "[0, 0, 32, 32]",
    "full": '"full.onnx"',
    "base": '"base.onnx"',
    "preprocessing": '"imagenet"',
    "held_out": "[10, 100]",
    "play": "[100, 103]",
}


def written(directory: Path, **changes: str | None) -> Path:
    """A task file with ``changes`` to ``KEYS``; None leaves a key out."""
    for name in ("clip.avi", "full.onnx", "base.onnx"):
        (directory / name).touch()
    file = directory / "zone.toml"
    keys = {key: value for key, value in {**KEYS, **changes}.items() if value is not None}
    file.write_text("".join(f"{key} = {value}\n" for key, value in keys.items()))
    return file


def test_tuning_frames_are_by_default_the_last_third_of_held_out(tmp_path: Path) -> None:
    assert task.load(written(tmp_path)).tune == (70, 100)
    assert task.load(written(tmp_path, tune="[20, 40]")).tune == (20, 40)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    found = task.load(written(tmp_path))
    assert (found.name, found.video, found.full) == ("zone", tmp_path / "clip.avi", tmp_path / "full.onnx")


def test_labels_and_truth_are_read(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("empty\nsomeone here\n")
    (tmp_path / "truth.csv").write_text("0\n1\n1\n")
    found = task.load(written(tmp_path, labels='"names.txt"', truth='"truth.csv"'))
    assert found.labels == ("empty", "someone here")
    assert found.truth is not None
    assert found.truth.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"threshold": "0.5"}, "unknown key 'threshold'"),
        ({"held_out": None}, "held_out is missing"),
        ({"video": '"gone.avi"'}, "gone.avi is not there"),
        ({"full": '"."'}, "is no file"),
        ({"play": "[200, 100]"}, "play = [200, 100] is no range"),
        ({"held_out": "[-5, 10]"}, "held_out = [-5, 10] is no range"),
        ({"play": "[50, 103]"}, "held_out [10, 100] and play [50, 103] overlap"),
        ({"tune": "[90, 102]"}, "tune [90, 102] and play [100, 103] overlap"),
        ({"play": "[100]"}, "play"),
        ({"region": "[0, 0, 0, 10]"}, "no region"),
        ({"region": '"all"'}, "region"),
        ({"truth": '"short.csv"'}, "has 1 lines for 3 play frames"),
        ({"truth": '"words.csv"'}, "line 2: 'x' is no label index"),
        ({"truth": '"high.csv"', "labels": '"names.txt"'}, "line 3: '2' is no label index"),
    ],
)
def test_a_bad_task_file_is_one_line_with_its_name_and_the_reason(
    tmp_path: Path, changes: dict[str, str | None], why: str
) -> None:
    for name, text in (("short", "0\n"), ("words", "0\nx\n1\n"), ("high", "0\n1\n2\n")):
        (tmp_path / f"{name}.csv").write_text(text)
    (tmp_path / "names.txt").write_text("empty\nsomeone\n")
    file = written(tmp_path, **changes)
    with pytest.raises(task.TaskError) as raised:
        task.load(file)
    line = str(raised.value)
    assert line.startswith(f"{file}: ")
    assert why in line
    assert "\n" not in line


@pytest.mark.parametrize(("text", "why"), [(None, "No such file"), ("video = ", "not TOML")])
def test_a_missing_or_invalid_task_file_is_one_line(tmp_path: Path, text: str | None, why: str) -> None:
    file = tmp_path / "zone.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(task.TaskError, match=why):
        task.load(file)
