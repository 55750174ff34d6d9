"""Who watches a running agent beside its output: metrics, the preview, the video, the misses, the results over MQTT."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edge_agent import settings as checks
from edge_agent.agent import Agent
from edge_agent.camera import Answered, Camera
from edge_agent.composition import DeploymentError
from edge_agent.recorder import Recorder
from edge_agent.source import Live, Pipe
from shared import config


@contextmanager
def watchers(agent: Agent) -> Iterator[None]:
    """Have those watch that the settings name while the block runs; what is not asked for is not even imported. Raises
    ``DeploymentError``."""
    settings, observers = agent.settings, agent.observers
    regions = {own.name: checks.region(own.region) if own.region else None for own in settings.each()}
    with ExitStack() as stack:
        if settings.metrics:
            from edge_agent.metrics import endpoint

            with _named(f"--metrics {settings.metrics}"):
                stack.enter_context(endpoint(agent, *config.endpoint(settings.metrics)))
        if settings.preview:
            from edge_agent.preview import Preview

            preview = Preview(settings.device, regions)
            with _named(f"--preview {settings.preview}"):
                stack.enter_context(preview.serve(*config.endpoint(settings.preview)))
            observers.append(preview.show)
        if saved := [camera for camera in agent.cameras if camera.settings.save]:
            from edge_agent.saver import Saver

            savers = {}
            for camera in saved:
                with _named(f"--save {camera.settings.save}"):
                    path, live = Path(camera.settings.save), _live(camera)
                    own, file = camera.settings.fps, camera.source.fps
                    saver = Saver(path, live, own or file, regions[camera.name], own_times=own is None)
                stack.callback(saver.close)
                savers[camera.name] = saver

            def save(seen: Answered) -> None:
                if (saver := savers.get(seen.line.camera)) is not None:
                    saver.show(seen)

            observers.append(save)
        if settings.misses:
            from edge_agent.misses import Misses

            with _named(f"--misses {settings.misses}"):
                live = any(_live(camera) for camera in agent.cameras)
                misses = Misses(Path(settings.misses), checks.size(settings.misses_budget), live, regions)
            stack.callback(misses.close)
            observers.append(misses.show)
        if agent.link is not None and (settings.results or settings.home_assistant):
            from edge_agent.results import Results

            observers.append(Results(agent.link.publish, settings.device).show)
        yield


def _live(camera: Camera) -> bool:
    source = camera.source
    return isinstance(source.source if isinstance(source, Recorder) else source, Live | Pipe)


@contextmanager
def _named(setting: str) -> Iterator[None]:
    """Say of which setting it is the trouble."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise DeploymentError(f"{setting}: {getattr(error, 'strerror', None) or error}") from None
