from __future__ import annotations

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
from tests.bundles import layered_bundle, tiny_bundle

_BOUND_S = 20.0


class Model:
    """A model whose picture ``b"7"`` scores 7 for every label, and whose runs last until they are let go."""

    name, sha256 = "full", "0" * 64

    def __init__(self) -> None:
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.sizes: list[int] = []
        self.fails: Exception | None = None
        self.asked: list[RequestContext | None] = []
        self.layer: int | None = None

    def prepare(self, picture: bytes) -> Tensor:
        if not picture.isdigit():
            raise BadPicture("no number")
        return np.full((1, 3, 1, 1), int(picture), np.float32)

    def run(self, tensors: Sequence[Tensor], asked: Sequence[RequestContext | None]) -> list[ExitResult]:
        self.asked += asked
        self.sizes.append(len(tensors))
        self.begun.release()
        assert self.go.acquire(timeout=_BOUND_S)
        if self.fails:
            raise self.fails
        return [
            ExitResult(np.full(10, tensor[0, 0, 0, 0]), 0, self.layer, None if self.layer is None else 0.01)
            for tensor in tensors
        ]


class Replies:
    def __init__(self) -> None:
        self.said: list[tuple[str, Answer | Rejection]] = []
        self._news = threading.Condition()

    def __call__(self, job: Job, said: Answer | Rejection) -> None:
        with self._news:
            self.said.append((job.picture.decode(), said))
            self._news.notify()

    def wait(self, count: int) -> list[tuple[str, Answer | Rejection]]:
        with self._news:
            assert self._news.wait_for(lambda: len(self.said) >= count, _BOUND_S)
        return self.said

    def kinds(self) -> dict[str, str]:
        return {picture: said.reason if isinstance(said, Rejection) else "answer" for picture, said in self.said}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle"))).manifest


@contextmanager
def working(manifest: Manifest, model: Model, queue: int = 8, max_batch: int = 4) -> Iterator[tuple[Worker, Replies]]:
    replies = Replies()
    worker = Worker(model, manifest, queue, max_batch, replies, lambda: None)
    worker.start()
    try:
        yield worker, replies
    finally:
        model.go.release(100)
        assert worker.stop(_BOUND_S)


def job(picture: str, budget_ms: int = 60_000) -> Job:
    return Job("cam", Request("full", "image/png", picture.encode(), budget_ms), picture.encode())


def test_what_arrives_during_a_run_shares_the_next(manifest: Manifest) -> None:
    model = Model()
    with working(manifest, model) as (worker, replies):
        worker.submit(job("0"))
        assert model.begun.acquire(timeout=_BOUND_S)
        for picture in "12345":
            assert worker.submit(job(picture))
        model.go.release(100)
        said = replies.wait(6)
        assert model.sizes == [1, 4, 1]
        assert [picture for picture, _ in said] == list("012345")
        for picture, answer in said:
            assert isinstance(answer, Answer)
            assert (answer.logits(10) == int(picture)).all()
        assert [answer.timing.batch for _, answer in said if isinstance(answer, Answer)] == [1, 4, 4, 4, 4, 1]


def test_bad_and_late_requests_do_not_disturb_their_neighbours(manifest: Manifest) -> None:
    model = Model()
    with working(manifest, model) as (worker, replies):
        worker.submit(job("0"))
        assert model.begun.acquire(timeout=_BOUND_S)
        for request in (job("1"), job("torn"), job("2"), job("3", budget_ms=0)):
            assert worker.submit(request)
        model.go.release(100)
        replies.wait(5)
        assert replies.kinds() == {"0": "answer", "1": "answer", "torn": "bad-input", "2": "answer", "3": "expired"}
        scores = {picture: said.logits(10)[0] for picture, said in replies.said if isinstance(said, Answer)}
        assert scores == {"0": 0, "1": 1, "2": 2}


def test_a_batch_of_bad_pictures_runs_nothing(manifest: Manifest) -> None:
    model = Model()
    with working(manifest, model) as (worker, replies):
        worker.submit(job("torn"))
        replies.wait(1)
        assert model.sizes == []


@pytest.mark.parametrize("error", [EngineError("out of memory"), RuntimeError("a bug")])
def test_a_failing_model_refuses_and_the_worker_goes_on(manifest: Manifest, error: Exception) -> None:
    model = Model()
    model.go.release(100)
    model.fails = error
    with working(manifest, model) as (worker, replies):
        worker.submit(job("0"))
        replies.wait(1)
        model.fails = None
        worker.submit(job("1"))
        replies.wait(2)
        assert replies.kinds() == {"0": "busy", "1": "answer"}


def test_a_full_queue_is_said_at_once(manifest: Manifest) -> None:
    model = Model()
    with working(manifest, model, queue=2) as (worker, _):
        worker.submit(job("0"))
        assert model.begun.acquire(timeout=_BOUND_S)
        assert [worker.submit(job(picture)) for picture in "123"] == [True, True, False]


