"""Replay of a device's decision log: the same calls, pictures and models give the same answers to the last bit.

The replay needs the machine that wrote the log: the arithmetic of another processor may differ in the last bits. It
also needs the stream in the files that the device read: a recording of a camera is JPEG, so its pixels differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np

from cachenet.edge_agent import learner_file
from cachenet.edge_agent.device_cascade import build_device_cascade, local_model
from cachenet.edge_agent.frame_inputs import FrameInputs
from cachenet.edge_agent.outputs import decision_log
from cachenet.edge_agent.settings import Settings
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.model_cache import LocalModel
from cachenet.shared.cascade.types import Answer, Reply, Step
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import cut, parse_region
from cachenet.shared.media import pictures
from cachenet.shared.media import recording as stream
from cachenet.shared.media.signature import sign


class BadLog(UserError):
    """The file is no decision log, or a log of another bundle or stream. The message says which."""


@dataclass
class ReplayResult:
    """Result of a replay.

    Attributes:
        frames: Number of frames.
        corrections: Number of corrections after late replies.
        identical: Number of answers, corrections included, that the replay reproduces.
        first: The first answer that differs: logged, replayed. None: all answers are identical.
    """

    frames: int = 0
    corrections: int = 0
    identical: int = 0
    first: tuple[Answer | None, Answer | None] | None = None

    def compare(self, logged: Answer | None, replayed: Answer | None) -> None:
        """Count one answer."""
        if logged == replayed:
            self.identical += logged is not None
        elif self.first is None:
            self.first = logged, replayed


def replay(log: Path, bundle: Bundle, recorded: Path, advance: Callable[[], object] = lambda: None) -> ReplayResult:
    """Replay a decision log.

    Args:
        log: The decision log.
        bundle: The bundle of the device.
        recorded: Directory of the stream that the device answered.
        advance: Called after each frame.

    Raises:
        BadLog: The log does not fit the bundle or the stream.
        StreamError: The stream cannot be read.
        OSError: A file cannot be read.
    """
    result = ReplayResult()
    recording = stream.read(recorded)
    cascade: Cascade | None = None
    begun: decision_log.CascadeCreated | None = None
    step: Step | None = None
    load: Callable[[decision_log.LoggedModel, bool], LocalModel] = _no_model
    for event in events(log):
        if isinstance(event, decision_log.CascadeCreated):
            if event.version != bundle.version:
                raise BadLog(f"{log} is of version {event.version[:12]} of its bundle, not of {bundle.version[:12]}")
            begun, load = event, _loader(bundle, event.settings)
            base = load(event.base, True) if event.base is not None else None
            cascade = build_device_cascade(event.settings, bundle.manifest, base, event.asks, event.room)
            learner_file.restore(cascade.estimator, event.learned, event.version)
            continue
        if cascade is None or begun is None:
            raise BadLog(f"{log} does not begin at the beginning")
        if isinstance(event, decision_log.LookedUp):
            if event.frame >= recording.frames:
                raise BadLog(f"{log} has a frame {event.frame}, which {recorded} has not")
            frame = _frame(recorded / (recording.files % event.frame), event.frame, begun.settings)
            step = cascade.lookup(frame, event.now)
        elif isinstance(event, decision_log.Completed):
            if step is None:
                raise BadLog(f"{log} completes a frame that was never looked up")
            result.frames += 1
            reply = None if event.reply is None else _reply(event.reply)
            result.compare(event.answer, cascade.complete(step, reply, event.now, event.error))
            advance()
        elif isinstance(event, decision_log.LateReply):
            result.corrections += event.answer is not None
            result.compare(event.answer, cascade.on_late_reply(_reply(event.reply), event.now))
        elif isinstance(event, decision_log.AuditReply):
            cascade.on_audit_reply(_reply(event.reply), event.now)
        elif isinstance(event, decision_log.Installed):
            cascade.install(load(event.model, False))
        elif isinstance(event, decision_log.FullUnloaded):
            cascade.unload_full()
        else:
            cascade.evict_to(event.budget)
    if not result.frames:
        raise BadLog(f"{log} has no answer in it")
    return result


def events(log: Path) -> Iterator[decision_log.Event]:
    """The events of a log in order, without a truncated last line. Raises ``BadLog``."""
    decoder = msgspec.json.Decoder(decision_log.Event)
    with log.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield decoder.decode(line)
            except msgspec.DecodeError as error:
                raise BadLog(f"{log}, line {number}: {error}") from None


def _frame(path: Path, index: int, device: Settings) -> Frame:
    picture = pictures.read(path)
    if device.region:
        picture = cut(picture, parse_region(device.region))
    return Frame(index, FrameInputs(picture), sign(picture))


def _loader(bundle: Bundle, device: Settings) -> Callable[[decision_log.LoggedModel, bool], LocalModel]:
    """A function that loads a model of the bundle as the device loads it."""

    @lru_cache(None)
    def session(name: str) -> Session:
        return Session(bundle.path(name), device.provider, device.threads)

    def load(model: decision_log.LoggedModel, base: bool) -> LocalModel:
        if model.name not in bundle.manifest.models:
            raise BadLog(f"the bundle has no model {model.name}")
        return local_model(bundle.manifest, model.name, session(model.name), model.cost, model.seconds, base)

    return load


def _no_model(_model: decision_log.LoggedModel, _base: bool) -> LocalModel:
    raise BadLog("the log loads a model before it names a bundle")


def _reply(logged: decision_log.LoggedReply) -> Reply:
    return Reply(logged.frame, np.array(logged.logits, np.float32), logged.submodel, logged.on_device, logged.exit_risk)
