from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, cast

import numpy as np
import pytest

from cachenet.edge_agent.remote import CloudClient, Outcome
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.circuit_breaker import CircuitBreaker
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.types import Miss, Prediction
from cachenet.shared.media.pictures import decode
from cachenet.shared.media.signature import sign
from cachenet.shared.transport.mqtt import MqttConnection
from cachenet.shared.transport.protocol import (
    Answer,
    Malformed,
    Rejection,
    Request,
    Timing,
    encode,
    request,
)
from tests.bundles import tiny_bundle
from tests.edge_agent.links import FakeLink, message

PICTURE = np.full((32, 32, 3), 90, np.uint8)
_FALLBACK = Prediction(0, 0.9, 0.9, "base", "base")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle")))


class Site:
    """A cloud level on a fake link. ``output`` gives what is to be answered to a request, now; None for nothing."""

    def __init__(self, bundle: Bundle, output: Callable[[Request], Answer | Rejection | bytes | None]) -> None:
        self.output = output
        self.sent: list[tuple[bytes, Request, int]] = []
        self.link = FakeLink(self._publish)
        self.cloud = CloudClient(cast(MqttConnection, self.link), "cam", bundle.manifest, time.monotonic)

    def _publish(self, topic: str, payload: bytes, rest: dict[str, Any]) -> bool:
        asked = request(topic.split("/")[3:], rest["content"], rest["correlation"], rest["properties"])
        self.sent.append((payload, asked, rest["expiry_s"]))
        if (output := self.output(asked)) is not None:
            self.answer(asked.correlation, output)
        return True

    def answer(self, correlation: bytes, output: Answer | Rejection | bytes) -> None:
        self.cloud.receive(message(output if isinstance(output, bytes) else encode(output), correlation))

    def ask(self, index: int = 0, timeout: float = 5.0, recent: tuple[int, ...] = ()) -> Outcome:
        now = time.monotonic()
        return self.cloud.ask(missed(index, recent, now, timeout), lambda: PICTURE)


def missed(index: int, recent: tuple[int, ...], now: float, timeout: float) -> Miss:
    return Miss(Frame(index, None, sign(PICTURE)), recent, now, now + timeout, _FALLBACK, "")


def answer(bundle: Bundle, label: int = 3, submodel: str | None = None) -> Answer:
    scores = np.eye(10, dtype="<f4")[label].tobytes()
    return Answer(scores, bundle.manifest.models["full"].sha256, submodel, Timing(0, 0, 0, 1))


BUSY = Rejection("busy", "the queue is full")


def test_a_request_has_picture_time_budget_and_recent_labels(bundle: Bundle) -> None:
    site = Site(bundle, lambda _: answer(bundle, 3, "animals"))
    outcome = site.ask(7, 2.5, (1, 2))
    (data, asked, expiry_s), reply = site.sent[0], outcome.reply
    np.testing.assert_array_equal(decode(data), PICTURE)
    assert (asked.model, asked.recent, expiry_s) == ("full", (1, 2), 3)
    assert 2000 < asked.budget_ms <= 2500
    assert reply is not None
    assert (reply.frame, int(reply.logits.argmax()), reply.submodel, outcome.error) == (7, 3, "animals", "")
    assert site.cloud.bytes_up == len(data)
    assert site.cloud.bytes_down == len(encode(answer(bundle, 3, "animals")))


def test_an_audit_does_not_block_and_its_reply_is_returned_by_audited(bundle: Bundle) -> None:
    site = Site(bundle, lambda _: None)
    begun = time.monotonic()
    site.cloud.audit(7, PICTURE)
    assert time.monotonic() - begun < 1.0
    (_, sent, _), *others = site.sent
    assert (sent.audit, others) == (True, [])
    assert site.cloud.audited() == []
    site.answer(sent.correlation, answer(bundle, 3))
    site.answer(sent.correlation, answer(bundle, 4))
    replies = site.cloud.audited()
    assert [(reply.frame, int(reply.logits.argmax())) for reply in replies] == [(7, 3)]
    assert site.cloud.audited() == site.cloud.late() == []
    site.cloud.audit(8, PICTURE)
    site.answer(site.sent[1][1].correlation, BUSY)
    assert site.cloud.audited() == [], "what is refused was never audited"


def test_nothing_is_audited_without_a_connection(bundle: Bundle) -> None:
    site = Site(bundle, lambda _: answer(bundle))
    site.link.connected.clear()
    site.cloud.audit(7, PICTURE)
    assert site.sent == []
    assert site.cloud.bytes_up == 0


def post(site: Site, index: int) -> Outcome:
    now = site.cloud._clock()
    return site.cloud.post(missed(index, (1,), now, 0.01), lambda: PICTURE)


