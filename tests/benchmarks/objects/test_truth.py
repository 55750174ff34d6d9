"""True boxes in the format of the MOTChallenge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.objects import truth
from cachenet.shared.command.errors import UserError


def test_boxes_are_read_by_frame_as_shares_of_the_picture(tmp_path: Path) -> None:
    file = tmp_path / "gt.txt"
    file.write_text("1,1,0,0,50,25,1,-1,-1,-1\n\n4,2,100,50,100,50,1\n4,3,0,0,20,20,0,1,1\n9,1,0,0,5,5,1\n")
    first, *nothing, last = truth.read(file, range(0, 4), (200, 100), label=3)
    assert first.boxes.tolist() == [[0, 0, 0.25, 0.25]]
    assert not any(map(len, nothing))
    assert np.allclose(last.boxes, [[0.5, 0.5, 1, 1]])  # the other box is to be ignored
    assert last.labels.tolist() == [3]


@pytest.mark.parametrize(("text", "why"), [("1,1,0\n", "line 1: '1,1,0' is not frame,id"), ("1,a,b,c,d,e,f", "line 1")])
def test_a_line_of_another_format_is_named(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "gt.txt"
    file.write_text(text)
    with pytest.raises(UserError, match=why):
        truth.read(file, range(4), (200, 100), 0)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.txt: No such file"):
        truth.read(tmp_path / "gone.txt", range(4), (200, 100), 0)
