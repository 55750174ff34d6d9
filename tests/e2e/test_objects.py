"""A detector's objects in everything that a running agent writes, shows and publishes."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

import cachenet
from cachenet.edge_agent.outputs import snapshots
from cachenet.edge_agent.outputs.report import AnswerLine, count, count_by_zone
from cachenet.edge_agent.zones import Zone
from cachenet.shared.media.pictures import decode
from cachenet.shared.transport.protocol import topic
from tests.broker import Mosquitto, free_port, mosquitto
from tests.detectors import boxes, detector_bundle, footage
from tests.e2e.agents import AgentProcess
from tests.e2e.test_watchers import Observer, frames_of

__all__ = ["mosquitto"]

_FRAMES = 80
LEFT = Zone("left", ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)))
RIGHT = Zone("right", ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detector_bundle(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("frames")
    for number, picture in enumerate(footage(_FRAMES)):
        assert cv2.imwrite(str(directory / f"{number:03}.png"), picture)
    return directory


class Run:
    """A run with every output, observed on the broker and on the page."""

    def __init__(self, directory: Path, frames: Path, bundle: Path, broker: Mosquitto) -> None:
        self.directory, config, port = directory, directory / "agent.toml", free_port()
        lines = [f'save = "{directory}/objects.mp4"', f'misses = "{directory}/misses"', "home_assistant = true"]
        for zone in (LEFT, RIGHT):
            lines += ["[[zone]]", f'name = "{zone.name}"', f"polygon = {[list(point) for point in zone.polygon]}"]
        config.write_text("\n".join(lines))
        flags = ("--config", str(config), "--bundle", str(bundle), "--broker", broker.url, "--mode", "offline")
        with Observer(broker, topic("cam", "#"), "homeassistant/device/#") as self.observer:
            agent = AgentProcess(directory, str(frames), *flags, "--fps", "10", "--preview", str(port))
            try:
                agent.wait_for(30)
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/snapshot.jpg", timeout=10) as answer:
                    self.preview = decode(answer.read())
                self.summary = agent.finish()
            finally:
                agent.process.kill()
                agent.process.communicate()
        self.lines = [json.loads(line) for line in agent._answers.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, frames: Path, bundle: Path, mosquitto: Mosquitto) -> Iterator[Run]:
    yield Run(tmp_path_factory.mktemp("run"), frames, bundle, mosquitto)


def test_lines_have_the_objects_and_their_counts_by_zone(run: Run) -> None:
    assert [line["frame"] for line in run.lines] == list(range(_FRAMES))
    right = 0
    for line in run.lines:
        assert "label" not in line
        read = AnswerLine(**{**line, "objects": tuple(cachenet.Object(**own) for own in line["objects"])})
        assert read.objects is not None
        assert line["counts"] == count(read.objects)
        assert line["zone_counts"] == count_by_zone(read.objects, (LEFT, RIGHT))
        true = sorted((left / 256, top / 192) for left, top in boxes(line["frame"]))
        found = sorted(tuple(own["box"][:2]) for own in line["objects"])
        right += len(true) == len(found) and bool(np.abs(np.array(true) - found).max() < 0.05)
    assert right > 0.7 * _FRAMES, "squares that hide each other apart"


def test_the_summary_has_the_mean_number_of_objects(run: Run) -> None:
    objects = run.summary["objects"]
    assert objects["mean"] == pytest.approx(np.mean([len(line["objects"]) for line in run.lines]), abs=1e-3)
    assert objects["by_label"] == {"square": objects["mean"]}


def test_the_video_and_the_page_show_boxes_beside_what_is_in_the_picture(run: Run, frames: Path) -> None:
    assert frames_of(run.directory / "objects.mp4") == _FRAMES
    assert run.preview.shape[1] >= 480
    grey = cv2.imread(str(frames / "000.png"))
    saturation = cv2.cvtColor(run.preview, cv2.COLOR_BGR2HSV)[: grey.shape[0] * 2, :, 1]
    assert (saturation > 150).sum() > 500, "the colours of tracks"


def test_a_miss_is_saved_with_its_objects(run: Run) -> None:
    missed = [line for line in run.lines if line["level"] in ("full", "fallback")]
    saved = sorted((run.directory / "misses").glob("*.json"))
    assert len(saved) == len(missed) > 0
    assert [json.loads(path.read_text()) for path in saved] == missed
    assert all(path.with_suffix(".jpg").exists() for path in saved)


def test_home_assistant_gets_entities_results_and_a_snapshot(run: Run) -> None:
    (config,) = run.observer.on("homeassistant/device/cam/camera/config")
    components = json.loads(config)["components"]
    assert {"count__square", "occupancy_left_square", "occupancy_right_square", "snapshot"} <= set(components)
    results = [json.loads(payload) for payload in run.observer.on(topic("cam", "result"))]
    assert results
    for result in results:
        line = run.lines[result["frame"]]
        assert (result["counts"], result["zone_counts"]) == (line["counts"], line["zone_counts"])
    changes = {json.dumps((line["counts"], line["zone_counts"])) for line in run.lines}
    assert len(changes) > 1 and len(results) > 1
    pictures = run.observer.on(snapshots.topic("cam", ""))
    assert pictures and all(decode(data).shape[1] == 512 for data in pictures)


def test_the_library_gives_objects(bundle: Path) -> None:
    with cachenet.load(bundle) as device:
        answers = [device(picture) for picture in footage(30)]
    assert all(answer.label is None and answer.objects is not None for answer in answers)
    last = answers[-1].objects
    assert last is not None and {own.label for own in last} == {"square"}
