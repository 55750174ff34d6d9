"""Zones: their geometry, their settings, and a classifier that answers for each of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.camera import AnsweredFrame
from cachenet.edge_agent.camera_loop import CameraLoop
from cachenet.edge_agent.device_cascade import DeploymentError
from cachenet.edge_agent.doctor.health import Health
from cachenet.edge_agent.outputs.decision_log import CascadeCreated
from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.settings import CameraTable, LevelFlag, Settings
from cachenet.edge_agent.sources import open_source
from cachenet.edge_agent.updates.store import Store
from cachenet.edge_agent.zones import MAX_ZONES, Zone, check_zones
from cachenet.models.data import cifar10, sample, streams
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command import config
from cachenet.shared.inference.image import parse_region
from cachenet.shared.media import recording
from cachenet.simulator.traces.replay import events, replay
from tests.bundles import tiny_bundle
from tests.edge_agent.agents import Pictures, install_current, install_files

ZOO = Path("models/zoo/cifar10")
#: Without the full model, which is loaded at some time or other.
LEVELS: tuple[LevelFlag, ...] = ("frames", "submodels", "base")
LEFT = Zone("left", ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)))
RIGHT = Zone("right", ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)))

shares = st.floats(0, 1, width=16)


@st.composite
def stars(draw: st.DrawFn) -> tuple[tuple[float, float], ...]:
    """Polygons whose edges do not cross: corners around a centre, by angle, less than half a turn apart."""
    count = draw(st.integers(3, 12))
    steps = draw(st.lists(st.floats(0.6, 1.0), min_size=count, max_size=count))
    angles = 2 * math.pi * np.cumsum(steps) / sum(steps)
    radii = draw(st.lists(st.floats(0.1, 0.5), min_size=count, max_size=count))
    return tuple(
        (0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle))
        for radius, angle in zip(radii, angles, strict=True)
    )


@given(stars(), st.lists(st.tuples(shares, shares), min_size=1, max_size=20))
def test_a_point_is_in_a_zone_where_opencv_has_it_in_the_polygon(
    polygon: tuple[tuple[float, float], ...], points: list[tuple[float, float]]
) -> None:
    """But for points within rounding of an edge."""
    zone = Zone("any", polygon)
    zone.check()
    contour = np.array(polygon, np.float32)
    for inside, point in zip(zone.contains(points), points, strict=True):
        distance = cv2.pointPolygonTest(contour, point, measureDist=True)
        assert abs(distance) < 1e-6 or inside == (distance > 0)


@given(stars())
def test_a_zone_lies_in_its_region_and_the_region_is_one_for_the_settings(
    polygon: tuple[tuple[float, float], ...],
) -> None:
    left, top, width, height = Zone("any", polygon).region
    for x, y in polygon:
        assert left <= x <= left + width + 1e-12 and top <= y <= top + height + 1e-12
    (own,) = Settings(zone=(Zone("any", polygon),)).each_zone()
    assert parse_region(own.region) == (left, top, width, height)


@given(stars(), st.data())
def test_a_polygon_with_two_corners_exchanged_is_refused_if_its_edges_then_cross(
    polygon: tuple[tuple[float, float], ...], data: st.DataObject
) -> None:
    assume(len(polygon) >= 5)
    corner = data.draw(st.integers(0, len(polygon) - 1))
    other = (corner + 2) % len(polygon)
    changed = list(polygon)
    changed[corner], changed[other] = changed[other], changed[corner]
    a, b = np.array(changed), np.roll(changed, -1, 0)
    crosses = any(
        _proper(a[i], b[i], a[j], b[j])
        for i in range(len(a))
        for j in range(len(a))
        if (i - j) % len(a) not in (0, 1, len(a) - 1)
    )
    if crosses:
        with pytest.raises(ValueError, match="zone any: its edges cross"):
            Zone("any", tuple(changed)).check()


def _proper(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> bool:
    """Whether two segments cross in their interiors."""

    def side(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> float:
        return float((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    return side(a, b, c) * side(a, b, d) < -1e-12 and side(c, d, a) * side(c, d, b) < -1e-12


@pytest.mark.parametrize(
    ("polygon", "reason"),
    [
        ([[0.1, 0.1], [0.2, 0.2]], "3 to 64 corners, this one 2"),
        ([[0.5 + math.sin(i) / 9, 0.5 + math.cos(i) / 9] for i in range(65)], "3 to 64 corners, this one 65"),
        ([[0.1, 0.1], [1.2, 0.1], [0.1, 0.9]], "each 0 to 1"),
        ([[0.1, 0.1], [math.nan, 0.1], [0.1, 0.9]], "each 0 to 1"),
        ([[0.1, 0.1], [0.9, 0.9], [0.9, 0.1], [0.1, 0.9]], "its edges cross"),
        ([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.1]], "each corner once"),
        ([[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]], "hardly any area"),
        ([[0.1, 0.1], [0.105, 0.1], [0.1, 0.105]], "hardly any area"),
    ],
)
def test_a_polygon_that_is_no_zone_is_refused_with_the_reason(polygon: list[list[float]], reason: str) -> None:
    settings = config.load(Settings, {"zone": [{"name": "gate", "polygon": polygon}]}, environment={})
    with pytest.raises(ValueError, match="zone gate: ") as refused:
        settings.validate()
    assert reason in str(refused.value)


@pytest.mark.parametrize("name", ["", "a/b", "a+b", "-a", "a" * 65])
def test_names_of_zones_are_parts_of_topics_and_file_names(name: str) -> None:
    with pytest.raises(ValueError, match="a name is letters"):
        Zone(name, LEFT.polygon).check()


def test_zones_of_a_camera_are_bounded_and_their_names_unique() -> None:
    check_zones([Zone(f"z{number}", LEFT.polygon) for number in range(MAX_ZONES)])
    with pytest.raises(ValueError, match="16 zones at most, this one has 17"):
        check_zones([Zone(f"z{number}", LEFT.polygon) for number in range(MAX_ZONES + 1)])
    with pytest.raises(ValueError, match="two zones of one camera are called left"):
        check_zones([LEFT, LEFT])


FILE = """
bundle = "cifar10"

