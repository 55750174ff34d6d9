"""Frames that a device stores while there is no server: real processes and a real broker."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cachenet.cloud_server.finetune.request_history import RequestHistory
from cachenet.cloud_server.serving.full_model import load_full
from cachenet.cloud_server.serving.server import Server
from cachenet.cloud_server.serving.worker import Job
from cachenet.edge_agent.outbox.database import OutboxFile
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.transport.mqtt import Address
from cachenet.shared.transport.protocol import Answer, DetectionAnswer
from cachenet.shared.transport.recent_frames import RecentFrame
from tests.broker import Mosquitto
from tests.bundles import tiny_bundle
from tests.e2e.agents import AgentProcess, agents
from tests.e2e.servers import until

__all__ = ["agents"]


class Collector:
    """A server's history for fine-tuning, and the ids of the requests in it."""

    def __init__(self) -> None:
        self.history = RequestHistory(time.monotonic, 1 << 30)
        self.ids: Counter[str] = Counter()
        #: Called after a frame has joined the history, and before its answer is sent.
        self.on_frame: Callable[[], None] = lambda: None

    def add(self, job: Job, answer: Answer | DetectionAnswer) -> None:
        self.history.add(RecentFrame(job.device, job.picture, answer))
        self.ids[job.request.id] += 1
        self.on_frame()


def stored(store: Path) -> set[str]:
    """The ids in the outbox of an agent that has ended."""
    file = OutboxFile(store)
    try:
        return {frame.hex() for frame, _, _ in file.index()}
    finally:
        file.close()


def test_every_stored_frame_reaches_the_server_exactly_once_although_the_agent_is_killed_while_it_sends(
    frames: Path, broker: Mosquitto, agents: Callable[..., AgentProcess], tmp_path: Path
) -> None:
    bundle, store = Bundle(tiny_bundle(tmp_path / "bundle", risk=0.9)), tmp_path / "store"
    flags = (
        str(frames), "--bundle", str(bundle.directory), "--broker", broker.url, "--store", str(store),
        "--set", "outbox=10MB", "--set", "levels=base,cloud",
    )  # fmt: skip
    broker.kill()
    offline = agents(*flags, "--fps", "30", "--frames", "60", "--set", "audit_share=0.1").finish()
    waiting = stored(store)
    counts = offline["outbox"]
    assert offline["audited"] == offline["audits"]["sent"] == 0, "what is stored was not sent"
    assert counts["stored"] == counts["waiting"] == len(waiting) > 4
    assert counts["stored"] > offline["fallbacks"] - counts["dropped"]["rate"], "audits, too"

    broker.start()
    collector = Collector()
    full = load_full(bundle, "cpu", 1, None)
    server = Server(bundle, full, [Address("127.0.0.1", broker.port)], 64, 16, 0.25, collector.add)
    server.start()
    try:
        online = (*flags, "--fps", "5", "--set", "audit_share=0", "--set", "levels=base,cloud", "--mode", "async")
        killed = agents(*online)
        collector.on_frame = lambda: (
            killed.process.kill() if len(waiting & set(collector.ids)) == 2 and killed.process.poll() is None else None
        )
        until(lambda: killed.process.poll() is not None)
        again = agents(*online)
        until(lambda: waiting <= set(collector.ids))
        again.wait(lambda: not (store / "outbox.sqlite").exists())
        summary, _ = again.stop()
    finally:
        server.stop()
    assert summary["outbox"]["sent"] + 1 == len(waiting), "the answer to the first one had come"
    assert {collector.ids[one] for one in waiting} == {1}
    assert len(collector.history) >= len(waiting)
    assert server.counters.read().refusals.get("duplicate", 0) >= 1, "the frame whose answer was lost was sent again"
