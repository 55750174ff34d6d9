"""The thread that runs the full model."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cachenet.cloud_server.serving.full_model import FullModel
from cachenet.cloud_server.serving.worker import Job, Worker
from cachenet.shared.bundle.manifest import Bundle, Manifest
from cachenet.shared.inference.early_exit import ExitResult, RequestContext
from cachenet.shared.inference.engine import EngineError
from cachenet.shared.inference.exit_cost import ExitCostModel
from cachenet.shared.inference.image import BadPicture, Tensor
from cachenet.shared.transport.protocol import Answer, Rejection, Request
from tests.bundles import early_exit_bundle, tiny_bundle

_BOUND_S = 20.0


class Model:
    """A model that gives picture ``b"7"`` the logit 7 for every label; a run ends when the test releases ``go``."""

    name, sha256 = "full", "0" * 64

    def __init__(self) -> None:
        self.started, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.sizes: list[int] = []
        self.failure: BaseException | None = None
        self.contexts: list[RequestContext | None] = []
        self.layer: int | None = None

    def prepare(self, picture: bytes) -> Tensor:
        if not picture.isdigit():
            raise BadPicture("not a number")
        return np.full((1, 3, 1, 1), int(picture), np.float32)

    def run(self, tensors: Sequence[Tensor], contexts: Sequence[RequestContext | None]) -> list[ExitResult]:
        self.contexts += contexts
        self.sizes.append(len(tensors))
        self.started.release()
        assert self.go.acquire(timeout=_BOUND_S)
        if self.failure:
            raise self.failure
        return [
            ExitResult(np.full(10, tensor[0, 0, 0, 0]), 0, self.layer, None if self.layer is None else 0.01)
            for tensor in tensors
        ]


class Replies:
    def __init__(self) -> None:
        self.replies: list[tuple[str, Answer | Rejection]] = []
        self._changed = threading.Condition()

    def __call__(self, job: Job, reply: Answer | Rejection) -> None:
        with self._changed:
            self.replies.append((job.picture.decode(), reply))
            self._changed.notify()

    def wait(self, count: int) -> list[tuple[str, Answer | Rejection]]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.replies) >= count, _BOUND_S)
        return self.replies

    def kinds(self) -> dict[str, str]:
        return {picture: one.reason if isinstance(one, Rejection) else "answer" for picture, one in self.replies}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle"))).manifest


@contextmanager
def working(manifest: Manifest, model: Model, queue: int = 16, max_batch: int = 4) -> Iterator[tuple[Worker, Replies]]:
    replies = Replies()
    # With a clock that stands still no batch is too long.
    worker = Worker(model, manifest, queue, max_batch, 1.0, replies, lambda: None, clock=lambda: 0.0)
    worker.start()
    try:
        yield worker, replies
    finally:
        model.go.release(100)
        assert worker.stop(_BOUND_S)


def job(picture: str, budget_ms: int = 60_000) -> Job:
    return Job("cam", Request("full", "image/png", picture.encode(), budget_ms), picture.encode())


def test_jobs_that_arrive_during_a_run_share_the_next_run(manifest: Manifest) -> None:
    model = Model()
    with working(manifest, model) as (worker, replies):
        worker.submit(job("0"))
        assert model.started.acquire(timeout=_BOUND_S)
        for picture in "12345":
            assert worker.submit(job(picture)) is None
        model.go.release(100)
        received = replies.wait(6)
        assert model.sizes == [1, 4, 1]
        assert [picture for picture, _ in received] == list("012345")
        for picture, answer in received:
            assert isinstance(answer, Answer)
            assert (answer.logits(10) == int(picture)).all()
        assert [answer.timing.batch for _, answer in received if isinstance(answer, Answer)] == [1, 4, 4, 4, 4, 1]


def test_several_threads_run_as_many_jobs_at_a_time_and_the_quota_counts_a_part_of_each(manifest: Manifest) -> None:
    model, replies, now = Model(), Replies(), [0.0]
    worker = Worker(model, manifest, 16, 1, 1.0, replies, lambda: None, clock=lambda: now[0], concurrency=3)
    worker.start()
    for picture in "01234":
        worker.submit(job(picture))
    for _ in range(3):
        assert model.started.acquire(timeout=_BOUND_S)
    assert not model.started.acquire(timeout=0.05), "a fourth job runs"
    assert worker.waiting == 2
    now[0] = 0.3
    model.go.release(100)
    assert {picture for picture, _ in replies.wait(5)} == set("01234")
    assert model.sizes == [1] * 5
    assert worker._batcher._accounts.expected_ms("cam") <= 100.0 + 1e-9, "300 ms of one thread of three"
    assert worker.stop(_BOUND_S)


def test_bad_and_expired_requests_do_not_affect_others_of_the_batch(manifest: Manifest) -> None:
    model = Model()
    with working(manifest, model) as (worker, replies):
        worker.submit(job("0"))
        assert model.started.acquire(timeout=_BOUND_S)
        for request in (job("1"), job("damaged"), job("2"), job("3", budget_ms=0)):
            assert worker.submit(request) is None
        model.go.release(100)
        replies.wait(5)
        assert replies.kinds() == {"0": "answer", "1": "answer", "damaged": "bad-input", "2": "answer", "3": "expired"}
        scores = {picture: one.logits(10)[0] for picture, one in replies.replies if isinstance(one, Answer)}
        assert scores == {"0": 0, "1": 1, "2": 2}


def test_a_batch_of_bad_pictures_does_not_run_the_model(manifest: Manifest) -> None:
    model = Model()
    with working(manifest, model) as (worker, replies):
        worker.submit(job("damaged"))
        replies.wait(1)
        assert model.sizes == []


@pytest.mark.parametrize("error", [EngineError("out of memory"), RuntimeError("a bug")])
def test_a_failing_model_refuses_its_batch_and_the_worker_goes_on(manifest: Manifest, error: Exception) -> None:
    model = Model()
    model.go.release(100)
    model.failure = error
    with working(manifest, model) as (worker, replies):
        worker.submit(job("0"))
        replies.wait(1)
        model.failure = None
        worker.submit(job("1"))
        replies.wait(2)
        assert replies.kinds() == {"0": "busy", "1": "answer"}
        _, refused = replies.replies[0]
        assert isinstance(refused, Rejection) and refused.retry_after_ms  # so that devices do not send for nothing


def test_an_error_of_every_request_is_logged_once_until_the_model_answers_again(
    manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    """A V2 server that is away fails hundreds of requests a second."""
    model, logged = Model(), []
    caplog.set_level(logging.WARNING)
    with working(manifest, model) as (worker, replies):
        for count in range(1, 9):
            model.failure = None if count == 5 else EngineError("the V2 server does not answer")
            model.go.release()
            assert worker.submit(job("1")) is None
            replies.wait(count)
            logged.append(len(caplog.records))
    assert logged == [1, 1, 1, 1, 2, 3, 3, 3]
    assert [one.levelname for one in caplog.records] == ["ERROR", "WARNING", "ERROR"]


def test_a_full_queue_refuses_at_once(manifest: Manifest) -> None:
    model = Model()
    with working(manifest, model, queue=4) as (worker, _):
        worker.submit(job("0"))
        assert model.started.acquire(timeout=_BOUND_S)
        refused = [worker.submit(job(picture)) for picture in "123"]
        assert [one and one.item.picture for one in refused] == [None, None, b"3"]


def test_stopping_refuses_queued_and_new_jobs(manifest: Manifest) -> None:
    model = Model()
    with working(manifest, model) as (worker, replies):
        worker.submit(job("0"))
        assert model.started.acquire(timeout=_BOUND_S)
        worker.submit(job("1"))
        assert not worker.stop(0.01), "a run cannot be interrupted"
        assert worker.submit(job("2")) is None
        assert replies.kinds() == {"1": "busy", "2": "busy"}
        model.go.release(100)
        replies.wait(3)
        assert replies.kinds() == {"0": "answer", "1": "busy", "2": "busy"}


def test_a_model_with_another_number_of_labels_is_refused_when_loaded(tmp_path: Path) -> None:
    bundle = Bundle(tiny_bundle(tmp_path))
    bundle.manifest = msgspec.structs.replace(bundle.manifest, labels=bundle.manifest.labels[:5])
    with pytest.raises(EngineError, match="5 labels"):
        FullModel(bundle, "cpu", 1)


@pytest.mark.parametrize(("fixed", "batch"), [(True, 1), (False, None)])
def test_a_model_states_its_fixed_batch(tmp_path: Path, fixed: bool, batch: int | None) -> None:
    assert FullModel(Bundle(tiny_bundle(tmp_path, fixed_batch=fixed)), "cpu", 1).batch == batch


def test_audits_have_no_context_for_early_exits_and_other_requests_have_one(manifest: Manifest) -> None:
    model = Model()
    model.go.release(100)
    with working(manifest, model) as (worker, replies):
        worker.submit(Job("cam", Request("full", "image/png", b"1", 60_000, (3, 4), risk=0.1), b"1"))
        replies.wait(1)
        worker.submit(Job("cam", Request("full", "image/png", b"2", 60_000, (), audit=True), b"2"))
        replies.wait(2)
    assert model.contexts == [RequestContext((3, 4), 0.1, "cam"), None]


def test_only_results_of_the_complete_model_are_forwarded(manifest: Manifest) -> None:
    results: list[Job] = []
    model = Model()
    model.go.release(100)
    replies = Replies()
    worker = Worker(model, manifest, 8, 4, 1.0, replies, lambda: None, lambda job, _: results.append(job))
    worker.start()
    worker.submit(job("1"))
    replies.wait(1)
    model.layer = 0
    worker.submit(job("2"))
    replies.wait(2)
    assert worker.stop(_BOUND_S)
    assert [one.picture for one in results] == [b"1"]


def test_a_full_model_with_early_exits_gives_the_risk_of_each_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Audits run through the whole model. A bundle without early exits of the kind is refused."""
    monkeypatch.setattr(ExitCostModel, "is_worthwhile", True)  # early exits of so small a model never are
    bundle = Bundle(early_exit_bundle(tmp_path / "early-exits"))
    model = FullModel(bundle, "cpu", 1, "gati")
    rng = np.random.default_rng(0)
    tensors = [rng.normal(size=(1, 3, 32, 32)).astype(np.float32) for _ in range(64)]
    results = [one for tensor in tensors for one in model.run([tensor], [RequestContext()])]
    assert sum(one.layer == 0 for one in results) > 32
    assert all((one.layer is None) == (one.risk is None) for one in results)
    whole = FullModel(bundle, "cpu", 1).run(tensors, [RequestContext()] * 64)
    audited = model.run(tensors, [None] * 64)
    for one, other in zip(whole, audited, strict=True):
        assert one.layer is None and other.layer is None
        np.testing.assert_allclose(one.logits, other.logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(EngineError, match="no early exits of kind freeze"):
        FullModel(bundle, "cpu", 1, "freeze")
    with pytest.raises(EngineError, match="model-builder exits"):
        FullModel(Bundle(tiny_bundle(tmp_path / "plain")), "cpu", 1, "gati")


class Panic(BaseException):
    """Like the exceptions of Rust libraries: not an ``Exception``."""


def test_the_worker_goes_on_after_exceptions_of_any_kind(manifest: Manifest) -> None:
    model, replies, batches = Model(), Replies(), iter(range(1000))

    def fail_first() -> None:
        if next(batches) < 2:
            raise Panic("counting failed")

    model.go.release(100)
    worker = Worker(model, manifest, 8, 4, 1.0, replies, fail_first)
    worker.start()
    try:
        worker.submit(job("0"))
        replies.wait(1)
        model.failure = Panic("the model failed")
        worker.submit(job("1"))
        replies.wait(2)
        model.failure = None
        worker.submit(job("2"))
        replies.wait(3)
        assert replies.kinds() == {"0": "answer", "1": "busy", "2": "answer"}
        assert all(thread.alive for thread in worker.threads)
    finally:
        assert worker.stop(_BOUND_S)
