"""The agent as a library: a program gives frames and gets answers. ``cachenet`` exports the public names."""

from __future__ import annotations

import os
import re
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
from cachenet.edge_agent.device_cascade import DeploymentError
from cachenet.edge_agent.outputs import report
from cachenet.edge_agent.outputs.observers import attach_observers
from cachenet.edge_agent.outputs.report import Object
from cachenet.edge_agent.preparation import prepare
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.sources import Files, SourceFrame
from cachenet.shared.cascade.types import UNKNOWN, Level
from cachenet.shared.command import config
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.image import Picture

#: Settings of sources and of files that the program itself reads or writes.
_OF_THE_PROGRAM = {
    *("source", "camera", "zone", "fps", "frames", "frozen", "record", "save", "output", "output_max", "summary"),
}
#: Seconds that ``connect`` waits for the first model.
TIMEOUT_S = 120.0
#: ``--set`` or a flag in a message of the agent.
_FLAG = re.compile(r"(?<![\w./-])--(set )?([a-z-]+)")
#: Corrections that are kept until ``Device.corrections`` takes them; older ones are dropped.
_MAX_CORRECTIONS = 256


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one frame.

    Attributes:
        label: Text of the label; None for a frame that shows none of the bundle's labels, and with a detector.
        objects: Objects that a detector finds; empty for nothing, None with a classifier.
        confidence: Probability of the label, or expected F1 of the objects, 0 to 1.
        risk: Probability that the full model would give another label, or 1 - the expected F1, 0 to 1; 0 for the full
            model's own answer.
        level: Level of the cascade that answered: ``frames``, ``tracks``, ``submodels``, ``base``, ``full``, ``cloud``
            or ``fallback``.
        model: Name of the model that answered; empty for a held answer.
        latency_ms: Time from the frame to the answer, milliseconds; 0 for a correction.
        reason: Why no local level could answer; empty for a hit.
        frame: Number of the frame, from 0.
        time: Time of the answer, seconds since the epoch.
    """

    label: str | None
    objects: tuple[Object, ...] | None
    confidence: float
    risk: float
    level: Level
    model: str
    latency_ms: float
    reason: str
    frame: int
    time: float


class _Lines(report.JsonLinesWriter):
    """Keeps the lines of an agent's output in memory."""

    def __init__(self) -> None:
        super().__init__("")
        self.answer: Answer | None = None
        self.corrections: deque[Answer] = deque(maxlen=_MAX_CORRECTIONS)

    def write(self, line: msgspec.Struct) -> None:
        assert isinstance(line, report.AnswerLine)
        own = {name: getattr(line, name) for name in Answer.__slots__}
        answer = Answer(**own | {"label": None if line.label in (UNKNOWN, "") else line.label})
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
        self._lines, self._frames = _Lines(), 0
        # Reentrant: a signal handler may call methods while its thread is in one.
        self._lock, self._busy, self._closing = threading.RLock(), False, False
        with _user_errors(), ExitStack() as opened:
            settings.validate()
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
            UserError: The array is no such frame, the device is closed, or the caller is a signal handler that
                interrupts another call.
        """
        shot = SourceFrame(_checked(frame))
        with self._exclusive() as interrupted:
            if interrupted:
                raise UserError("this device is busy with the call that the signal handler interrupts")
            if self._closing or not self._end.alive:
                raise UserError("this device is closed; load or connect another")
            index, self._frames = self._frames, self._frames + 1
            try:
                self._camera.step(index, shot, self._lines)
            except Exception as error:
                self._camera.deciding = None
                self._camera.errors += not isinstance(error, DeploymentError)
                if isinstance(error, UserError):
                    raise UserError(_with_arguments(str(error))) from error
                raise
            assert self._lines.answer is not None
            return self._lines.answer

    def corrections(self) -> list[Answer]:
        """Answers that replace earlier ones, each given once: with ``mode="async"`` the server's answer comes later.
        ``Answer.frame`` tells whose answer each replaces."""
        with self._exclusive():
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
        with self._exclusive():
            return self._agent.summary()

    def close(self) -> None:
        """Stop loading models and disconnect. Closing twice does no harm.

        A signal handler may call this: the device is then closed at the end of the call that the handler interrupts.
        """
        with self._lock:
            self._closing = True
            if not self._busy:
                self._end()

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _exclusive(self) -> Iterator[bool]:
        """Hold the lock, and close the device at the end if a signal handler has called ``close`` meanwhile.

        Yields whether the caller is a signal handler that interrupts another such block.
        """
        with self._lock:
            outer, self._busy = self._busy, True
            try:
                yield outer
            finally:
                self._busy = outer
                if self._closing and not outer:
                    self._end()

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
        broker: Address of the MQTT broker: ``mqtt[s]://[user@]host[:port]``; commas separate several brokers.
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
        if name in _OF_THE_PROGRAM:
            raise UserError(f"{name}: no setting of a device; the program itself reads frames and writes answers")
        if name not in known:
            raise UserError(f"{name}: no setting of a device{config.did_you_mean(name, known)}")
    values = {
        name: config.convert(Settings, name, os.fspath(value) if isinstance(value, os.PathLike) else value, name)
        for name, value in settings.items()
        if value is not None
    }
    return Settings(**values)


def _checked(frame: Picture) -> Picture:
    if not isinstance(frame, np.ndarray):
        raise UserError(f"a frame is a NumPy array, BGR (height, width, 3) uint8, not {type(frame).__name__}")
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise UserError(f"a frame is BGR (height, width, 3) uint8, not {frame.shape} {frame.dtype}")
    return np.ascontiguousarray(frame)


@contextmanager
def _user_errors() -> Iterator[None]:
    """Raise what settings and files cannot do as ``UserError`` that names arguments instead of flags."""
    try:
        yield
    except (UserError, OSError, ValueError) as error:
        why = str(error)
        if isinstance(error, OSError) and error.filename:
            why = f"{error.filename}: {error.strerror}"
        raise UserError(_with_arguments(why)) from error


def _with_arguments(message: str) -> str:
    """The message with arguments of ``load`` and ``connect`` for flags of ``edge-agent run``; other flags stay."""

    def argument(flag: re.Match[str]) -> str:
        name = flag[2].replace("-", "_")
        return name if flag[1] or name in Settings.__struct_fields__ else flag[0]

    return _FLAG.sub(argument, message)