def test_a_posted_request_is_answered_later(bundle: Bundle) -> None:
    site = Site(bundle, lambda _: None)
    begun = time.monotonic()
    assert post(site, 7) == Outcome(None, "to be answered later")
    assert time.monotonic() - begun < 5.0
    assert site.sent[0][1].recent == (1,)
    assert site.sent[0][1].budget_ms == 5000, "the frame's deadline is nobody's any more"
    site.answer(site.sent[0][1].correlation, answer(bundle, 3))
    assert [reply.frame for reply in site.cloud.late()] == [7]


def test_posted_requests_are_limited_and_silence_opens_the_circuit(bundle: Bundle) -> None:
    site, now = Site(bundle, lambda _: None), [100.0]
    site.cloud._clock = lambda: now[0]
    output = [post(site, index).error for index in range(12)]
    assert output.count("to be answered later") == len(site.sent) < 12
    assert output[-1] == "cloud busy"
    for index in range(12, 15):  # one silence is one, however many questions it swallows
        now[0] += 6.0
        assert post(site, index).error == ("cloud silent, circuit open" if index == 14 else "to be answered later")
    now[0] += 1.1
    assert post(site, 15).error == "to be answered later", "soon it is tried again"
    site.answer(site.sent[0][1].correlation, answer(bundle, 3))
    assert [reply.frame for reply in site.cloud.late()] == [0], "even now it teaches"


def test_a_link_slower_than_the_deadline_opens_no_circuit(bundle: Bundle) -> None:
    site, now = Site(bundle, lambda _: None), [100.0]
    site.cloud._clock = lambda: now[0]
    for index in range(20):
        assert post(site, index).error == "to be answered later"
        now[0] += 0.6
        site.answer(site.sent[-1][1].correlation, answer(bundle, 3))
    assert len(site.cloud.late()) == 20


def test_silence_ends_at_the_deadline(bundle: Bundle) -> None:
    site = Site(bundle, lambda _: None)
    begun = time.monotonic()
    outcome = site.ask(timeout=0.2)
    assert 0.2 <= time.monotonic() - begun < 2.0
    assert outcome == Outcome(None, "no answer in time")


def test_an_expired_deadline_does_not_wait(bundle: Bundle) -> None:
    begun = time.monotonic()
    assert Site(bundle, lambda _: None).ask(timeout=-1.0).reply is None
    assert time.monotonic() - begun < 1.0


def test_an_answer_ends_the_wait_from_another_thread(bundle: Bundle) -> None:
    asked: SimpleQueue[Request] = SimpleQueue()
    site = Site(bundle, asked.put)
    threading.Thread(target=lambda: site.answer(asked.get().correlation, answer(bundle))).start()
    begun = time.monotonic()
    assert site.ask(timeout=30.0).reply is not None
    assert time.monotonic() - begun < 10.0


def test_stopping_ends_the_wait_at_once(bundle: Bundle) -> None:
    site = Site(bundle, lambda _: None)
    threading.Timer(0.1, site.cloud.stop).start()
    begun = time.monotonic()
    assert site.ask(timeout=30.0).reply is None
    assert time.monotonic() - begun < 10.0


def test_a_late_reply_is_returned_once_and_never_for_another_frame(bundle: Bundle) -> None:
    site = Site(bundle, lambda _: None)
    site.ask(0, 0.01)

    def late_one_first(asked: Request) -> Answer:
        site.answer(site.sent[0][1].correlation, answer(bundle, 5))
        assert asked.correlation != site.sent[0][1].correlation
        return answer(bundle, 6)

    site.output = late_one_first
    reply = site.ask(1).reply
    assert reply is not None
    assert (reply.frame, int(reply.logits.argmax())) == (1, 6)
    late = site.cloud.late()
    assert [(reply.frame, int(reply.logits.argmax())) for reply in late] == [(0, 5)]
    assert site.cloud.late() == []


def test_a_duplicate_reply_is_ignored(bundle: Bundle) -> None:
    """Before the first has been taken as well as after."""
    site = Site(bundle, lambda _: None)

    def twice(asked: Request) -> Answer:
        site.answer(asked.correlation, answer(bundle, 4))
        return answer(bundle, 5)

    site.output = twice
    reply = site.ask(0).reply
    assert reply is not None
    assert int(reply.logits.argmax()) == 4
    site.answer(site.sent[0][1].correlation, answer(bundle, 6))
    assert site.cloud.late() == []


def test_silence_opens_the_circuit_so_that_frames_do_not_wait(bundle: Bundle) -> None:
    site = Site(bundle, lambda _: None)
    for index in range(3):
        assert site.ask(index, 0.01).error == "no answer in time"
    begun = time.monotonic()
    assert "circuit open" in site.ask(3, 5.0).error
    assert time.monotonic() - begun < 0.4
    assert len(site.sent) == 3


def test_answers_resume_by_themselves_when_the_cloud_is_back(bundle: Bundle) -> None:
    site = Site(bundle, lambda _: None)
    for index in range(3):
        site.ask(index, 0.01)
    site.output = lambda _: answer(bundle)
    deadline = time.monotonic() + 10
    while site.ask(9, 0.1).reply is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert site.ask(10).reply is not None


