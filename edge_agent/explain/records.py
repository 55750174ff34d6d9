"""The answered frames of a decision log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from cachenet.edge_agent.explain.record import Check, FrameRecord
from cachenet.edge_agent.outputs.decision_log import (
    AuditReply,
    CascadeCreated,
    Completed,
    Event,
    LateReply,
    LoggedObjects,
    LookedUp,
    SceneAuditReply,
    SceneCompleted,
    SceneLateReply,
    SceneLookedUp,
)
from cachenet.edge_agent.outputs.decision_reader import BadLog, events

#: Frames after which a reply of the full model is no longer expected.
_PENDING = 1000


def read(log: Path, on_truncated: Callable[[], object] = lambda: None) -> Iterator[FrameRecord]:
    """The answered frames of a log. A frame comes when its check by the full model is known, or is overdue.

    Raises:
        BadLog: The file is no decision log, or has no answer in it.
        OSError: The file cannot be read.
    """
    none = True
    for record in records(events(log, on_truncated), log):
        none = False
        yield record
    if none:
        raise BadLog(f"{log} has no answer in it")


def records(logged: Iterable[Event], log: Path) -> Iterator[FrameRecord]:
    """The frames of events; see ``read``. ``log``: for messages."""
    begun: CascadeCreated | None = None
    looked: dict[int, float] = {}  # time of the lookup of each frame that is pending, seconds
    pending: dict[int, FrameRecord] = {}
    for event in logged:
        if isinstance(event, CascadeCreated):
            begun = event
        elif begun is None:
            raise BadLog(f"{log} does not begin at the beginning")
        elif isinstance(event, LookedUp | SceneLookedUp):
            looked[event.frame] = event.now
        elif isinstance(event, Completed | SceneCompleted):
            seconds = event.now - looked[event.frame] if event.frame in looked else None
            answer, decision = event.answer, event.decision
            record = FrameRecord(answer, decision, begun.labels, begun.settings, begun.asks, seconds)
            if answer.audit or answer.level == "fallback":
                pending[event.frame] = record
            else:
                looked.pop(event.frame, None)
                yield record
        elif isinstance(event, LateReply | AuditReply | SceneLateReply | SceneAuditReply):
            frame, audit = event.reply.frame, isinstance(event, AuditReply | SceneAuditReply)
            if (waiting := pending.pop(frame, None)) is not None:
                reply = event.reply.reply()
                found = reply.detections if isinstance(event.reply, LoggedObjects) else reply.label  # type: ignore[union-attr]
                yield replace(waiting, check=Check(audit, found, event.now - looked.pop(frame, event.now)))
        if len(pending) > _PENDING:
            frame = next(iter(pending))
            looked.pop(frame, None)
            yield pending.pop(frame)
    yield from pending.values()


def find(log: Path, frame: int, on_truncated: Callable[[], object] = lambda: None) -> FrameRecord:
    """The record of one frame.

    Raises:
        BadLog: As ``read``, and if the log has no such frame.
        OSError: The file cannot be read.
    """
    first = last = count = 0
    for record in read(log, on_truncated):
        index = record.answer.frame
        if index == frame:
            return record
        first, last, count = (index, index, 1) if not count else (min(first, index), max(last, index), count + 1)
    raise BadLog(f"{log} has no frame {frame}; it has {count} frames, from {first} to {last}")
