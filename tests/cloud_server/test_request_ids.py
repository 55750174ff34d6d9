"""Ids by which a server recognises a request that it has answered."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.cloud_server.serving import request_ids
from cachenet.cloud_server.serving.request_ids import MAX_IDS, RequestIds
from cachenet.edge_agent.outbox.database import OutboxFile, StoredFrame


def reason(ids: RequestIds, own: str, device: str = "cam") -> str:
    """Why a request is not run; empty if it is."""
    rejection = ids.begin(device, own)
    return "" if rejection is None else rejection.reason


def test_an_answered_request_is_a_duplicate_and_a_queued_one_is_not_run_twice() -> None:
    ids = RequestIds()
    assert [reason(ids, "1"), reason(ids, "1")] == ["", "busy"]
    ids.end("cam", "1", answered=True)
    assert reason(ids, "1") == "duplicate"
    assert reason(ids, "1", "another") == "", "devices do not share ids"


def test_a_refused_request_may_be_sent_again() -> None:
    ids = RequestIds()
    assert reason(ids, "1") == ""
    ids.end("cam", "1", answered=False)
    assert reason(ids, "1") == ""


@pytest.mark.parametrize("size", [300, 2400, 15_000])
def test_no_frame_that_a_power_cut_brings_back_is_run_again(tmp_path: Path, size: int) -> None:
    """The log of an outbox is lost: of its file there is what was flushed to the disk."""
    frames = [b"%016d" % number for number in range(150)]
    (tmp_path / "cut").mkdir()
    file, ids, back = OutboxFile(tmp_path), RequestIds(), 0
    for frame in frames:
        file.exchange([], StoredFrame(frame, 0.0, "full", "image/png", bytes(size)))
    file.close()
    for number, frame in enumerate(frames):
        assert reason(ids, frame.hex()) == ""
        ids.end("cam", frame.hex(), answered=True)
        file.exchange([frame])
        if number % 6 == 0:
            shutil.copy(file.path, tmp_path / "cut")
            cut = OutboxFile(tmp_path / "cut")
            again = [frame for frame, _, _ in cut.index() if frame in frames[: number + 1]]
            cut.remove()
            assert {reason(ids, frame.hex()) for frame in again} <= {"duplicate"}
            back = max(back, len(again))
    file.close()
    assert back > 16, "deletions wait for a flush"


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 40), st.booleans()), max_size=200))
def test_memory_is_bounded_and_the_latest_id_of_a_device_is_known(requests: list[tuple[str, int, bool]]) -> None:
    ids = RequestIds()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_ids, "MAX_DEVICES", 4)
        for device, number, answered in requests:
            if ids.begin(device, str(number)) is None:
                assert reason(ids, str(number), device) == "busy"
                ids.end(device, str(number), answered)
                assert reason(ids, str(number), device) == ("duplicate" if answered else "")
            assert len(ids._devices) <= 4
            assert all(len(own) <= MAX_IDS for own in ids._devices.values())
