"""Files of recent frames: written, read back, and refused in one line if damaged."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cachenet.shared.bundle.manifest import Bundle, Manifest
from cachenet.shared.transport import protocol, recent_frames
from cachenet.shared.transport.protocol import Answer, DetectionAnswer, Timing
from cachenet.shared.transport.recent_frames import RecentFrame, RecentFrames, RecentFramesError
from tests.bundles import tiny_bundle

TIMING = Timing(1.0, 2.0, 3.0, 4)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle"))).manifest


def frame(manifest: Manifest, device: str = "cam", classes: int = 10, picture: bytes = b"picture") -> RecentFrame:
    scores = np.arange(classes, dtype="<f4").tobytes()
    return RecentFrame(device, picture, Answer(scores, manifest.models["full"].sha256, None, TIMING))


def test_written_frames_are_read_back(manifest: Manifest, tmp_path: Path) -> None:
    frames = frame(manifest), frame(manifest, "door")
    recent = RecentFrames(("cam", "door"), frames)
    recent_frames.write(tmp_path / "recent", recent)
    assert recent_frames.read(tmp_path / "recent", manifest) == recent


def test_a_file_that_does_not_fit_the_bundle_is_refused_in_one_line(manifest: Manifest, tmp_path: Path) -> None:
    good = frame(manifest)
    other = msgspec.structs.replace(good.answer, model="0" * 64)
    boxes = DetectionAnswer(b"", b"", b"", good.answer.model, None, TIMING)
    bad = {
        "is not among": RecentFrames(("door",), (good,)),
        "another full model": RecentFrames(("cam",), (msgspec.structs.replace(good, answer=other),)),
        "another task": RecentFrames(("cam",), (msgspec.structs.replace(good, answer=boxes),)),
        "for 10 labels": RecentFrames(("cam",), (good, frame(manifest, classes=4))),
        "a picture of 0 bytes": RecentFrames(("cam",), (frame(manifest, picture=b""),)),
        "no device name": RecentFrames(("a/b",), ()),
    }
    for why, recent in bad.items():
        recent_frames.write(tmp_path / "recent", recent)
        with pytest.raises(RecentFramesError, match=why) as error:
            recent_frames.read(tmp_path / "recent", manifest)
        assert "\n" not in str(error.value)
    with pytest.raises(RecentFramesError, match="No such file"):
        recent_frames.read(tmp_path / "gone", manifest)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_damaged_file_raises_nothing_else(data: st.DataObject, manifest: Manifest, tmp_path: Path) -> None:
    encoded = bytearray(protocol.encode(RecentFrames(("cam",), (frame(manifest),))))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "recent"
    path.write_bytes(encoded[: data.draw(st.integers(0, len(encoded)))])
    with contextlib.suppress(RecentFramesError):
        recent_frames.read(path, manifest)