[[camera]]
name = "yard"
source = "camera:0"

[[camera.zone]]
name = "gate"
polygon = [[0.1, 0.2], [0.5, 0.2], [0.5, 0.8]]

[[camera.zone]]
name = "bay"
polygon = [[0.6, 0.2], [0.9, 0.2], [0.9, 0.8]]

[[camera]]
name = "door"
source = "camera:1"
region = "0,0,0.5,1"
"""


def test_a_file_with_zones_is_printed_as_a_file_that_gives_the_same_settings(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(FILE)
    settings = config.load(Settings, {}, path, {})
    yard, door = settings.validate()
    assert [zone.name for zone in yard.zone] == ["gate", "bay"]
    assert yard.zone[0].polygon == ((0.1, 0.2), (0.5, 0.2), (0.5, 0.8))
    assert (door.zone, door.region) == ((), "0,0,0.5,1")
    path.write_text(config.show(settings))
    assert config.load(Settings, {}, path, {}) == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[zone]]\nname = "a"\npoligon = []', "zone: unknown key 'poligon'; did you mean polygon?"),
        (FILE.replace("polygon", "corners"), "camera.zone: unknown key 'corners'"),
        ('[[zone]]\nname = "a"', "zone: Object missing required field `polygon`"),
        ('[[zone]]\nname = "a"\npolygon = [[0.1]]', "zone: Expected `array` of length 2, got 1"),
    ],
)
def test_a_mistake_in_a_zone_is_named_by_its_table(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    with pytest.raises(config.ConfigError) as refused:
        config.load(Settings, {}, path, {})
    assert message in str(refused.value)


def test_zones_stand_in_the_camera_they_belong_to_and_not_beside_a_region() -> None:
    yard = CameraTable("yard", "camera:0", zone=(LEFT,))
    for settings, reason in (
        (Settings(zone=(LEFT,), camera=(CameraTable("yard", "camera:0"),)), "give zone in them"),
        (Settings(zone=(LEFT,), region="0,0,1,1"), "a region and zones"),
        (Settings(region="0,0,1,1", camera=(yard,)), "camera yard: there are a region and zones"),
    ):
        with pytest.raises(ValueError, match=reason):
            settings.validate()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded stream that shows one scene in its left half and another in its right."""
    images, directory = sample.load(), tmp_path_factory.mktemp("streams")
    halves = []
    for seed in (5, 6):
        schedule = streams.schedule("held", images.labels, seed, 40)
        streams.record_stream(schedule, images.images, directory / str(seed), cifar10.LABELS)
        half = recording.read(directory / str(seed))
        halves.append([recording.picture(directory / str(seed), half, index) for index in range(40)])
    both = [np.hstack(pair) for pair in zip(*halves, strict=True)]
    manifest = recording.Recording(
        name="two", seed=None, frames=40, fps=10.0, labels=cifar10.LABELS, truth=None, files="%06d.png"
    )
    recording.write(directory / "two", manifest, both)
    return directory / "two"


