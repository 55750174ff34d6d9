"""Servers on virtual time. Each runs the batches that the batcher of a real server decides on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import simpy

from cachenet.cloud_server.serving.batcher import Batch, Batcher
from cachenet.cloud_server.serving.selector import recommend
from cachenet.cloud_server.settings import Settings
from cachenet.models.export.cost import Cost
from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.probability import softmax
from cachenet.simulator.world.hardware_profiles import ServerProfile
from cachenet.simulator.world.link import after

#: Requests that a server queues at most: the server's default.
QUEUE = Settings().queue
#: Requests of a batch at most: the server's default.
MAX_BATCH = Settings().max_batch
#: Quota of a device: the server's default.
DEVICE_SHARE = Settings().device_share


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """A request.

    Attributes:
        device: Name of the device.
        logits: The full model's logits for the picture.
        recent: Recent labels of the device.
        on_reply: Called with logits, recommended submodel and error; logits are None after an error.
    """

    device: str
    logits: Any
    recent: tuple[int, ...]
    on_reply: Callable[[Any, str | None, str], object]


class Servers:
    """Replicas of the server. The broker gives them requests in turn."""

    def __init__(
        self, env: simpy.Environment, profile: ServerProfile, manifest: Manifest, full: Cost, replicas: int = 1
    ) -> None:
        self._env, self._profile, self._full = env, profile, full
        self._manifest, self._temperature = manifest, manifest.models[manifest.only("full")].temperature
        self._batchers: list[Batcher[ServerRequest]] = [
            Batcher(lambda: env.now, QUEUE, MAX_BATCH, DEVICE_SHARE) for _ in range(replicas)
        ]
        self._busy = [False] * replicas
        self._next = 0

    def offer(self, request: ServerRequest, budget_s: float, background: bool = False) -> None:
        """Take a request that must be answered within ``budget_s`` seconds; ``background``: at low priority."""
        which, self._next = self._next, (self._next + 1) % len(self._batchers)
        refused = self._batchers[which].offer(request, request.device, budget_s, background)
        if refused is not None:
            refused.item.on_reply(None, None, "refused: busy")
        if not self._busy[which]:
            self._run_batch(which)

    def _run_batch(self, which: int) -> None:
        batch = self._batchers[which].take()
        for queued in batch.expired:
            queued.item.on_reply(None, None, "refused: expired")
        self._busy[which] = bool(batch.ready)
        if batch.ready:
            seconds = self._profile.seconds(self._full, len(batch.ready))
            after(self._env, seconds, partial(self._finish, which, batch, 1000 * seconds / len(batch.ready)))

    def _finish(self, which: int, batch: Batch[ServerRequest], cost_ms: float) -> None:
        self._batchers[which].done(batch, [cost_ms] * len(batch.ready))
        for request in (queued.item for queued in batch.ready):
            advice = recommend(self._manifest, softmax(request.logits, self._temperature), request.recent, "")
            request.on_reply(request.logits, advice, "")
        self._run_batch(which)