def test_a_rejection_is_no_reply_and_does_not_open_the_circuit(bundle: Bundle) -> None:
    site = Site(bundle, lambda _: BUSY)
    for index in range(10):
        assert site.ask(index).error == "refused: busy (the queue is full)"
    assert len(site.sent) == 10


def test_a_busy_server_is_asked_again_at_the_time_that_it_names_and_frames_do_not_wait(bundle: Bundle) -> None:
    site, now = Site(bundle, lambda _: Rejection("busy", "the queue is full", 1500)), [100.0]
    site.cloud._clock = lambda: now[0]
    assert post(site, 0).error == "to be answered later"
    assert post(site, 1).error == site.cloud.ask(missed(2, (), 100.0, 999.0), lambda: PICTURE).error
    assert post(site, 3).error == "cloud busy, asked for a pause"
    assert site.cloud.audit(4, PICTURE), "a pause of questions is none of audits"
    assert not site.cloud.audit(5, PICTURE)
    site.output = lambda _: answer(bundle)
    now[0] += 1.5
    assert post(site, 6).error == "to be answered later"
    assert site.cloud.audit(7, PICTURE)
    assert [asked.audit for _, asked, _ in site.sent] == [False, True, False, True]


def test_a_server_cannot_silence_a_device_for_more_than_ten_seconds(bundle: Bundle) -> None:
    site, now = Site(bundle, lambda _: Rejection("busy", "the queue is full", 60_000)), [100.0]
    site.cloud._clock = lambda: now[0]
    post(site, 0)
    now[0] += 10.0
    assert post(site, 1).error == "to be answered later"


def test_a_late_rejection_is_ignored(bundle: Bundle) -> None:
    site = Site(bundle, lambda _: None)
    site.ask(0, 0.01)
    site.answer(site.sent[0][1].correlation, BUSY)
    assert site.cloud.late() == []


def test_the_answer_of_another_model_is_refused(bundle: Bundle) -> None:
    other = Answer(answer(bundle).scores, "0" * 64, None, Timing(0, 0, 0, 1))
    outcome = Site(bundle, lambda _: other).ask()
    assert outcome.reply is None
    assert "another model" in outcome.error


def test_replies_to_an_earlier_run_are_ignored(bundle: Bundle) -> None:
    earlier, site = Site(bundle, lambda _: None), Site(bundle, lambda _: None)
    earlier.ask(0, 0.01)
    site.output = lambda _: site.answer(earlier.sent[0][1].correlation, answer(bundle))
    assert site.ask(0, 0.05).reply is None
    assert site.cloud.late() == []


def with_scores(bundle: Bundle, scores: bytes) -> bytes:
    return encode(Answer(scores, bundle.manifest.models["full"].sha256, None, Timing(0, 0, 0, 1)))


@pytest.mark.parametrize(
    "malformed",
    [
        lambda _: b"",
        lambda _: b"\xff" * 100,
        lambda _: bytes(300_000),
        lambda bundle: with_scores(bundle, b"123"),
        lambda bundle: with_scores(bundle, np.full(10, np.nan, "<f4").tobytes()),
    ],
    ids=["empty", "noise", "huge", "too-few-scores", "not-finite"],
)
def test_a_malformed_answer_raises_that_and_nothing_else_and_counts_as_silence(
    bundle: Bundle, malformed: Callable[[Bundle], bytes]
) -> None:
    site = Site(bundle, lambda _: None)

    def output(asked: Request) -> None:
        with pytest.raises(Malformed):
            site.answer(asked.correlation, malformed(bundle))

    site.output = output
    assert site.ask(0, 0.05).error == "no answer in time"


@pytest.mark.parametrize("correlation", [None, b"", b"x" * 15, b"x" * 16, bytes(64)])
def test_a_reply_without_a_request_is_ignored(bundle: Bundle, correlation: bytes | None) -> None:
    site = Site(bundle, lambda _: None)
    site.ask(0, 0.01)
    site.cloud.receive(message(encode(answer(bundle)), correlation))
    assert site.cloud.late() == []


def test_without_a_connection_nothing_is_sent_and_there_is_no_wait(bundle: Bundle) -> None:
    site = Site(bundle, lambda _: answer(bundle))
    site.link.connected.clear()
    for index in range(10):
        assert site.ask(index).error == "not connected"
    site.link.connected.set()
    assert site.ask(10).reply is not None, "an outage of the network says nothing about the cloud"


def test_what_may_still_come_is_remembered_in_bounded_memory(bundle: Bundle) -> None:
    site = Site(bundle, lambda _: None)
    site.cloud._breaker = CircuitBreaker(tolerance=1000)
    for index in range(300):
        site.ask(index, 0.0)
    for _, asked, _ in site.sent:
        site.answer(asked.correlation, answer(bundle))
    assert [reply.frame for reply in site.cloud.late()] == list(range(44, 300))
