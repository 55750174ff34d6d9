"""Results: content and times of published answers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.edge_agent.camera import AnsweredFrame
from cachenet.edge_agent.outputs.report import AnswerLine, View
from cachenet.edge_agent.outputs.results import Result, Results
from cachenet.edge_agent.zones import Zone
from cachenet.shared.cascade.types import Level
from tests.edge_agent.frames import answered_frame, detected_frame, tracked


class Publisher:
    """What was published, and when; nothing goes out while ``connected`` is false."""

    def __init__(self) -> None:
        self.now, self.connected = 0.0, True
        self.messages: list[tuple[float, str, dict[str, Any]]] = []
        self.results = Results(self._publish, "pi", lambda: self.now)

    def _publish(self, topic: str, payload: bytes) -> bool:
        if self.connected:
            self.messages.append((self.now, topic, json.loads(payload)))
        return self.connected

    def on_frame(self, answered: AnsweredFrame) -> None:
        self.results.on_frame(answered)


@given(st.lists(st.tuples(st.floats(0.001, 20), st.sampled_from(["cat", "dog"])), min_size=1, max_size=100))
def test_changes_are_published_at_once_at_most_five_a_second_and_repeats_every_ten_seconds(
    schedule: list[tuple[float, str]],
) -> None:
    logged = Publisher()
    last: tuple[float, str] | None = None
    for frame, (elapsed, label) in enumerate(schedule):
        logged.now += elapsed
        before = len(logged.messages)
        logged.on_frame(answered_frame(frame, label))
        was_published = len(logged.messages) > before
        since = None if last is None else logged.now - last[0]
        if last is None or since is None:
            assert was_published
        elif label != last[1]:
            assert was_published == (since >= 0.2)
        else:
            assert was_published == (since >= 10)
        if was_published:
            last = logged.now, label
            assert logged.messages[-1][2]["label"] == label


def test_a_result_is_the_line_of_the_output_and_how_it_has_been_lately() -> None:
    logged = Publisher()
    levels: list[Level] = ["base", "cloud", "frames", "fallback"]
    for frame, level in enumerate(levels):
        logged.now += 10
        logged.on_frame(answered_frame(frame, level=level, latency_ms=float(frame)))
    _, topic, result = logged.messages[-1]
    assert topic == "cachenet/2/pi/result"
    assert (result.pop("local_share"), result.pop("mean_latency_ms")) == (0.5, 1.5)
    assert msgspec.convert(result, AnswerLine) == answered_frame(3, level="fallback", latency_ms=3.0).line


def test_what_was_long_ago_fades() -> None:
    logged = Publisher()
    for level in ("cloud", "base"):
        for frame in range(5000):
            logged.on_frame(answered_frame(frame, level=level))  # type: ignore[arg-type]
    logged.now += 10
    logged.on_frame(answered_frame())
    assert logged.messages[-1][2]["local_share"] > 0.99


def test_cameras_have_topics_and_clocks_of_their_own() -> None:
    logged = Publisher()
    for camera in ("yard", "gate", "yard", "gate"):
        logged.on_frame(answered_frame(camera=camera))
    assert [(topic, result["camera"]) for _, topic, result in logged.messages] == [
        ("cachenet/2/pi/result/yard", "yard"),
        ("cachenet/2/pi/result/gate", "gate"),
    ]


def test_an_unsent_result_is_published_after_the_broker_returns() -> None:
    """As the answer that is then the latest, and the waiting costs no more than five tries a second."""
    logged = Publisher()
    logged.on_frame(answered_frame(0, "cat"))
    logged.connected = False
    logged.now += 1
    logged.on_frame(answered_frame(1, "dog"))
    logged.connected = True
    logged.now += 1
    logged.on_frame(answered_frame(2, "dog"))
    assert [(result["frame"], result["label"]) for _, _, result in logged.messages] == [(0, "cat"), (2, "dog")]


@pytest.mark.parametrize("field", ["local_share", "mean_latency_ms"])
def test_averages_are_always_present(field: str) -> None:
    assert field in {name.name for name in msgspec.structs.fields(Result) if name.required}


_LEFT = View(zones=(Zone("left", ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))),))


@given(
    st.lists(
        st.tuples(st.floats(0.001, 20), st.lists(st.tuples(st.booleans(), st.integers(0, 1)), max_size=3)),
        min_size=1,
        max_size=60,
    )
)
def test_a_detectors_result_is_published_when_counts_by_zone_and_label_change(
    schedule: list[tuple[float, list[tuple[bool, int]]]],
) -> None:
    """Wherever the objects move meanwhile, and at most five times a second and at least every ten seconds."""
    logged = Publisher()
    last: tuple[float, object] | None = None
    for frame, (elapsed, objects) in enumerate(schedule):
        logged.now += elapsed
        before = len(logged.messages)
        boxes = [(0.1 if left else 0.8, frame % 5 / 10, 0.1, 0.1) for left, _ in objects]
        found = [tracked(track, box, label) for track, (box, (_, label)) in enumerate(zip(boxes, objects, strict=True))]
        logged.on_frame(detected_frame(found, frame, _LEFT))
        was_published = len(logged.messages) > before
        counts = sorted(objects)
        if last is None:
            assert was_published
        else:
            assert was_published == (logged.now - last[0] >= (10 if counts == last[1] else 0.2))
        if was_published:
            last = logged.now, counts
            result = logged.messages[-1][2]
            assert sum(result["counts"].values()) == len(objects) == len(result["objects"])
            assert sum(result["zone_counts"]["left"].values()) == sum(left for left, _ in objects)


def test_an_empty_scene_is_published_once_and_then_every_ten_seconds() -> None:
    logged = Publisher()
    for frame in range(21):
        logged.on_frame(detected_frame([], frame))
        logged.now += 1
    assert [at for at, _, _ in logged.messages] == [0, 10, 20]


def test_zones_of_a_classifier_have_topics_of_their_own() -> None:
    logged = Publisher()
    for zone, label in (("gate", "open"), ("bay", "free"), ("gate", "open"), ("bay", "taken")):
        logged.now += 1
        answered = answered_frame(label=label, camera="yard")
        logged.on_frame(replace(answered, line=msgspec.structs.replace(answered.line, zone=zone)))
    assert [(topic, result["zone"], result["label"]) for _, topic, result in logged.messages] == [
        ("cachenet/2/pi/result/yard/gate", "gate", "open"),
        ("cachenet/2/pi/result/yard/bay", "bay", "free"),
        ("cachenet/2/pi/result/yard/bay", "bay", "taken"),
    ]
