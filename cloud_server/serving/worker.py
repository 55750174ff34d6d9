"""The threads that run the full model.

A model in this process has one thread, because its own threads already share the processors: two runs at a time would
each take twice as long, and their batches would be half as large. A model on a V2 server has a thread for each request
on its way there: that server makes the batches.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cachenet.cloud_server.serving.batcher import Batcher, Refused
from cachenet.cloud_server.serving.fair_queue import QueuedItem
from cachenet.cloud_server.serving.selector import recommend
from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.detect.detections import Detections
from cachenet.shared.cascade.probability import softmax
from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.inference.early_exit import ExitResult, RequestContext
from cachenet.shared.inference.engine import EngineError
from cachenet.shared.inference.image import BadPicture
from cachenet.shared.transport.mqtt import Link
from cachenet.shared.transport.protocol import Answer, DetectionAnswer, Rejection, Reply, Request, Timing

log = logging.getLogger(__name__)

#: Reply to jobs that do not run any more.
_STOPPING = Rejection("busy", "the server is stopping")
#: Reply to jobs whose batch failed. A V2 server that is away fails all requests for some seconds at least, and each
#: picture that is sent meanwhile is lost.
_FAILED = Rejection("busy", "the full model failed; see the server's log", retry_after_ms=1000)


@dataclass(frozen=True, slots=True)
class Job:
    """A valid request of a device, with the encoded picture.

    Attributes:
        link: Connection over which the request came and the reply goes.
    """

    device: str
    request: Request
    picture: bytes
    link: Link | None = None

    @property
    def context(self) -> RequestContext | None:
        """Context for early exits; None for an audit, which must run through the whole model."""
        request = self.request
        return None if request.audit else RequestContext(request.recent, request.risk, self.device)


class Model(Protocol):
    """The part of ``FullModel`` and ``FullDetector`` that the worker uses; ``prepare`` gives an input of ``run``."""

    name: str
    sha256: str

    def prepare(self, picture: bytes) -> Any: ...

    def run(
        self, inputs: Sequence[Any], contexts: Sequence[RequestContext | None]
    ) -> Sequence[ExitResult | Detections]: ...


class Worker:
    """Runs queued jobs in batches, and replies to each job exactly once."""

    def __init__(
        self,
        model: Model,
        manifest: Manifest,
        queue: int,
        max_batch: int,
        device_share: float,
        reply: Callable[[Job, Reply], None],
        on_batch: Callable[[], None],
        on_full_result: Callable[[Job, Answer | DetectionAnswer], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        concurrency: int = 1,
    ) -> None:
        """Create a worker that is not yet started.

        Args:
            model: The full model.
            manifest: Manifest of the served bundle.
            queue: Largest number of queued jobs.
            max_batch: Largest number of jobs in a batch.
            device_share: Quota of a device while others wait, as a share of the threads' time, above 0.
            reply: Sends a reply; called on the worker's threads, and by ``stop``.
            on_batch: Called after every batch.
            on_full_result: Called with the answer to every picture that ran through the whole model.
            clock: Returns the time, seconds.
            concurrency: Number of batches that run at a time, each in a thread of its own.
        """
        #: Manifest that submodels are recommended from; may be replaced at any time.
        self.manifest = manifest
        self._model = model
        self._temperature = manifest.models[model.name].temperature
        self._batcher: Batcher[Job] = Batcher(clock, queue, max_batch, device_share)
        self._clock, self._concurrency = clock, concurrency
        self._reply, self._on_batch, self._on_full_result = reply, on_batch, on_full_result
        self._changed = threading.Condition()
        self._stopping = False
        #: Error of the last run of the model, which is logged once; empty after an answer.
        self._failure = ""
        #: The threads, for their state.
        self.threads = [SupervisedThread("full-model", self._work) for _ in range(concurrency)]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def submit(self, job: Job) -> Refused[Job] | None:
        """Queue ``job``. Returns the job, this one or another, that the caller must refuse; None for none."""
        with self._changed:
            if not self._stopping:
                self._changed.notify()
                return self._batcher.offer(job, job.device, job.request.budget_ms / 1000, job.request.audit)
        self._send(job, _STOPPING)
        return None

    @property
    def waiting(self) -> int:
        """Number of queued jobs."""
        return len(self._batcher)

    def stop(self, timeout_s: float) -> bool:
        """Refuse all queued jobs and wait for running batches. False if one runs longer than ``timeout_s``."""
        ends = time.monotonic() + timeout_s
        with self._changed:
            self._stopping = True
            for thread in self.threads:
                thread.stopping.set()
            jobs = self._batcher.drain()
            self._changed.notify_all()
        for job in jobs:
            self._send(job, _STOPPING)
        return all(thread.stop(max(0.0, ends - time.monotonic())) for thread in self.threads)

    def _work(self) -> None:
        """Wait for the next batch and run it."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or len(self._batcher) > 0)
            if self._stopping:
                return
            batch = self._batcher.take()
        for queued in batch.expired:
            self._send(queued.item, Rejection("expired", "the time budget ended in the server's queue"))
        costs_ms = [0.0] * len(batch.ready)
        replies = self._replies_or_rejections(batch.ready, costs_ms) if batch.ready else []
        with self._changed:  # before a reply lets its device ask again
            answered = [not isinstance(reply, Rejection) for reply in replies]
            self._batcher.done(batch, [cost / self._concurrency for cost in costs_ms], answered)
        for queued, reply in zip(batch.ready, replies, strict=True):
            self._send(queued.item, reply)
        if batch.ready:
            self._on_batch()

    def _send(self, job: Job, reply: Reply) -> None:
        try:
            self._reply(job, reply)
        except BaseException:
            log.exception("the reply to %s failed", job.device)

    def _replies_or_rejections(self, batch: Sequence[QueuedItem[Job]], costs_ms: list[float]) -> list[Reply]:
        """One reply for each job, in order, also if the model fails. Adds each job's time to ``costs_ms``."""
        try:
            replies = self._replies(batch, costs_ms)
            if self._failure and any(not isinstance(reply, Rejection) for reply in replies):
                self._failure = ""
                log.warning("%s answers again", self._model.name)
            return replies
        except EngineError as error:
            if str(error) != self._failure:  # a V2 server that is away fails every request
                self._failure = str(error)
                log.error("%s: %s", self._model.name, error)
        except BaseException:  # a panic in Rust code is not an ``Exception``, and every job must get a reply
            log.exception("a batch of %d failed", len(batch))
        return [_FAILED] * len(batch)

    def _replies(self, batch: Sequence[QueuedItem[Job]], costs_ms: list[float]) -> list[Reply]:
        started = decoded = self._clock()
        inputs = []
        for index, queued in enumerate(batch):
            inputs.append(self._prepare(queued.item))
            before, decoded = decoded, self._clock()
            costs_ms[index] += (decoded - before) * 1000
        ready = [(index, x) for index, x in enumerate(inputs) if not isinstance(x, Rejection)]
        try:
            contexts = [batch[index].item.context for index, _ in ready]
            results = iter(self._model.run([x for _, x in ready], contexts) if ready else ())
        finally:
            run_ms = (self._clock() - decoded) * 1000
            for index, _ in ready:
                costs_ms[index] += run_ms / len(ready)
        decode_ms = (decoded - started) * 1000
        replies: list[Reply] = []
        for queued, x in zip(batch, inputs, strict=True):
            if isinstance(x, Rejection):
                replies.append(x)
            else:
                timing = Timing((started - queued.arrived) * 1000, decode_ms, run_ms, len(ready))
                replies.append(self._answer(queued.item, next(results), timing))
        return replies

    def _prepare(self, job: Job) -> Any:
        """The model's input, or a ``Rejection``."""
        try:
            return self._model.prepare(job.picture)
        except BadPicture as error:
            return Rejection("bad-input", str(error))

    def _answer(self, job: Job, result: ExitResult | Detections, timing: Timing) -> Answer | DetectionAnswer:
        answer: Answer | DetectionAnswer
        if isinstance(result, Detections):
            submodel = self.manifest.better_detector(job.device)
            answer = DetectionAnswer.of(result, self._model.sha256, submodel, timing)
        else:
            posterior = softmax(result.logits, self._temperature)
            submodel = recommend(self.manifest, posterior, job.request.recent, job.device)
            scores = result.logits.astype("<f4").tobytes()
            answer = Answer(scores, self._model.sha256, submodel, timing, result.risk)
        if self._on_full_result is not None and (isinstance(result, Detections) or result.layer is None):
            self._on_full_result(job, answer)
        return answer
