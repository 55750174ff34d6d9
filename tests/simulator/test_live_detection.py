"""Live runs of detectors: from video and agents' lines to the measures, the table and the ranking."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from cachenet.edge_agent.outputs.report import AnswerLine, Object
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.detect.detections import NOTHING, Detections, checked, pooled_f1
from cachenet.shared.command.errors import UserError
from cachenet.simulator.live.detection import Detection, ObjectOutcome, counts_of, ranking, table
from cachenet.simulator.live.outcome import CACHENET, DEVICE, SERVER, Run, Setting, Summary
from cachenet.simulator.live.task import Options
from cachenet.simulator.world.emulator import Counts
from tests.detectors import detector_bundle, footage

FRAMES = 12
SETTING = Setting("clip.avi", FRAMES, 0, "lte", 10.0, {})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(detector_bundle(tmp_path_factory.mktemp("squares")))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (256, 192))
    for picture in footage(FRAMES):
        writer.write(picture)
    writer.release()
    return path


def prepared(bundle: Bundle, clip: Path, **options: int) -> tuple[Detection, Setting]:
    task = Detection(Options(stream=str(clip), **options), bundle)
    source, setting = task.prepare(clip.parent, Console(file=io.StringIO()))
    assert source == clip
    return task, setting


def line(frame: int, found: Detections, ms: float = 0.0, level: str = "base") -> AnswerLine:
    objects = tuple(
        Object(number, "square", 0.9, (float(x), float(y), float(right - x), float(bottom - y)), 0.1)
        for number, (x, y, right, bottom) in enumerate(found.boxes)
    )
    return AnswerLine(
        frame=frame, time=0.0, objects=objects, confidence=0.9, risk=0.1, level=level, model="base", latency_ms=ms
    )


def test_the_reference_is_the_full_model_on_every_frame(bundle: Bundle, clip: Path) -> None:
    task, setting = prepared(bundle, clip)
    assert (setting.frames, setting.fps, setting.link, setting.stream) == (FRAMES, 10.0, "lte", "clip.avi")
    assert [len(found) for found in task._reference] == [2] * FRAMES
    assert prepared(bundle, clip, frames=3, fps=5)[1].frames == 3


def test_answers_of_the_full_model_itself_have_f1_1_if_they_come_at_once(bundle: Bundle, clip: Path) -> None:
    task, setting = prepared(bundle, clip)
    for ms, least, most in ((0.0, 1.0, 1.0), (1000.0, 0.0, 0.3)):
        lines = [line(frame, found, ms) for frame, found in enumerate(task._reference)]
        run = Run(lines, Summary(FRAMES, 0.25), Counts(5, 7))
        outcome = task.outcome(CACHENET, {CACHENET: run}, setting)
        assert least <= outcome.streaming_f1 <= most
        assert (outcome.asked, outcome.bytes_up, outcome.hits["base"]) == (0.25, 5, FRAMES)
        assert task.outcome(DEVICE, {DEVICE: run}, setting).asked == 0.0, "a device without a link asks nobody"


def test_the_answers_of_device_only_are_the_base_models(bundle: Bundle, clip: Path) -> None:
    task = Detection(Options(stream=str(clip)), bundle)
    lines = [line(0, NOTHING, level="fallback"), line(1, NOTHING)]
    assert [own.level for own in task.lines(DEVICE, lines)] == ["base", "base"]
    assert task.lines(CACHENET, lines) == lines


def test_objects_are_compared_with_their_labels_in_the_order_of_frames() -> None:
    reference = [checked([[0.1, 0.1, 0.3, 0.5]], [label], [0.9], classes=2) for label in (0, 1, 1)]
    named = [Object(1, label, 0.9, (0.1, 0.1, 0.2, 0.4), 0.1) for label in ("cat", "dog")]
    lines = [
        AnswerLine(
            frame=frame, time=0.0, objects=(own,), confidence=0.9, risk=0.1, level="base", model="m", latency_ms=0.0
        )
        for frame, own in ((2, named[0]), (0, named[0]), (1, named[1]))
    ]
    found = counts_of(lines, reference, ("cat", "dog"), 10.0)
    assert found.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 1]]
    assert pooled_f1(found) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("content", "options", "why"),
    [
        (None, {}, "No such file or directory; a detector needs a video"),
        (b"text", {}, "no video that OpenCV can read; a detector needs a video"),
        ("clip", {"frames": 13}, "clip.avi has 12 frames; give a longer video, or fewer --frames"),
    ],
    ids=["missing", "no video", "too short"],
)
def test_a_video_that_cannot_be_used_is_refused(
    bundle: Bundle, clip: Path, tmp_path: Path, content: bytes | str | None, options: dict[str, int], why: str
) -> None:
    path = clip if content == "clip" else tmp_path / "other.avi"
    if isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        prepared(bundle, path, **options)
    assert why in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def outcomes() -> dict[str, ObjectOutcome]:
    def of(f1: float, asked: float, up: int, ms: float) -> ObjectOutcome:
        latency = dict.fromkeys(("mean", "p50", "p95", "p99"), ms)
        return ObjectOutcome(
            frames=200, hits={"tracks": 150, "base": 30}, full=0, cloud=0, fallbacks=20, latency_ms=latency,
            bytes_up=up, bytes_down=10, models_pushed=1, streaming_f1=f1, asked=asked,
        )  # fmt: skip

    return {CACHENET: of(0.93, 0.1, 10**9, 4.0), SERVER: of(0.7, 1.0, 10**10, 25000.0), DEVICE: of(0.9, 0.0, 0, 6.0)}


def test_the_table_has_five_measures_a_policy_and_fits_eighty_columns() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(table(outcomes()))
    rows = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert rows[2:] == [
        "cachenet 0.930 10% 1,000,000 4.0 4.0",
        "server-only 0.700 100% 10,000,000 25000.0 25000.0",
        "device-only 0.900 0% 0 6.0 6.0",
    ]
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_the_ranking_names_the_better_baseline_and_the_settings() -> None:
    found = outcomes()
    assert ranking(SETTING, found) == (
        "CacheNet asks about 10% of the frames, and its streaming F1 is 0.930; the better of server-only "
        "and device-only is device-only, with 0.900 (link lte, stream clip.avi, seed 0, 10 frames a second)."
    )
    assert "that of server-only is 0.700" in ranking(SETTING, {name: found[name] for name in (CACHENET, SERVER)})
    assert ranking(SETTING, {SERVER: found[SERVER]}).startswith("There is no ranking (link lte")


def test_a_picture_of_the_run_is_drawn(bundle: Bundle, clip: Path, tmp_path: Path) -> None:
    task, setting = prepared(bundle, clip)
    runs = {CACHENET: Run([line(i, NOTHING) for i in range(FRAMES)], Summary(FRAMES), Counts(0, 0))}
    found = {CACHENET: task.outcome(CACHENET, runs, setting)}
    task.draw(tmp_path / "demo.png", runs, found, setting)
    assert np.ptp(cv2.imread(str(tmp_path / "demo.png"))) > 0
