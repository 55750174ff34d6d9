"""Running a device's flight log again: the same calls, the same pictures, the same models; and so, if nothing in the
core is left to chance, the same answers to the last bit.

On the machine that the log is of: another processor's arithmetic may differ in the last bits. The pictures are those of
a recorded stream, each of which could be read; a recording of a camera is JPEG, and not what the device saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np

from cachenet.edge_agent import learner_file, settings
from cachenet.edge_agent.composition import build_device_cascade, local
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
from cachenet.shared.inference.image import cut
from cachenet.shared.media import pictures
from cachenet.shared.media import recording as stream
from cachenet.shared.media.signature import sign


class BadLog(UserError):
    """A log that is none, or of another bundle or stream; the text says how."""


@dataclass
class Rerun:
    """Answers, of frames and corrections of them, and how many are the same. ``first``: of those that differ the first,
    as it was and as it is now."""

    frames: int = 0
    corrections: int = 0
    identical: int = 0
    first: tuple[Answer | None, Answer | None] | None = None

    def compare(self, was: Answer | None, is_: Answer | None) -> None:
        if was == is_:
            self.identical += was is not None
        elif self.first is None:
            self.first = was, is_


def rerun(log: Path, bundle: Bundle, recorded: Path, advance: Callable[[], object] = lambda: None) -> Rerun:
    """Run the log of a device that answered the stream ``recorded`` with ``bundle``. Raises ``BadLog``, ``StreamError``
    and ``OSError``."""
    found = Rerun()
    recording = stream.read(recorded)
    cascade: Cascade | None = None
    begun: decision_log.Begun | None = None
    step: Step | None = None
    load: Callable[[decision_log.ModelInstalled, bool], LocalModel] = _no_model
    for event in events(log):
        if isinstance(event, decision_log.Begun):
            if event.version != bundle.version:
                raise BadLog(f"{log} is of version {event.version[:12]} of its bundle, not of {bundle.version[:12]}")
            begun, load = event, _loader(bundle, event.settings)
            base = load(event.base, True) if event.base is not None else None
            cascade = build_device_cascade(event.settings, bundle.manifest, base, event.asks, event.room)
            learner_file.restore(cascade.estimator, event.learned, event.version)
            continue
        if cascade is None or begun is None:
            raise BadLog(f"{log} does not begin at the beginning")
        if isinstance(event, decision_log.Looked):
            if event.frame >= recording.frames:
                raise BadLog(f"{log} has a frame {event.frame}, which {recorded} has not")
            step = cascade.lookup(
                _frame(recorded / (recording.files % event.frame), event.frame, begun.settings), event.now
            )
        elif isinstance(event, decision_log.Completed):
            if step is None:
                raise BadLog(f"{log} completes a frame that was never looked up")
            found.frames += 1
            found.compare(event.answer, cascade.complete(step, _reply(event.reply), event.now, event.trouble))
            advance()
        elif isinstance(event, decision_log.LateReply):
            found.corrections += event.answer is not None
            found.compare(event.answer, cascade.on_late_reply(_said(event.reply), event.now))
        elif isinstance(event, decision_log.AuditReply):
            cascade.on_audit_reply(_said(event.reply), event.now)
        elif isinstance(event, decision_log.Installed):
            cascade.install(load(event.model, False))
        elif isinstance(event, decision_log.FullUnloaded):
            cascade.unload_full()
        else:
            cascade.evict_to(event.budget)
    if not found.frames:
        raise BadLog(f"{log} has no answer in it")
    return found


def events(log: Path) -> Iterator[decision_log.Event]:
    """What is in a log, in order; a last line that was cut off is left out. Raises ``BadLog``."""
    decoder = msgspec.json.Decoder(decision_log.Event)
    with log.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield decoder.decode(line)
            except msgspec.DecodeError as error:
                raise BadLog(f"{log}, line {number}: {error}") from None


def _frame(path: Path, index: int, own: Settings) -> Frame:
    picture = pictures.read(path)
    if own.region:
        picture = cut(picture, settings.region(own.region))
    return Frame(index, FrameInputs(picture), sign(picture))


def _loader(bundle: Bundle, own: Settings) -> Callable[[decision_log.ModelInstalled, bool], LocalModel]:
    """How a model of the bundle is loaded, as the device loads it."""

    @lru_cache(None)
    def session(name: str) -> Session:
        return Session(bundle.path(name), own.provider, own.threads)

    def load(loaded: decision_log.ModelInstalled, base: bool) -> LocalModel:
        if loaded.name not in bundle.manifest.models:
            raise BadLog(f"the bundle has no model {loaded.name}")
        return local(bundle.manifest, loaded.name, session(loaded.name), loaded.cost, loaded.seconds, base)

    return load


def _no_model(_loaded: decision_log.ModelInstalled, _base: bool) -> LocalModel:
    raise BadLog("a model was loaded before there was a bundle")


def _reply(said: decision_log.Said | None) -> Reply | None:
    return None if said is None else _said(said)


def _said(said: decision_log.Said) -> Reply:
    return Reply(said.frame, np.array(said.logits, np.float32), said.submodel, said.on_device, said.exit_risk)
