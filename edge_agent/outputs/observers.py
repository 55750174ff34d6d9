"""Who watches a running agent beside its output: metrics, the preview, the video, the misses, the results over MQTT."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from cachenet.edge_agent import settings as checks
from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.camera import Answered, Observer
from cachenet.edge_agent.composition import DeploymentError
from cachenet.shared.command import config

log = logging.getLogger(__name__)


class Writer(Protocol):
    """Keeps files of what was answered."""

    @property
    def failure(self) -> str:
        """What was not written, and why; empty where all was."""


@contextmanager
def attach_observers(agent: Agent) -> Iterator[list[tuple[str, Writer]]]:
    """Have those watch that the settings name while the block runs; what is not asked for is not even imported. Yields
    the options of those that write files, with them. Raises ``DeploymentError``."""
    writers: list[tuple[str, Writer]] = []
    settings, observers = agent.settings, agent.observers
    regions = {own.name: checks.region(own.region) if own.region else None for own in settings.each()}
    with ExitStack() as stack:
        if settings.metrics:
            from cachenet.edge_agent.outputs.metrics import endpoint

            with _named(f"--metrics {settings.metrics}"):
                stack.enter_context(endpoint(agent, *config.endpoint(settings.metrics)))
        if settings.preview:
            from cachenet.edge_agent.outputs.preview import Preview

            preview = Preview(settings.device, regions)
            with _named(f"--preview {settings.preview}"):
                stack.enter_context(preview.serve(*config.endpoint(settings.preview)))
            observers.append(_guarded("the preview", preview.on_frame))
        if saved := [camera for camera in agent.cameras if camera.settings.save]:
            from cachenet.edge_agent.outputs.video_writer import VideoSaver

            savers = {}
            for camera in saved:
                with _named(f"--save {camera.settings.save}"):
                    path, live = Path(camera.settings.save), camera.live
                    own, file = camera.settings.fps, camera.source.fps
                    saver = VideoSaver(path, live, own or file, regions[camera.name], own_times=own is None)
                stack.callback(saver.close)
                savers[camera.name] = saver
                writers.append(("--save", saver))

            def save(answered: Answered) -> None:
                if (saver := savers.get(answered.line.camera)) is not None:
                    saver.on_frame(answered)

            observers.append(save)
        if settings.misses:
            from cachenet.edge_agent.outputs.misses import Misses

            with _named(f"--misses {settings.misses}"):
                live = any(camera.live for camera in agent.cameras)
                misses = Misses(Path(settings.misses), checks.parse_size(settings.misses_budget), live, regions)
            stack.callback(misses.close)
            observers.append(misses.on_frame)
            writers.append(("--misses", misses))
        if agent.link is not None and (settings.results or settings.home_assistant):
            from cachenet.edge_agent.outputs.results import Results

            observers.append(_guarded("results", Results(agent.link.publish, settings.device).on_frame))
        yield writers


def _guarded(name: str, observer: Observer) -> Observer:
    """An observer whose faults do not end the loop that calls it."""

    def observe(answered: Answered) -> None:
        try:
            observer(answered)
        except Exception:
            log.exception("%s: a frame was left out", name)

    return observe


@contextmanager
def _named(setting: str) -> Iterator[None]:
    """Say of which setting it is the trouble."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise DeploymentError(f"{setting}: {getattr(error, 'strerror', None) or error}") from None
