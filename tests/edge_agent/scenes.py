"""A camera with a bundle of detectors in the test's own process, and a fake server."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.camera import Camera
from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.remote import POSTED, CloudClient, Outcome
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.sources import Source, SourceFrame
from cachenet.edge_agent.updates.model_loading import open_model
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.detect.detections import Detections
from cachenet.shared.cascade.detect.types import SceneAnswer, SceneReply
from cachenet.shared.inference.image import Picture
from tests.edge_agent.agents import Pictures


class Footage(Pictures):
    """A source of given pictures."""

    def __init__(self, shown: Sequence[Picture]) -> None:
        super().__init__(0)
        self._shown = shown

    def __iter__(self) -> Iterator[SourceFrame]:
        yield from map(SourceFrame, self._shown)


class Server:
    """A full model that answers each posted frame ``delay`` frames later, or never."""

    input = None
    bytes_up = bytes_down = 0

    def __init__(self, bundle: Bundle, delay: int | None) -> None:
        self._full = open_model(bundle.manifest, "full", bundle.find, "cpu", 1)
        self._delay, self._newest = delay, -1
        self._recommended = next(iter(bundle.manifest.submodels()), None)
        self._due: deque[SceneReply] = deque()
        self._due_audits: deque[SceneReply] = deque()
        self.asked = 0

    def post(self, miss: Any, picture: Callable[[], Picture]) -> Outcome:
        self.asked += 1
        self._newest = miss.frame.index
        if self._delay is not None:
            self._due.append(self._reply(miss.frame.index, picture()))
        return Outcome(None, POSTED)

    def audit(self, index: int, picture: Picture) -> bool:
        if self._delay is not None:
            self._due_audits.append(self._reply(index, picture))
        return True

    def _reply(self, index: int, picture: Picture) -> SceneReply:
        found = cast(Detections, self._full(picture))  # type: ignore[operator]
        return SceneReply(index, found, self._recommended)

    def late(self) -> list[SceneReply]:
        return self._take(self._due)

    def audited(self) -> list[SceneReply]:
        return self._take(self._due_audits)

    def _take(self, due: deque[SceneReply]) -> list[SceneReply]:
        """The replies whose frame is ``delay`` frames ago; called twice a frame, before and after it."""
        taken = []
        while due and self._now - due[0].frame >= cast(int, self._delay):
            taken.append(due.popleft())
        return taken

    #: Frame that is answered next.
    _now = 0

    def follow(self, answered: Any) -> None:
        self._now = answered.answer.frame + 1

    def stop(self) -> None:
        """Nothing to do."""


def agent_of(
    bundle: Bundle, shown: list[Picture] | Source, server: Server | None = None, **settings: Any
) -> tuple[Agent, list[SceneAnswer]]:
    """An agent with one camera of a source or of pictures, and the list in which its answers will be."""
    source = Footage(shown) if isinstance(shown, list) else shown
    agent = Agent(Settings(provider="cpu", threads=1, **settings), [source], (), None, bundle)
    (camera,) = agent.cameras
    answers: list[SceneAnswer] = []
    agent.observers.append(lambda answered: answers.append(cast(SceneAnswer, answered.answer)))
    if server is not None:
        camera.uses_cloud = camera.active_bundle._uses_cloud = True
        camera._cloud = cast(CloudClient, server)
        agent.observers.append(server.follow)
    return agent, answers


def run(agent: Agent) -> Camera:
    agent.run(JsonLinesWriter(""))
    (camera,) = agent.cameras
    return camera