def test_stopping_refuses_what_waits_and_takes_no_more(manifest: Manifest) -> None:
    model = Model()
    with working(manifest, model) as (worker, replies):
        worker.submit(job("0"))
        assert model.begun.acquire(timeout=_BOUND_S)
        worker.submit(job("1"))
        assert not worker.stop(0.01), "the run cannot be interrupted"
        assert not worker.submit(job("2"))
        assert replies.kinds() == {"1": "busy"}
        model.go.release(100)
        replies.wait(2)
        assert replies.kinds() == {"0": "answer", "1": "busy"}


def test_a_model_that_does_not_fit_its_labels_is_refused_when_loaded(tmp_path: Path) -> None:
    bundle = Bundle(tiny_bundle(tmp_path))
    bundle.manifest = msgspec.structs.replace(bundle.manifest, labels=bundle.manifest.labels[:5])
    with pytest.raises(EngineError, match="5 labels"):
        FullModel(bundle, "cpu", 1)


@pytest.mark.parametrize(("fixed", "batch"), [(True, 1), (False, None)])
def test_a_model_says_whether_its_batch_is_fixed(tmp_path: Path, fixed: bool, batch: int | None) -> None:
    assert FullModel(Bundle(tiny_bundle(tmp_path, fixed_batch=fixed)), "cpu", 1).batch == batch


def test_audits_run_through_the_whole_model_and_others_bring_their_recent_labels(manifest: Manifest) -> None:
    model = Model()
    model.go.release(100)
    with working(manifest, model) as (worker, replies):
        worker.submit(Job("cam", Request("full", "image/png", b"1", 60_000, (3, 4), risk=0.1), b"1"))
        replies.wait(1)
        worker.submit(Job("cam", Request("full", "image/png", b"2", 60_000, (), audit=True), b"2"))
        replies.wait(2)
    assert model.asked == [RequestContext((3, 4), 0.1, "cam"), None]


def test_only_the_whole_model_teaches(manifest: Manifest) -> None:
    """What a cache between its layers has said is no lesson."""
    heard: list[Job] = []
    model = Model()
    model.go.release(100)
    replies = Replies()
    worker = Worker(model, manifest, 8, 4, replies, lambda: None, lambda job, _: heard.append(job))
    worker.start()
    worker.submit(job("1"))
    replies.wait(1)
    model.layer = 0
    worker.submit(job("2"))
    replies.wait(2)
    assert worker.stop(_BOUND_S)
    assert [one.picture for one in heard] == [b"1"]


def test_a_server_answers_from_caches_between_layers_and_says_what_they_risk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Audits run through all of the model; and so does everything where the bundle has no such caches."""
    monkeypatch.setattr(ExitCostModel, "pays", True)  # of so small a model no cache would
    bundle = Bundle(layered_bundle(tmp_path / "layered"))
    model = FullModel(bundle, "cpu", 1, "gati")
    rng = np.random.default_rng(0)
    tensors = [rng.normal(size=(1, 3, 32, 32)).astype(np.float32) for _ in range(64)]
    passed = [one for tensor in tensors for one in model.run([tensor], [RequestContext()])]
    assert sum(one.layer == 0 for one in passed) > 32
    assert all((one.layer is None) == (one.risk is None) for one in passed)
    whole = FullModel(bundle, "cpu", 1).run(tensors, [RequestContext()] * 64)
    audited = model.run(tensors, [None] * 64)
    for one, other in zip(whole, audited, strict=True):
        assert one.layer is None and other.layer is None
        np.testing.assert_allclose(one.logits, other.logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(EngineError, match="has no freeze caches"):
        FullModel(bundle, "cpu", 1, "freeze")
    with pytest.raises(EngineError, match="model-builder layers"):
        FullModel(Bundle(tiny_bundle(tmp_path / "plain")), "cpu", 1, "gati")


class Panic(BaseException):
    """As exceptions of libraries in Rust: no ``Exception``."""


def test_the_worker_goes_on_and_answers_after_exceptions_of_any_kind(manifest: Manifest) -> None:
    model, replies, ran = Model(), Replies(), iter(range(1000))

    def fail_first() -> None:
        if next(ran) < 2:
            raise Panic("counting failed")

    model.go.release(100)
    worker = Worker(model, manifest, 8, 4, replies, fail_first)
    worker.start()
    try:
        worker.submit(job("0"))
        replies.wait(1)
        model.fails = Panic("the model failed")  # type: ignore[assignment]
        worker.submit(job("1"))
        replies.wait(2)
        model.fails = None
        worker.submit(job("2"))
        replies.wait(3)
        assert replies.kinds() == {"0": "answer", "1": "busy", "2": "answer"}
        assert worker.alive
    finally:
        assert worker.stop(_BOUND_S)