def run(settings: Settings, recorded: Path, output: Path, bundle: Path = ZOO) -> tuple[Agent, list[dict[str, Any]]]:
    agent = Agent(settings, [open_source(str(recorded), None)], (), None, Bundle(bundle))
    sink = JsonLinesWriter(str(output))
    agent.run(sink)
    sink.close()
    return agent, [json.loads(line) for line in output.read_text().splitlines()]


def test_each_zone_answers_as_a_camera_with_that_region_alone_and_has_files_of_its_own(
    recorded: Path, tmp_path: Path
) -> None:
    """No memory of pictures, no learned state and no count is shared, and each zone can be replayed."""
    log = tmp_path / "decisions.jsonl"
    zoned = Settings(
        zone=(LEFT, RIGHT), levels=LEVELS, device="d", decision_log=str(log), audit_share=0.0,
    )  # fmt: skip
    agent, lines = run(zoned, recorded, tmp_path / "zones")
    same = ("frame", "label", "confidence", "risk", "level", "model")
    for zone, region in (("left", "0,0,0.5,1"), ("right", "0.5,0,0.5,1")):
        alone = Settings(region=region, levels=LEVELS, device="d", audit_share=0.0)
        expected = run(alone, recorded, tmp_path / zone)[1]
        own = [line for line in lines if line.get("zone") == zone]
        assert [[line[key] for key in same] for line in own] == [[line[key] for key in same] for line in expected]
        found = replay(tmp_path / f"decisions-{zone}.jsonl", Bundle(ZOO), recorded)
        assert (found.first, found.frames) == (None, 40)
        assert agent.summary()["zones"][zone]["frames"] == 40
    assert len(lines) == 80 and agent.summary()["frames"] == 40
    assert len({line["label"] for line in lines}) > 1
    assert not log.exists()


def test_each_zone_learns_for_itself_and_keeps_it_across_restarts(recorded: Path, tmp_path: Path) -> None:
    settings = Settings(
        zone=(LEFT, RIGHT), levels=("frames", "base", "full"), store=str(tmp_path), frames=20,
        decision_log=str(tmp_path / "log"),
    )  # fmt: skip
    bundle = tiny_bundle(tmp_path / "bundle")
    agent, _ = run(settings, recorded, tmp_path / "answers", bundle)
    assert all(camera.tally.full for camera in agent.cameras), "the full model has answered in each"
    learned = {zone: (tmp_path / "learned" / f"camera+{zone}.msgpack").read_bytes() for zone in ("left", "right")}
    assert learned["left"] != learned["right"]
    run(settings, recorded, tmp_path / "answers", bundle)
    for zone, state in learned.items():
        (begun,) = (event for event in events(tmp_path / f"log-{zone}") if isinstance(event, CascadeCreated))
        assert begun.learned == state


