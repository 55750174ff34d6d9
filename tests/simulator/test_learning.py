"""A camera before and after its server has trained for it: parts of the video, measures, and refusals."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.detect.detections import NOTHING
from cachenet.shared.command.errors import UserError
from cachenet.simulator.live import learning
from cachenet.simulator.live.learning import Phase, asks, learn, share_over_time
from cachenet.simulator.live.outcome import Summary
from cachenet.simulator.live.task import Options
from tests.bundles import tiny_bundle
from tests.detectors import detector_bundle, footage


def line(frame: int, level: str = "base") -> AnswerLine:
    return AnswerLine(
        frame=frame, time=0.0, objects=(), confidence=0.9, risk=0.1, level=level, model="base", latency_ms=1
    )


def test_the_share_over_time_is_of_the_last_five_seconds() -> None:
    shares = share_over_time([True] * 10 + [False] * 90, 2.0)
    assert shares[:10].tolist() == [1.0] * 10
    assert shares[10] == pytest.approx(0.9)
    assert shares[-1] == 0.0
    assert ((shares >= 0) & (shares <= 1)).all()


def test_a_frame_that_is_answered_meanwhile_counts_as_asked() -> None:
    assert [asks(line(0, level)) for level in ("fallback", "cloud", "base", "tracks")] == [True, True, False, False]


def test_only_the_measured_frames_of_a_part_count() -> None:
    part = learning.Part(Path("clip.avi"), [NOTHING] * 20, first=10)
    lines = [line(frame, "fallback" if frame < 10 else "base") for frame in range(20)]
    phase = learning.phase("after", lines, Summary(20), part, ("square",), 10.0)
    assert phase == Phase("after", 10, 0.0, 1.0, 0.0, ())


def test_parts_of_the_video_are_disjoint_and_the_clip_is_the_video_without_loss(tmp_path: Path) -> None:
    bundle = Bundle(detector_bundle(tmp_path / "bundle"))
    pictures = footage(220)
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"FFV1"), 10.0, (256, 192))
    for picture in pictures:
        writer.write(picture)
    writer.release()
    first, last, sample = learning.parts(bundle, Options(stream=str(tmp_path / "clip.avi")), 10.0, tmp_path)
    begin = 220 - len(last.reference)
    assert len(first.reference) <= begin + last.first - 20  # a gap of two seconds and more
    video = cv2.VideoCapture(str(last.clip))
    for picture in pictures[begin:]:
        np.testing.assert_array_equal(video.read()[1], picture)
    assert sample[:2] == b"\xff\xd8"


@pytest.mark.parametrize("stream", ["", "clip.avi"])
def test_a_bundle_of_classifiers_or_no_video_is_refused(stream: str, tmp_path: Path) -> None:
    options = Options(bundle=tiny_bundle(tmp_path / "bundle"), stream=stream, out=tmp_path)
    with pytest.raises(UserError, match="needs a bundle of detectors and a video"):
        learn(options, Console(file=io.StringIO()))
