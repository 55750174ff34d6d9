"""The agent as a library: a program gives frames and gets answers. ``cachenet`` exports the public names."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import msgspec
import numpy as np

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.outputs import report
from cachenet.edge_agent.outputs.observers import attach_observers
from cachenet.edge_agent.preparation import prepare
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.sources import Files, Shot
from cachenet.shared.cascade.types import UNKNOWN, Level
from cachenet.shared.command import config
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.image import Picture

#: Settings of sources and of files that the program itself reads or writes.
_OF_THE_PROGRAM = {"source", "camera", "fps", "frames", "frozen", "record", "save", "output", "output_max", "summary"}
#: Seconds that ``connect`` waits for the first model.
TIMEOUT_S = 120.0
#: Corrections that are kept until ``Device.corrections`` takes them; older ones are dropped.
_MAX_CORRECTIONS = 256


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one frame.

    Attributes:
        label: Text of the label; None for a frame that shows none of the bundle's labels.
        confidence: Probability of the label, 0 to 1.
        risk: Probability that the full model would give another label, 0 to 1; 0 for the full model's own answer.
        level: Level of the cascade that answered: ``frames``, ``submodels``, ``base``, ``full``, ``cloud`` or
            ``fallback``.
        model: Name of the model that answered; empty for a held answer.
        latency_ms: Time from the frame to the answer, milliseconds; 0 for a correction.
        reason: Why no local level could answer; empty for a hit.
        frame: Number of the frame, from 0.
        time: Time of the answer, seconds since the epoch.
    """

    label: str | None
    confidence: float
    risk: float
    level: Level
    model: str
    latency_ms: float
    reason: str
    frame: int
    time: float


class _Lines(report.Sink):
    """Keeps the lines of an agent's output in memory."""

    def __init__(self) -> None:
        super().__init__("")
        self.answer: Answer | None = None
        self.corrections: deque[Answer] = deque(maxlen=_MAX_CORRECTIONS)

    def write(self, line: msgspec.Struct) -> None:
        assert isinstance(line, report.Line)
        own = {name: getattr(line, name) for name in Answer.__slots__}
        answer = Answer(**own | {"label": None if line.label == UNKNOWN else line.label})
        if line.correction:
            self.corrections.append(answer)
        else:
            self.answer = answer


class Device:
    """Answers frames as ``edge-agent run`` does. ``load`` and ``connect`` make one.

    Call it with the frames of one camera, in their order: answers depend on the frames before. Calls from several
    threads are answered one after another. The risk models learn while it runs.

    Example:
        >>> import cachenet, numpy as np
        >>> with cachenet.load("cifar10") as device:
        ...     answer = device(np.zeros((32, 32, 3), np.uint8))
        >>> answer.frame, answer.latency_ms > 0
        (0, True)
    """

    def __init__(self, settings: Settings, timeout_s: float | None = None) -> None:
        """Use ``load`` or ``connect``. See those for ``timeout_s``. Raises ``UserError``."""
        self._lines, self._frames, self._lock = _Lines(), 0, threading.Lock()
        with _user_errors(), ExitStack() as opened:
            parts = prepare(settings)
            if parts.store is not None:
                opened.callback(parts.store.unlock)
            agent = self._agent = Agent(settings, [Files([], None)], *parts)
            (self._camera,) = agent.cameras
            opened.callback(self._camera.close)
            opened.callback(agent.close)
            opened.callback(agent.stop)
            agent.start()
            opened.enter_context(attach_observers(agent))
            self._wait(timeout_s)
            self._end = weakref.finalize(self, opened.pop_all().close)

    def __call__(self, frame: Picture) -> Answer:
        """Answer one frame.

        Args:
            frame: Pixels, BGR as OpenCV reads them, (height, width, 3) uint8. Not changed, and not used after the call.

        Raises:
            UserError: The array is no such frame, or the device is closed.
        """
        shot = Shot(_checked(frame))
        with self._lock:
            if not self._end.alive:
                raise UserError("this device is closed; load or connect another")
            index, self._frames = self._frames, self._frames + 1
            self._camera.step(index, shot, self._lines)
            assert self._lines.answer is not None
            return self._lines.answer

    def corrections(self) -> list[Answer]:
        """Answers that replace earlier ones, each given once: with ``mode="async"`` the server's answer comes later.
        ``Answer.frame`` tells whose answer each replaces."""
        with self._lock:
            found = list(self._lines.corrections)
            self._lines.corrections.clear()
            return found

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the bundle that answers now."""
        manifest = self._camera.active_bundle.manifest
        assert manifest is not None
        return manifest.labels

    def summary(self) -> dict[str, Any]:
        """Counts and latencies so far, as ``edge-agent run --json`` prints them."""
        with self._lock:
            return self._agent.summary()

    def close(self) -> None:
        """Stop loading models and disconnect. Closing twice does no harm."""
        with self._lock:
            self._end()

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self, timeout_s: float | None) -> None:
        """Wait until the models that may be used are loaded."""
        begun = time.monotonic()

        def check() -> None:
            if timeout_s is not None and time.monotonic() - begun > timeout_s:
                why = self._agent.error or "the server offers none"
                raise UserError(f"no model could be loaded within {timeout_s:g} s: {why}")

        self._camera.wait_for_bundle(check)
        self._camera.wait_for_models()


def load(bundle: str | os.PathLike[str], **settings: Any) -> Device:
    """Open a bundle. Without the setting ``broker`` no network is used: the bundle's full model answers misses.

    Args:
        bundle: Directory of a bundle, or the name of an installed one: ``cifar10``, ``imagenet-lite``.
        settings: Settings of ``edge-agent run``, such as ``max_disagreement=0.01``.

    Raises:
        UserError: The bundle or a setting cannot be used. The message says which and why.
    """
    return Device(_settings(bundle=bundle, **settings))


def connect(broker: str, *, timeout_s: float | None = TIMEOUT_S, **settings: Any) -> Device:
    """Connect to a server. Models come from its catalogue and are kept in ``store``; the server answers misses.

    Args:
        broker: Address of the MQTT broker: ``mqtt[s]://[user@]host[:port]``.
        timeout_s: Longest time to wait for the first model, seconds; None for no limit. A store that has models
            answers without a connection.
        settings: Settings of ``edge-agent run``, such as ``device="porch"`` or ``password_file="porch.password"``.

    Raises:
        UserError: The broker or a setting cannot be used, or no model arrived in time. The message says why.
    """
    return Device(_settings(broker=broker, **settings), timeout_s)


def _settings(**settings: Any) -> Settings:
    known = [name for name in Settings.__struct_fields__ if name not in _OF_THE_PROGRAM]
    for name in settings:
        if why := config.replaced(Settings, name, name):
            raise UserError(why)
        if name not in known:
            raise UserError(f"{name}: no setting of a device; known are {', '.join(known)}")
    values = {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in settings.items()
        if value is not None
    }
    try:
        return msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        why, _, where = str(error).partition(" - at `$.")
        raise UserError(f"{where.rstrip('`')}: {why}") from None


def _checked(frame: Picture) -> Picture:
    if not isinstance(frame, np.ndarray):
        raise UserError(f"a frame is a NumPy array, BGR (height, width, 3) uint8, not {type(frame).__name__}")
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise UserError(f"a frame is BGR (height, width, 3) uint8, not {frame.shape} {frame.dtype}")
    return np.ascontiguousarray(frame)


@contextmanager
def _user_errors() -> Iterator[None]:
    """Raise what settings and files cannot do as ``UserError``."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error
    except ValueError as error:
        raise UserError(str(error)) from error
