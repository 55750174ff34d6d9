"""Optional observers of answered frames: metrics, preview, video, misses, results and figures over MQTT."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.camera import AnsweredFrame, Observer
from cachenet.edge_agent.device_cascade import DeploymentError
from cachenet.edge_agent.doctor.health import Health
from cachenet.edge_agent.outputs.report import View
from cachenet.edge_agent.settings import parse_size
from cachenet.shared.command import config
from cachenet.shared.inference.image import parse_region

log = logging.getLogger(__name__)


class Writer(Protocol):
    """An observer that writes files."""

    @property
    def failure(self) -> str:
        """Why the files are incomplete; empty if they are complete."""


@contextmanager
def attach_observers(agent: Agent) -> Iterator[list[tuple[str, Writer]]]:
    """Attach the observers that the settings name, while the block runs. Other observers are not even imported.

    Yields:
        Observers that write files, each with its setting.

    Raises:
        DeploymentError: An output cannot be opened.
    """
    writers: list[tuple[str, Writer]] = []
    settings, observers = agent.settings, agent.observers
    views = {
        own.name: View(own.name, "", parse_region(own.region) if own.region else None, own.zone)
        for own in settings.each()
    }
    with ExitStack() as stack:
        if settings.metrics:
            from cachenet.edge_agent.outputs.metrics import endpoint

            with _naming(f"metrics {settings.metrics}"):
                stack.enter_context(endpoint(agent, *config.endpoint(settings.metrics)))
        if settings.preview:
            from cachenet.edge_agent.outputs.preview import Preview

            preview = Preview(settings.device, views)
            with _naming(f"--preview {settings.preview}"):
                stack.enter_context(preview.serve(*config.endpoint(settings.preview)))
            observers.append(_guarded("the preview", preview.on_frame))
        if saving := [loop for loop in agent.loops if loop.settings.save]:
            from cachenet.edge_agent.outputs.video_writer import VideoSaver

            savers = {}
            for loop in saving:
                with _naming(f"--save {loop.settings.save}"):
                    path, fps = Path(loop.settings.save), loop.settings.fps
                    saver = VideoSaver(
                        path, loop.live, fps or loop.source.fps, views[loop.name], file_times=fps is None
                    )
                stack.callback(saver.close)
                savers[loop.name] = saver
                writers.append(("--save", saver))

            def save(answered: AnsweredFrame) -> None:
                if (saver := savers.get(answered.line.camera)) is not None:
                    saver.on_frame(answered)

            observers.append(save)
        if settings.misses:
            from cachenet.edge_agent.outputs.misses import Misses

            with _naming(f"misses {settings.misses}"):
                live = any(loop.live for loop in agent.loops)
                misses = Misses(Path(settings.misses), parse_size(settings.misses_budget), live, views)
            stack.callback(misses.close)
            observers.append(misses.on_frame)
            writers.append(("misses", misses))
        if agent.link is not None and settings.stats:
            from cachenet.edge_agent.outputs.stats import StatsPublisher

            publisher = StatsPublisher(agent, Health(agent))
            stack.enter_context(publisher.running())
            observers.append(publisher.health.on_frame)
        if agent.link is not None and (settings.results or settings.home_assistant):
            from cachenet.edge_agent.outputs.results import Results

            observers.append(_guarded("results", Results(agent.link.publish, settings.device).on_frame))
        if agent.link is not None and agent.announcer is not None:
            from cachenet.edge_agent.outputs.snapshots import Snapshots

            observers.append(_guarded("Home Assistant", agent.announcer.on_frame))
            snapshots = Snapshots(agent.link.publish, settings.device, views)
            stack.callback(snapshots.close)
            observers.append(_guarded("snapshots", snapshots.on_frame))
            agent.on_home_assistant.append(snapshots.renew)
        yield writers


def _guarded(name: str, observer: Observer) -> Observer:
    """``observer`` without its exceptions, which would end the hot loop."""

    def observe(answered: AnsweredFrame) -> None:
        try:
            observer(answered)
        except Exception:
            log.exception("%s: failed for a frame", name)

    return observe


@contextmanager
def _naming(setting: str) -> Iterator[None]:
    """Name the setting in errors of the block."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise DeploymentError(f"{setting}: {getattr(error, 'strerror', None) or error}") from None
