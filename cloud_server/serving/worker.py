"""The one thread that runs the full model. One, because the model's own threads share the processors already: two
runs at a time would each take twice as long and batch half as well."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cachenet.cloud_server.serving.batcher import Batcher, Waiting
from cachenet.cloud_server.serving.selector import recommend
from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.probability import softmax
from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.inference.early_exit import ExitResult, RequestContext
from cachenet.shared.inference.engine import EngineError, Logits
from cachenet.shared.inference.image import BadPicture, Tensor
from cachenet.shared.transport.protocol import Answer, Rejection, Request, Timing

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """A request that can be answered: who asks, what, and the picture as it came."""

    device: str
    request: Request
    picture: bytes


class Model(Protocol):
    """What the worker needs of ``FullModel``."""

    name: str
    sha256: str

    def prepare(self, picture: bytes) -> Tensor: ...

    def run(self, tensors: Sequence[Tensor], asked: Sequence[RequestContext | None]) -> Sequence[ExitResult]: ...


class Worker:
    """Takes jobs and calls ``reply`` exactly once for each, on its own thread but for those that ``stop`` refuses;
    ``ran`` after every batch."""

    def __init__(
        self,
        model: Model,
        manifest: Manifest,
        queue: int,
        max_batch: int,
        reply: Callable[[Job, Answer | Rejection], None],
        ran: Callable[[], None],
        saw: Callable[[Job, Logits], None] = lambda _job, _logits: None,
    ) -> None:
        """``saw``: hears what the full model said of each picture that it has run for as a whole."""
        #: What advice goes by; may be replaced at any time by one with other submodels.
        self.manifest = manifest
        self._model, self._saw = model, saw
        self._temperature = manifest.models[model.name].temperature
        self._batcher: Batcher[Job] = Batcher(time.monotonic, queue, max_batch)
        self._reply, self._ran = reply, ran
        self._news = threading.Condition()
        self._stopping = False
        self._thread = SupervisedThread("full-model", self._work)

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: Job) -> bool:
        """Queue ``job``. False if the queue is full or the worker is stopping: refuse it then."""
        with self._news:
            taken = not self._stopping and self._batcher.offer(job, job.request.budget_ms / 1000, job.request.audit)
            self._news.notify()
        return taken

    @property
    def alive(self) -> bool:
        """Whether it takes jobs from the queue."""
        return self._thread.alive

    @property
    def fault(self) -> str:
        """The exception that its thread failed with and has not recovered from; empty if there is none."""
        return self._thread.fault

    @property
    def waiting(self) -> int:
        """How many jobs are in the queue."""
        return len(self._batcher)

    def stop(self, patience_s: float) -> bool:
        """Refuse what waits and finish the batch in hand. False if that took longer than ``patience_s``."""
        with self._news:
            self._stopping = True
            self._thread.stopping.set()
            left = self._batcher.drain()
            self._news.notify()
        for job in left:
            self._say(job, Rejection("busy", "the server is stopping"))
        return self._thread.stop(patience_s)

    def _work(self) -> None:
        """Wait for the next batch and run it."""
        with self._news:
            self._news.wait_for(lambda: self._stopping or len(self._batcher) > 0)
            if self._stopping:
                return
            batch = self._batcher.take()
        for waiting in batch.expired:
            self._say(waiting.item, Rejection("expired", "its time ran out in the server's queue"))
        if batch.ready:
            for waiting, said in zip(batch.ready, self._judge(batch.ready), strict=True):
                self._say(waiting.item, said)
            self._ran()

    def _say(self, job: Job, said: Answer | Rejection) -> None:
        try:
            self._reply(job, said)
        except BaseException:
            log.exception("the reply to %s failed", job.device)

    def _judge(self, batch: Sequence[Waiting[Job]]) -> list[Answer | Rejection]:
        """An answer or a refusal for every job, in order, whatever happens."""
        try:
            return self._answers(batch)
        except EngineError as error:
            log.error("%s: %s", self._model.name, error)
        except BaseException:  # a panic in Rust code is no ``Exception``, and every job wants its reply
            log.exception("a batch of %d failed", len(batch))
        return [Rejection("busy", "the full model failed; see the server's log")] * len(batch)

    def _answers(self, batch: Sequence[Waiting[Job]]) -> list[Answer | Rejection]:
        begun = time.monotonic()
        inputs = [self._prepare(waiting.item) for waiting in batch]
        ready = [(tensor, waiting.item) for tensor, waiting in zip(inputs, batch, strict=True)]
        tensors = [tensor for tensor, _ in ready if not isinstance(tensor, Rejection)]
        asked = [_question(job) for tensor, job in ready if not isinstance(tensor, Rejection)]
        decoded = time.monotonic()
        passed = iter(self._model.run(tensors, asked) if tensors else ())
        decode_ms, run_ms = (decoded - begun) * 1000, (time.monotonic() - decoded) * 1000
        said: list[Answer | Rejection] = []
        for waiting, tensor in zip(batch, inputs, strict=True):
            if isinstance(tensor, Rejection):
                said.append(tensor)
            else:
                timing = Timing((begun - waiting.arrived) * 1000, decode_ms, run_ms, len(tensors))
                said.append(self._answer(waiting.item, next(passed), timing))
        return said

    def _prepare(self, job: Job) -> Tensor | Rejection:
        try:
            return self._model.prepare(job.picture)
        except BadPicture as error:
            return Rejection("bad-input", str(error))

    def _answer(self, job: Job, passed: ExitResult, timing: Timing) -> Answer:
        logits = passed.logits
        if passed.layer is None:
            self._saw(job, logits)
        advice = recommend(self.manifest, softmax(logits, self._temperature), job.request.recent)
        return Answer(logits.astype("<f4").tobytes(), self._model.sha256, advice, timing, passed.risk)


def _question(job: Job) -> RequestContext | None:
    """What a cache between the model's layers must know; None for what checks others, which none may answer."""
    request = job.request
    return None if request.audit else RequestContext(request.recent, request.risk, job.device)
