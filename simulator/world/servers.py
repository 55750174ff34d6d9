"""The servers of a replay, on virtual time: each does what the batcher decides that a real one runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import simpy

from cachenet.cloud_server.serving.batcher import Batcher
from cachenet.cloud_server.serving.selector import recommend
from cachenet.cloud_server.settings import Settings
from cachenet.models.export.cost import Cost
from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.probability import softmax
from cachenet.simulator.world import machines
from cachenet.simulator.world.wire import after

#: Of a server's queue and batch, as it is by default (``cloud_server.settings``).
QUEUE, LARGEST = Settings().queue, Settings().max_batch


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """A picture at a server: whose full model ``logits`` are known, and who is to ``hear`` the answer or, in words, why
    there is none."""

    logits: Any
    recent: tuple[int, ...]
    hear: Callable[[Any, str | None, str], object]


class Servers:
    """Replicas of the server, each with the batcher that a real one has; the broker gives requests to them in turn."""

    def __init__(
        self,
        env: simpy.Environment,
        profile: machines.ServerProfile,
        manifest: Manifest,
        full: Cost,
        replicas: int = 1,
    ) -> None:
        self._env, self._profile, self._full = env, profile, full
        self._manifest, self._temperature = manifest, manifest.models[manifest.only("full")].temperature
        self._batchers: list[Batcher[ServerRequest]] = [
            Batcher(lambda: env.now, QUEUE, LARGEST) for _ in range(replicas)
        ]
        self._working = [False] * replicas
        self._next = 0

    def offer(self, request: ServerRequest, budget_s: float, patient: bool = False) -> None:
        """A request has come through the broker."""
        which, self._next = self._next, (self._next + 1) % len(self._batchers)
        if not self._batchers[which].offer(request, budget_s, patient):
            request.hear(None, None, "refused: busy")
        elif not self._working[which]:
            self._work(which)

    def _work(self, which: int) -> None:
        batch = self._batchers[which].take()
        for waiting in batch.expired:
            waiting.item.hear(None, None, "refused: expired")
        self._working[which] = bool(batch.ready)
        if batch.ready:
            took = self._profile.seconds(self._full, len(batch.ready))
            after(self._env, took, partial(self._done, which, [waiting.item for waiting in batch.ready]))

    def _done(self, which: int, requests: list[ServerRequest]) -> None:
        for request in requests:
            advice = recommend(self._manifest, softmax(request.logits, self._temperature), request.recent)
            request.hear(request.logits, advice, "")
        self._work(which)
