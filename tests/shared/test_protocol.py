"""The wire format: what is encoded decodes to itself, and what is malformed raises ``Malformed`` and nothing else."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.cascade.detect.detections import MAX_DETECTIONS, checked
from cachenet.shared.transport import protocol
from cachenet.shared.transport.protocol import (
    Answer,
    BlobRequest,
    Chunk,
    DetectionAnswer,
    Malformed,
    Rejection,
    Request,
    Status,
    Timing,
)

MESSAGES: list[Any] = [Status, Chunk, BlobRequest, protocol.Reply]

numbers = st.integers(0, 2**40)
milliseconds = st.floats(0, 1e6)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True).filter(lambda name: name != "catalogue")
timings = st.builds(Timing, milliseconds, milliseconds, milliseconds, st.integers(1, 64))
arrays = st.binary(max_size=400)
messages = st.one_of(
    st.builds(DetectionAnswer, arrays, arrays, arrays, st.text(max_size=64), st.none() | names, timings),
    st.builds(Answer, st.binary(max_size=400), st.text(max_size=64), st.none() | names, timings),
    st.builds(Rejection, st.sampled_from(["busy", "bad-input", "unknown-model", "expired"]), st.text(max_size=80)),
    st.builds(BlobRequest, st.text(max_size=64), numbers, numbers),
    st.builds(Chunk, numbers, numbers, st.binary(max_size=400), st.text(max_size=80)),
    st.builds(
        Status,
        st.sampled_from(["online", "offline", "stopped"]),
        st.text(max_size=10),
        names,
        st.lists(names, max_size=5).map(tuple),
    ),
)


def kind_of(message: object) -> Any:
    return protocol.Reply if isinstance(message, protocol.Reply) else type(message)


@given(messages)
def test_messages_survive_encoding(message: msgspec.Struct) -> None:
    assert protocol.decode(protocol.encode(message), kind_of(message)) == message


@given(st.binary(max_size=300), st.sampled_from(MESSAGES))
def test_arbitrary_bytes_are_malformed_or_a_message(payload: bytes, kind: Any) -> None:
    with contextlib.suppress(Malformed):
        protocol.decode(payload, kind)


@given(messages, st.data())
def test_damaged_messages_are_malformed_or_a_message(message: msgspec.Struct, data: st.DataObject) -> None:
    """Bytes that begin like a message get further into the decoder than random ones."""
    payload = bytearray(protocol.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Malformed):
        protocol.decode(bytes(payload[: data.draw(st.integers(0, len(payload)))]), kind_of(message))


@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\x81\xa1x" + b"\x91" * 200_000, id="nested too deep"),
        pytest.param(b"\x81\xa6sha256\xa2\xff\xfe", id="not UTF-8"),
        pytest.param(b"\x82\xa5state\xa6online\xa8resident\xdd\xff\xff\xff\xff", id="four billion elements"),
        pytest.param(b"\x81\xa4data\xc6\xff\xff\xff\xff", id="four gigabytes announced"),
        pytest.param(b"", id="empty"),
    ],
)
def test_hostile_payloads_are_malformed(payload: bytes, kind: Any) -> None:
    with pytest.raises(Malformed):
        protocol.decode(payload, kind)


def test_a_message_over_the_limit_is_not_decoded() -> None:
    chunk = protocol.encode(Chunk(0, 10, b"x" * 100))
    assert protocol.decode(chunk, Chunk, limit=len(chunk))
    with pytest.raises(Malformed, match="allowed"):
        protocol.decode(chunk, Chunk, limit=len(chunk) - 1)


def test_a_full_chunk_fits_into_a_message() -> None:
    chunk = Chunk(2**40, 2**40, b"x" * protocol.CHUNK)
    assert protocol.decode(protocol.encode(chunk), Chunk) == chunk


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=20))
def test_scores_survive_encoding(scores: list[float]) -> None:
    sent = np.array(scores, "<f4")
    answer = Answer(sent.tobytes(), "digest", None, Timing(0, 0, 0, 1))
    assert np.array_equal(answer.logits(len(scores)), sent)
    with pytest.raises(Malformed):
        answer.logits(len(scores) + 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_malformed(bad: float) -> None:
    scores = np.array([0.0, bad], "<f4").tobytes()
    with pytest.raises(Malformed, match="finite"):
        Answer(scores, "digest", None, Timing(0, 0, 0, 1)).logits(2)


CLASSES = 3
shares = st.floats(-0.5, 1.5, width=32)
rows = st.tuples(st.tuples(shares, shares, shares, shares), st.integers(0, CLASSES - 1), st.floats(0, 1, width=32))
TIMING = Timing(0.0, 0.0, 0.0, 1)


def detection_answer(boxes: Any, labels: Any, scores: Any) -> DetectionAnswer:
    """An answer of these arrays, whether they fit each other or not, after its way over the wire."""
    raw = np.asarray(boxes, "<f4").tobytes(), np.asarray(labels, "<u2").tobytes(), np.asarray(scores, "<f4").tobytes()
    sent = protocol.decode(protocol.encode(DetectionAnswer(*raw, "digest", None, TIMING)), protocol.Reply)
    assert isinstance(sent, DetectionAnswer)
    return sent


@given(st.lists(rows, max_size=20))
def test_detections_survive_encoding_to_the_last_bit(objects: list[Any]) -> None:
    boxes = np.array([box for box, _, _ in objects], np.float32).reshape(-1, 4)
    sent = checked(boxes, [label for _, label, _ in objects], [score for _, _, score in objects], CLASSES)
    answer = DetectionAnswer.of(sent, "digest", "scene", TIMING)
    received = protocol.decode(protocol.encode(answer), protocol.Reply).detections(CLASSES)
    assert np.array_equal(received.boxes, sent.boxes)
    assert np.array_equal(received.labels, sent.labels)
    assert np.array_equal(received.scores, sent.scores)


BOX = [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize(
    ("boxes", "labels", "scores", "why"),
    [
        pytest.param([BOX], [0], [0.9, 0.8], "do not fit", id="more scores than boxes"),
        pytest.param([BOX, BOX], [0, 0], [0.9], "do not fit", id="fewer scores than boxes"),
        pytest.param([BOX], [0, 1], [0.9], "do not fit", id="more labels than boxes"),
        pytest.param(BOX[:3], [0], [0.9], "do not fit", id="three numbers for a box"),
        pytest.param([BOX], [], [], "do not fit", id="a box alone"),
        pytest.param([[np.nan, *BOX[1:]]], [0], [0.9], "finite", id="NaN in a box"),
        pytest.param([[*BOX[:3], np.inf]], [0], [0.9], "finite", id="an infinite box"),
        pytest.param([BOX], [0], [np.nan], "finite", id="NaN as a score"),
        pytest.param([BOX] * 10_000, [0] * 10_000, [0.9] * 10_000, "256 allowed", id="10,000 boxes"),
    ],
)
def test_detections_that_do_not_fit_each_other_or_are_not_finite_are_malformed(
    boxes: Any, labels: Any, scores: Any, why: str
) -> None:
    with pytest.raises(Malformed, match=why):
        detection_answer(boxes, labels, scores).detections(CLASSES)


@pytest.mark.parametrize("size", [(15, 2, 4), (16, 1, 4), (16, 2, 3), (16, 3, 5), (1, 0, 0), (0, 1, 0)])
def test_arrays_of_a_part_of_a_number_are_malformed(size: tuple[int, int, int]) -> None:
    boxes, labels, scores = (bytes(count) for count in size)
    with pytest.raises(Malformed, match="do not fit"):
        DetectionAnswer(boxes, labels, scores, "digest", None, TIMING).detections(CLASSES)


def test_boxes_outside_the_picture_are_clipped_and_those_without_area_or_label_dropped() -> None:
    boxes = [[-1, -1, 0.5, 2], [0.5, 0.5, 0.2, 0.2], BOX, BOX, BOX]
    received = detection_answer(boxes, [0, 0, 0, CLASSES, 65_535], [0.9, 0.8, 1.5, 0.7, 0.6]).detections(CLASSES)
    assert received.boxes.tolist() == [[0.0, 0.0, 0.5, 1.0]]


@given(st.binary(max_size=80), st.binary(max_size=20), st.binary(max_size=40))
def test_any_arrays_are_valid_detections_or_malformed(boxes: bytes, labels: bytes, scores: bytes) -> None:
    with contextlib.suppress(Malformed):
        received = DetectionAnswer(boxes, labels, scores, "digest", None, TIMING).detections(CLASSES)
        assert received.boxes.shape == (len(received), 4)
        assert ((received.boxes >= 0) & (received.boxes <= 1)).all()
        assert ((received.labels >= 0) & (received.labels < CLASSES)).all()


def test_the_largest_answer_fits_into_a_message() -> None:
    count = MAX_DETECTIONS
    largest = checked([BOX] * count, [0] * count, [0.9] * count, CLASSES)
    answer = DetectionAnswer.of(largest, "0" * 64, "x" * 64, TIMING)
    assert len(protocol.decode(protocol.encode(answer), protocol.Reply).detections(CLASSES)) == count


@given(names, st.lists(names, min_size=1, max_size=3))
def test_a_topic_is_split_into_its_parts(device: str, leaf: list[str]) -> None:
    assert protocol.device_of(protocol.topic(device, *leaf)) == (device, tuple(leaf))


@pytest.mark.parametrize(
    "name", ["", "a/b", "a+b", "#", "$share", "+", "a b", "camera\n", ".hidden", "x" * 65, "é", "catalogue", "a\0b"]
)
def test_a_name_that_would_match_other_topics_is_refused(name: str) -> None:
    with pytest.raises(Malformed):
        protocol.check_device(name)
    with pytest.raises(Malformed):
        protocol.topic(name, "status")


@given(st.text(max_size=100))
def test_any_topic_is_a_devices_or_malformed(topic: str) -> None:
    for received in (topic, f"{protocol.ROOT}/{topic}"):
        try:
            device, _ = protocol.device_of(received)
        except Malformed:
            continue
        assert protocol.check_device(device) == device


requests = st.builds(
    Request,
    names,
    st.sampled_from(["image/png", "image/jpeg"]),
    st.binary(min_size=1, max_size=64),
    st.integers(0, protocol.MAX_BUDGET_MS["infer"]),
    st.lists(st.integers(0, protocol.MAX_CLASSES - 1), max_size=protocol.RECENT).map(tuple),
)


@given(requests, st.binary(min_size=16, max_size=16), st.booleans())
def test_a_request_survives_its_properties(request: Request, own: bytes, stored: bool) -> None:
    if stored:
        request = msgspec.structs.replace(request, audit=True, id=own.hex())
    leaf = ("audit" if request.audit else "infer", request.model)
    assert protocol.request(leaf, request.content, request.correlation, request.properties()) == request


BUDGET = ("budget-ms", "100")


@given(st.sampled_from(["infer", "audit"]), st.integers(0, 10**12))
def test_a_budget_over_the_bound_counts_as_the_bound(kind: str, budget: int) -> None:
    read = protocol.request((kind, "full"), "image/png", b"1", [("budget-ms", str(budget))])
    assert read.budget_ms == min(budget, protocol.MAX_BUDGET_MS[kind])


def test_a_device_of_before_reads_a_refusal_with_a_time_to_ask_again() -> None:
    """The field is optional both ways: absent, it is not on the wire, and such a device ignores it."""

    class Before(msgspec.Struct, frozen=True, tag="refusal"):
        reason: str
        detail: str

    now = protocol.Rejection("busy", "full", 250)
    assert protocol.decode(protocol.encode(now), protocol.Rejection) == now
    assert protocol.decode(protocol.encode(now), Before) == Before("busy", "full")
    assert protocol.encode(protocol.Rejection("busy", "full")) == protocol.encode(Before("busy", "full"))
    with pytest.raises(Malformed):
        protocol.decode(protocol.encode(protocol.Rejection("busy", "full", 10**9)), protocol.Rejection)


@pytest.mark.parametrize(
    ("leaf", "content", "correlation", "properties"),
    [
        pytest.param(("infer",), "image/png", b"1", [BUDGET], id="no model"),
        pytest.param(("infer", "a", "b"), "image/png", b"1", [BUDGET], id="two models"),
        pytest.param(("result", "a"), "image/png", b"1", [BUDGET], id="another leaf"),
        pytest.param(("infer", "a"), None, b"1", [BUDGET], id="no content type"),
        pytest.param(("infer", "a"), "image/gif", b"1", [BUDGET], id="another content type"),
        pytest.param(("infer", "a"), "image/png", None, [BUDGET], id="no correlation"),
        pytest.param(("infer", "a"), "image/png", b"", [BUDGET], id="empty correlation"),
        pytest.param(("infer", "a"), "image/png", b"1" * 65, [BUDGET], id="long correlation"),
        pytest.param(("infer", "a"), "image/png", b"1", [], id="no budget"),
        pytest.param(("infer", "a"), "image/png", b"1", [("budget-ms", "-1")], id="negative budget"),
        pytest.param(("infer", "a"), "image/png", b"1", [("budget-ms", "1.5")], id="budget not whole"),
        pytest.param(("infer", "a"), "image/png", b"1", [("budget-ms", "9" * 10_000)], id="budget of 10,000 digits"),
        pytest.param(("infer", "a"), "image/png", b"1", [BUDGET, ("recent", "1 x")], id="a label not a number"),
        pytest.param(("infer", "a"), "image/png", b"1", [BUDGET, ("recent", "-1")], id="a negative label"),
        pytest.param(("infer", "a"), "image/png", b"1", [BUDGET, ("recent", "16384")], id="a label over the bound"),
        pytest.param(("infer", "a"), "image/png", b"1", [BUDGET, ("recent", "1 " * 17)], id="too many labels"),
        pytest.param(("audit", "a"), "image/png", b"1", [BUDGET, ("id", "f" * 31)], id="a short id"),
        pytest.param(("audit", "a"), "image/png", b"1", [BUDGET, ("id", "G" * 32)], id="an id that is not hexadecimal"),
    ],
)
def test_a_request_out_of_bounds_is_malformed(
    leaf: tuple[str, ...], content: str | None, correlation: bytes | None, properties: list[tuple[str, str]]
) -> None:
    with pytest.raises(Malformed):
        protocol.request(leaf, content, correlation, properties)


@given(
    st.lists(st.text(max_size=10), max_size=3),
    st.none() | st.text(max_size=20),
    st.none() | st.binary(max_size=80),
    st.lists(st.tuples(st.sampled_from(["budget-ms", "recent", "id", "x"]), st.text(max_size=30)), max_size=4),
)
def test_any_description_is_a_request_or_malformed(
    leaf: list[str], content: str | None, correlation: bytes | None, properties: list[tuple[str, str]]
) -> None:
    with contextlib.suppress(Malformed):
        protocol.request(["infer", *leaf[1:]], content or "image/png", correlation, properties)
