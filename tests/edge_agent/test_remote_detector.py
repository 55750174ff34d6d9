"""The client of a full detector in the cloud, on a fake link."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.edge_agent.remote import POSTED, CloudClient
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.detect.detections import Detections, checked
from cachenet.shared.cascade.detect.types import SceneFrame, SceneMiss, ScenePrediction, SceneReply
from cachenet.shared.inference.image import Input, Picture, encode, wire_picture
from cachenet.shared.media.pictures import decode
from cachenet.shared.media.signature import sign
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import MqttConnection
from cachenet.shared.transport.protocol import (
    Answer,
    DetectionAnswer,
    Malformed,
    Rejection,
    Request,
    Timing,
)
from tests.bundles import tiny_bundle
from tests.detectors import detector_bundle
from tests.edge_agent.links import FakeLink, message

PICTURE = np.full((48, 64, 3), 90, np.uint8)
TIMING = Timing(0.0, 0.0, 0.0, 1)
FOUND = checked([[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.9, 0.8]], [0, 0], [0.9, 0.6], classes=1)
NONE = ScenePrediction((), 0.0, "frames", "")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(detector_bundle(tmp_path_factory.mktemp("bundle")))


class Site:
    """A client of a full detector; ``now`` is its clock."""

    def __init__(self, bundle: Bundle, spec: Input | None = None) -> None:
        manifest = bundle.manifest
        if spec is not None:
            full = msgspec.structs.replace(manifest.models["full"], input=spec)
            manifest = msgspec.structs.replace(manifest, models={**manifest.models, "full": full})
        self.sha256 = manifest.models["full"].sha256
        self.sent: list[tuple[bytes, Request]] = []
        self.now = 100.0
        self.link = FakeLink(self._publish)
        self.cloud = CloudClient(cast(MqttConnection, self.link), "cam", manifest, lambda: self.now)

    def _publish(self, topic: str, payload: bytes, rest: dict[str, Any]) -> bool:
        asked = protocol.request(topic.split("/")[3:], rest["content"], rest["correlation"], rest["properties"])
        self.sent.append((payload, asked))
        return True

    def post(self, index: int, picture: Picture = PICTURE) -> str:
        frame = SceneFrame(index, None, sign(picture), np.zeros((1, 1), bool))
        return self.cloud.post(SceneMiss(frame, self.now, self.now + 0.1, NONE, ""), lambda: picture).error

    def reply(self, number: int = -1, output: Any = None) -> None:
        """Answer a sent request, with ``FOUND`` unless another output is named."""
        answer = DetectionAnswer.of(FOUND, self.sha256, "yard", TIMING) if output is None else output
        payload = answer if isinstance(answer, bytes) else protocol.encode(answer)
        self.cloud.receive(message(payload, self.sent[number][1].correlation))


def equal(found: Detections, expected: Detections) -> bool:
    return all(np.array_equal(getattr(found, name), getattr(expected, name)) for name in ("boxes", "labels", "scores"))


def test_a_posted_frame_is_answered_later_with_its_objects(bundle: Bundle) -> None:
    site = Site(bundle)
    assert site.post(7) == POSTED
    site.now += 0.2
    site.reply()
    (reply,) = site.cloud.late()
    assert isinstance(reply, SceneReply)
    assert (reply.frame, reply.submodel, reply.on_device) == (7, "yard", False)
    assert equal(reply.detections, FOUND)
    assert site.cloud.late() == []


def test_no_objects_are_a_reply(bundle: Bundle) -> None:
    site = Site(bundle)
    site.post(7)
    site.reply(output=DetectionAnswer(b"", b"", b"", site.sha256, None, TIMING))
    (reply,) = site.cloud.late()
    assert len(reply.detections) == 0


def test_a_frame_can_be_waited_for(bundle: Bundle) -> None:
    site = Site(bundle)
    site.cloud._clock = time.monotonic
    now = time.monotonic()
    miss = SceneMiss(SceneFrame(3, None, sign(PICTURE), np.zeros((1, 1), bool)), now, now + 5.0, NONE, "")
    publish = site._publish

    def answered(topic: str, payload: bytes, rest: dict[str, Any]) -> bool:
        publish(topic, payload, rest)
        site.reply()
        return True

    site.link._on_publish = answered
    outcome = site.cloud.ask(miss, lambda: PICTURE)
    assert outcome.error == "" and equal(outcome.reply.detections, FOUND)


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "corner", "crop"])
def test_what_is_sent_is_what_the_model_sees_without_bars(bundle: Bundle, fit: Any) -> None:
    spec = Input(32, (0.0,) * 3, (255.0,) * 3, fit=fit)
    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    site = Site(bundle, spec)
    site.post(1, picture)
    np.testing.assert_array_equal(decode(site.sent[0][0]), wire_picture(picture, spec))
    assert site.cloud.bytes_up == len(site.sent[0][0])


def test_boxes_in_a_cropped_picture_become_shares_of_the_whole_one(bundle: Bundle) -> None:
    """The model sees the square in the middle of 64 x 48 pixels: from 8 to 56."""
    site = Site(bundle, Input(32, (0.0,) * 3, (255.0,) * 3, fit="crop"))
    site.post(1)
    site.cloud.audit(2, PICTURE)
    whole = checked([[0.0, 0.0, 1.0, 1.0]], [0], [0.9], classes=1)
    for number in (0, 1):
        site.reply(number, DetectionAnswer.of(whole, site.sha256, None, TIMING))
    for reply in (*site.cloud.late(), *site.cloud.audited()):
        np.testing.assert_allclose(reply.detections.boxes, [[8 / 64, 0.0, 56 / 64, 1.0]], atol=1e-6)


def test_an_audit_is_answered_like_that_of_a_classifier(bundle: Bundle) -> None:
    site = Site(bundle)
    assert site.cloud.audit(5, PICTURE)
    assert site.sent[0][1].audit
    site.reply()
    site.reply()
    (reply,) = site.cloud.audited()
    assert reply.frame == 5 and equal(reply.detections, FOUND)
    assert site.cloud.late() == []


def logits(site: Site) -> Answer:
    return Answer(np.zeros(1, "<f4").tobytes(), site.sha256, None, TIMING)


def of_arrays(boxes: Any, labels: Any, scores: Any) -> Callable[[Site], DetectionAnswer]:
    raw = np.asarray(boxes, "<f4").tobytes(), np.asarray(labels, "<u2").tobytes(), np.asarray(scores, "<f4").tobytes()
    return lambda site: DetectionAnswer(*raw, site.sha256, None, TIMING)


BOX = [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize(
    "malformed",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda _: b"\xff" * 100, id="noise"),
        pytest.param(lambda _: bytes(300_000), id="huge"),
        pytest.param(logits, id="scores of a classifier"),
        pytest.param(of_arrays([BOX], [0], [0.9, 0.8]), id="more scores than boxes"),
        pytest.param(of_arrays([BOX, BOX], [0, 0], [0.9]), id="fewer scores than boxes"),
        pytest.param(of_arrays([[np.nan, *BOX[1:]]], [0], [0.9]), id="NaN"),
        pytest.param(of_arrays([BOX] * 10_000, [0] * 10_000, [0.9] * 10_000), id="10,000 boxes"),
    ],
)
def test_a_malformed_answer_raises_that_and_nothing_else_and_counts_as_silence(
    bundle: Bundle, malformed: Callable[[Site], Any]
) -> None:
    site = Site(bundle)
    site.post(1)
    with pytest.raises(Malformed):
        site.reply(output=malformed(site))
    assert site.cloud.late() == []
    site.reply()
    assert len(site.cloud.late()) == 1, "the valid answer still counts"


@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), max_size=4))
def test_any_payload_is_a_reply_or_malformed(bundle: Bundle, noise: bytes, damage: list[tuple[int, int]]) -> None:
    site = Site(bundle)
    site.post(1)
    payload = bytearray(protocol.encode(DetectionAnswer.of(FOUND, site.sha256, "yard", TIMING)))
    for where, value in damage:
        payload[where % len(payload)] = value
    for output in (noise, bytes(payload)):
        with contextlib.suppress(Malformed):
            site.reply(output=output)


def test_boxes_as_the_answer_of_a_classifier_are_malformed(tmp_path: Path) -> None:
    manifest = Bundle(tiny_bundle(tmp_path)).manifest
    sent: list[bytes] = []
    link = FakeLink(lambda _topic, _payload, rest: sent.append(rest["correlation"]) or True)
    cloud = CloudClient(cast(MqttConnection, link), "cam", manifest, time.monotonic)
    cloud.audit(1, np.zeros((32, 32, 3), np.uint8))
    answer = DetectionAnswer.of(FOUND, manifest.models["full"].sha256, None, TIMING)
    with pytest.raises(Malformed, match="boxes"):
        cloud.receive(message(protocol.encode(answer), sent[0]))


def test_the_answer_of_another_detector_is_not_used(bundle: Bundle) -> None:
    site = Site(bundle)
    site.post(1)
    site.reply(output=DetectionAnswer.of(FOUND, "0" * 64, None, TIMING))
    assert site.cloud.late() == []


@pytest.mark.parametrize(("fps", "round_trip_s"), [(10, 0.15), (30, 0.15), (10, 0.6), (30, 0.6)], ids=str)
def test_two_requests_are_under_way_at_most_and_a_frame_never_waits(
    bundle: Bundle, fps: int, round_trip_s: float
) -> None:
    """At 10 frames a second over lte that is every frame, and over 3g two in each round trip."""
    site = Site(bundle)
    due: list[tuple[float, int]] = []
    for index in range(20 * fps):
        site.now = 100.0 + index / fps
        while due and due[0][0] <= site.now:
            site.reply(due.pop(0)[1])
        outcome = site.post(index)
        assert outcome == (POSTED if len(due) < 2 else "cloud busy")
        if outcome == POSTED:
            due.append((site.now + round_trip_s, len(site.sent) - 1))
    assert len(site.sent) >= 0.8 * 20 * min(fps, 2 / round_trip_s)


def test_a_lost_request_holds_no_others_up(bundle: Bundle) -> None:
    """A server that ends with a request in hand."""
    site = Site(bundle)
    for index in range(20):
        site.now += 0.1
        site.post(index)
        if index != 10:
            site.reply()
    assert len(site.sent) == 20


def test_after_silence_one_request_at_a_time_tries_the_server(bundle: Bundle) -> None:
    site = Site(bundle)
    for index in range(1000):  # 100 seconds of silence at 10 frames a second
        site.now += 0.1
        site.post(index)
    assert len(site.sent) < 20
    tried = len(site.sent)
    while len(site.sent) == tried:
        site.now += 0.1
        site.post(2000)
    site.reply()
    assert site.post(2001) == POSTED, "one reply closes the circuit"


def test_an_outage_of_the_network_says_nothing_about_the_server(bundle: Bundle) -> None:
    site = Site(bundle)
    for index in range(5):
        site.link.connected.set()
        assert site.post(2 * index) == POSTED
        site.now += 0.1
        site.link.connected.clear()
        assert site.post(2 * index + 1) == "not connected"
        site.now += 10.0


def test_a_request_expires_on_the_server_when_its_reply_is_useless(bundle: Bundle) -> None:
    site = Site(bundle)
    site.post(1)
    assert site.sent[0][1].budget_ms == 2000


def test_a_refusal_closes_no_frame_and_opens_no_circuit(bundle: Bundle) -> None:
    site = Site(bundle)
    for index in range(20):
        site.now += 0.1
        assert site.post(index) == POSTED
        site.reply(output=Rejection("busy", "the server's queue is full"))
    assert site.cloud.late() == []


def test_a_classifiers_picture_is_sent_as_it_is(tmp_path: Path) -> None:
    """It is cropped by the caller, which needs the crop too."""
    manifest = Bundle(tiny_bundle(tmp_path)).manifest
    sent: list[bytes] = []
    link = FakeLink(lambda _topic, payload, _rest: sent.append(payload) or True)
    cloud = CloudClient(cast(MqttConnection, link), "cam", manifest, time.monotonic)
    assert cloud.audit(1, PICTURE)
    assert sent == [encode(PICTURE)[1]]