def test_the_answers_of_all_zones_come_together_with_the_last_of_them(tmp_path: Path) -> None:
    bundle = Bundle(tiny_bundle(tmp_path / "bundle"))
    agent = Agent(Settings(zone=(LEFT, RIGHT), levels=LEVELS), [Pictures(5)], (), None, bundle)
    observed: list[AnsweredFrame] = []
    agent.observers.append(observed.append)
    agent.run(JsonLinesWriter(""))
    whole = [sorted((line.zone, line.frame) for line in one.lines) for one in observed if one.lines]
    assert whole == [[("left", frame), ("right", frame)] for frame in range(5)]
    assert len(observed) == 10


def test_zones_share_the_deadline_of_the_frame_and_take_turns_to_be_first(tmp_path: Path) -> None:
    bundle = Bundle(tiny_bundle(tmp_path / "bundle"))
    agent = Agent(Settings(zone=(LEFT, RIGHT), levels=LEVELS), [Pictures(4)], (), None, bundle)
    turns: list[tuple[int, str, float | None]] = []
    for camera in agent.cameras:
        step = camera.step

        def watched(index: int, *rest: Any, step: Any = step, zone: str = camera.zone) -> None:
            turns.append((index, zone, rest[-1].deadline))
            step(index, *rest)

        camera.step = watched  # type: ignore[method-assign]
    agent.run(JsonLinesWriter(""))
    assert [zone for _, zone, _ in turns] == ["left", "right", "right", "left"] * 2
    assert all(first[2] == second[2] for first, second in zip(turns[::2], turns[1::2], strict=True))


def test_a_zone_that_cannot_be_answered_does_not_stop_the_others(tmp_path: Path) -> None:
    bundle = Bundle(tiny_bundle(tmp_path / "bundle"))
    agent = Agent(Settings(zone=(LEFT, RIGHT), levels=LEVELS), [Pictures(6)], (), None, bundle)
    left, right = agent.cameras

    def fail(*_: object) -> None:
        raise RuntimeError("a mistake of ours")

    left.step = fail  # type: ignore[method-assign]
    agent.run(JsonLinesWriter(""))
    assert (left.errors, left.tally.frames) == (6, 0)
    assert (right.errors, right.tally.frames) == (0, 6)


def test_zones_are_made_when_the_bundle_has_come_and_until_then_one_camera_waits(tmp_path: Path) -> None:
    bundle = Bundle(tiny_bundle(tmp_path / "bundle"))
    store = Store(tmp_path / "store")
    log = tmp_path / "log.jsonl"
    settings = Settings(zone=(LEFT, RIGHT), levels=LEVELS, decision_log=str(log))
    agent = Agent(settings, [Pictures(3)], (), store, None)
    assert [camera.title for camera in agent.cameras] == [""]
    assert Health(agent)().count("waiting for a model") == 1
    assert not log.exists()
    agent.stop()
    agent.run(JsonLinesWriter(""))
    assert agent.summary()["frames"] == 0
    install_current(install_files(store, bundle), bundle.data)
    agent = Agent(settings, [Pictures(3)], (), store, None)
    assert [camera.title for camera in agent.cameras] == ["left", "right"], "the store has a bundle"


def test_a_decision_log_that_cannot_be_opened_late_ends_the_run_with_its_name(tmp_path: Path) -> None:
    """The task of the bundle is not known at the start, so which logs there are is not known either."""
    bundle = Bundle(tiny_bundle(tmp_path / "bundle"))
    settings = Settings(zone=(LEFT, RIGHT), levels=LEVELS, decision_log=str(tmp_path / "none" / "log.jsonl"))
    agent = Agent(settings, [Pictures(3)], (), Store(tmp_path / "store"), None)
    agent.loader.use(bundle)
    with pytest.raises(DeploymentError, match=r"decision_log .*none/log-left.jsonl: No such file"):
        agent.run(JsonLinesWriter(""))


def test_a_detector_answers_for_the_whole_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CameraLoop, "_task", "detection")
    bundle = Bundle(tiny_bundle(tmp_path / "bundle"))
    agent = Agent(Settings(zone=(LEFT, RIGHT), levels=LEVELS), [Pictures(0)], (), None, bundle)
    (camera,) = agent.cameras
    assert (camera.title, camera.settings.region, len(camera.settings.zone)) == ("", "", 2)
