"""Snapshots: when one is published, and how large it may be."""

from __future__ import annotations

import time

import numpy as np
import pytest

from cachenet.edge_agent.outputs.report import View
from cachenet.edge_agent.outputs.snapshots import Snapshots, jpeg, topic
from cachenet.edge_agent.zones import Zone
from cachenet.shared.media.pictures import decode
from tests.edge_agent.frames import Box, answered_frame, detected_frame, noise, tracked

_BOX: Box = (0.1, 0.1, 0.2, 0.3)


class Publisher:
    """What was published, and when."""

    def __init__(self) -> None:
        self.now, self.connected = 0.0, True
        self.messages: list[tuple[float, str, bytes]] = []
        views = {"": View(), "yard": View("yard", zones=(Zone("gate", ((0, 0), (1, 0), (1, 1))),))}
        self.snapshots = Snapshots(self._publish, "pi", views, lambda: self.now)
        self._sent = 0

    def _publish(self, topic: str, data: bytes) -> bool:
        self._sent += 1
        if self.connected:
            self.messages.append((self.now, topic, data))
        return self.connected

    def on_frame(self, objects: int, camera: str = "") -> None:
        """Give a frame, and wait until what it leads to is published."""
        found = [tracked(track, _BOX) for track in range(objects)]
        queued, answered = self._sent, detected_frame(found, view=View(camera), picture=noise(48, 64))
        due = self.snapshots._last.get(camera)
        self.snapshots.on_frame(answered)
        deadline = time.monotonic() + 10
        while self.snapshots._last.get(camera) != due and self._sent == queued:
            assert time.monotonic() < deadline
            time.sleep(0.001)


@pytest.fixture
def publisher() -> Publisher:
    return Publisher()


def test_a_snapshot_is_published_when_counts_change_at_most_every_two_seconds(publisher: Publisher) -> None:
    for now, objects in ((0.0, 1), (1.0, 1), (5.0, 1), (6.0, 2), (7.0, 3), (7.9, 3), (8.0, 3), (20.0, 3), (21.0, 0)):
        publisher.now = now
        publisher.on_frame(objects)
    assert [at for at, _, _ in publisher.messages] == [0.0, 6.0, 8.0, 21.0]
    assert {topic for _, topic, _ in publisher.messages} == {topic("pi", "")} == {"cachenet/2/pi/snapshot"}


def test_a_reader_that_has_just_started_gets_a_snapshot(publisher: Publisher) -> None:
    publisher.on_frame(1)
    publisher.now = 0.5
    publisher.snapshots.renew()
    publisher.on_frame(1)
    assert len(publisher.messages) == 2


def test_a_snapshot_that_was_not_sent_is_sent_later(publisher: Publisher) -> None:
    publisher.connected = False
    publisher.on_frame(1)
    publisher.connected, publisher.now = True, 2.0
    publisher.on_frame(1)
    assert [at for at, _, _ in publisher.messages] == [2.0]


def test_cameras_have_topics_of_their_own_and_classifiers_none(publisher: Publisher) -> None:
    publisher.on_frame(1, "yard")
    publisher.snapshots.on_frame(answered_frame(camera="yard"))
    publisher.snapshots.close()
    assert [topic for _, topic, _ in publisher.messages] == ["cachenet/2/pi/snapshot/yard"]


def test_a_snapshot_is_a_drawn_picture_of_limited_size() -> None:
    messages: list[bytes] = []
    snapshots = Snapshots(lambda _, data: not messages.append(data), "pi", {"": View()})
    snapshots.on_frame(detected_frame([tracked(1, _BOX)], picture=noise(1080, 1920)))
    snapshots.close()
    picture = decode(messages[0])
    assert picture.shape[1] == 640
    assert picture.shape[0] <= 360 + 66
    worst = jpeg(np.concatenate([noise(640, 640, seed) for seed in range(2)]))
    assert max(len(messages[0]), len(worst)) <= 256 << 10
