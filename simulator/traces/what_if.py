"""Replays the stream of a decision log under other settings.

The device's decisions are made again by its own cascade and models. Where the log has asked the full model about a
frame, the reply and its time are those of the log. Otherwise the bundle's full model is run, and the reply takes as
long as that to the nearest frame with a question in the log. Submodels are installed when they were in the log.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from cachenet.edge_agent import learner_file
from cachenet.edge_agent.outputs import decision_log
from cachenet.edge_agent.outputs.decision_reader import DAMAGE, BadLog, events
from cachenet.edge_agent.outputs.report import AnyAnswer
from cachenet.edge_agent.pipeline import Pipeline, pipeline_for
from cachenet.edge_agent.remote import NOT_SENT, POSTED
from cachenet.edge_agent.settings import Settings
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.detect.types import LocalDetector, SceneMiss
from cachenet.shared.cascade.types import Miss
from cachenet.shared.command import config
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.image import BadPicture, cut, parse_region
from cachenet.shared.media import recording as stream
from cachenet.simulator.traces.full_answers import FullAnswers
from cachenet.simulator.traces.questions import Outcomes, Questions, questions_of
from cachenet.simulator.traces.replay import check_version, loader, picture_of
from cachenet.simulator.traces.scene_recording import Meter, RecordedFlow

#: Settings that change decisions and that a replay can change.
KEYS = ("max_disagreement", "max_object_error", "audit_share", "mode", "deadline_ms", "levels")


@dataclass
class Column:
    """The answers to a stream under one set of settings, a list entry for each frame.

    Attributes:
        title: The settings that differ from the log's; empty for the log itself.
        answers: The answers.
        errors: Error of each answer against the full model's on that frame: whether the label differs, or the object
            error.
        asked: Whether the server was asked, for a miss or an audit.
        nbytes: Size of the picture that was sent, bytes; 0 for none.
        audited: Error by the audits of this run, an estimate over all its answers; None without audits.
    """

    title: str
    answers: list[AnyAnswer] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    asked: list[bool] = field(default_factory=list)
    nbytes: list[int] = field(default_factory=list)
    audited: float | None = None

    def add(self, answer: AnyAnswer, asked: bool, full: FullAnswers) -> None:
        """Add the answer to the present frame."""
        self.answers.append(answer)
        self.asked.append(asked)
        self.nbytes.append(full.nbytes if asked else 0)
        self.errors.append(full.error(answer))


@dataclass
class WhatIf:
    """Result. ``columns``: of the log first; ``computed``: frames whose full answer the log does not have."""

    columns: list[Column]
    computed: int
    budget: tuple[str, float]


def parse(text: str) -> dict[str, Any]:
    """Settings of a ``--what-if``: one or more ``KEY=VALUE``, separated by spaces. Raises ``ConfigError``."""
    found = config.assigned(Settings, re.split(r"\s+(?=\w+\s*=)", text.strip()), "--what-if")
    for key in found:
        if key not in KEYS:
            raise config.ConfigError(f"--what-if {key}: a replay cannot change this setting; it can {', '.join(KEYS)}")
    return found


def what_if(
    log: Path,
    bundle: Bundle,
    recorded: Path,
    texts: Sequence[str],
    advance: Callable[[int, int], object] = lambda _done, _of: None,
    on_truncated: Callable[[], object] = lambda: None,
) -> WhatIf:
    """Replay a log under other settings.

    Args:
        recorded: Directory of the stream that the device answered.
        texts: Sets of settings; see ``parse``.
        advance: Called with the number of frames done and of all frames.
        on_truncated: Called if the log's last line is incomplete.

    Raises:
        BadLog: The log does not fit the bundle or the stream.
        ConfigError: A setting is not valid.
        StreamError: The stream cannot be read.
        OSError: A file cannot be read.
    """
    changes = [parse(text) for text in texts]
    try:
        return _answered(log, bundle, recorded, texts, changes, advance, on_truncated)
    except (UserError, BadPicture):
        raise
    except DAMAGE as error:
        raise BadLog(f"{log} is damaged: its values do not fit each other ({error})") from error


def _answered(
    log: Path,
    bundle: Bundle,
    recorded: Path,
    texts: Sequence[str],
    changes: Sequence[dict[str, Any]],
    advance: Callable[[int, int], object],
    on_truncated: Callable[[], object],
) -> WhatIf:
    """Answer the stream of a log under every set of settings; see ``what_if``."""
    recording = stream.read(recorded)
    logged = questions_of(events(log, on_truncated))
    if not logged.answers:
        raise BadLog(f"{log} has no answer in it")
    columns = [Column(""), *(Column(text) for text in texts)]
    run: _Run | None = None
    computed = 0
    for event in events(log):
        if isinstance(event, decision_log.CascadeCreated):
            computed += run.full.computed if run is not None else 0
            run = _Run(event, bundle, log, logged, changes, columns)
        elif run is None:
            raise BadLog(f"{log} does not begin at the beginning")
        elif isinstance(event, decision_log.LookedUp | decision_log.SceneLookedUp):
            run.look_up(event, picture_of(recorded, recording, event.frame, log))
        elif isinstance(event, decision_log.Completed | decision_log.SceneCompleted):
            run.complete(event)
            advance(len(columns[0].answers), len(logged.answers))
        else:
            run.repeat(event)
    assert run is not None
    run.finish()
    return WhatIf(columns, computed + run.full.computed, run.budget)


class _Run:
    """All columns of one cascade of the log, a frame at a time."""

    def __init__(
        self,
        begun: decision_log.CascadeCreated,
        bundle: Bundle,
        log: Path,
        logged: Questions,
        changes: Sequence[dict[str, Any]],
        columns: Sequence[Column],
    ) -> None:
        """Raises ``BadLog`` and ``ConfigError``."""
        check_version(begun, bundle, log)
        manifest = bundle.manifest
        self._settings, self._full_name = begun.settings, manifest.only("full")
        self.budget = begun.settings.budget_for(manifest.task)
        self._pipeline = pipeline_for(begun.settings, manifest)
        self._load = loader(bundle, begun.settings, self._pipeline)
        self._column, self._logged, self._begun = columns[0], logged, begun
        model = self._load(decision_log.LoggedModel(self._full_name, 0, 0.0), False)
        self.full = FullAnswers(manifest, self._pipeline, model, logged.replies())
        base = _remembering(self._load(begun.base, True)) if begun.base is not None else None
        self._variants = []
        outcomes = logged.of_server()
        for change, column in zip(changes, columns[1:], strict=True):
            settings = msgspec.structs.replace(begun.settings, **change)
            _check(settings, begun.settings, manifest.task)
            pipeline = pipeline_for(settings, manifest)
            asks = (begun.asks or bool(settings.broker)) and "cloud" in settings.levels and settings.mode != "offline"
            cascade: Any = pipeline.build_cascade(base, asks, begun.room)
            cascade.explains = False
            learner_file.restore(cascade.estimator, begun.learned, manifest.risk_version)
            same = (pipeline.mode, settings.deadline_ms, asks) == (
                self._pipeline.mode,
                begun.settings.deadline_ms,
                begun.asks,
            )
            self._variants.append(
                _Variant(cascade, settings, pipeline, asks, same, column, logged, outcomes, self.full)
            )
        self._meter = Meter()

    def look_up(self, event: decision_log.LookedUp | decision_log.SceneLookedUp, picture: Any) -> None:
        """Look the frame up in every column."""
        if self._settings.region:
            picture = cut(picture, parse_region(self._settings.region))
        frame = self._pipeline.frame(event.frame, picture)
        if getattr(frame, "flow", None) is not None:
            frame = msgspec.structs.replace(frame, flow=RecordedFlow(frame.flow, self._meter))
        self.full.begin(frame)
        for variant in self._variants:
            variant.look_up(frame, event.now)

    def complete(self, event: decision_log.Completed | decision_log.SceneCompleted) -> None:
        """Answer the frame in every column."""
        on_device = event.reply is not None and event.reply.on_device
        missed = not event.answer.hit and not on_device and event.error not in NOT_SENT
        self._column.add(event.answer, (missed or event.answer.audit) and self._begun.asks, self.full)
        for variant in self._variants:
            variant.complete(event)

    def repeat(self, event: decision_log.Event) -> None:
        """Repeat an event between two frames in every column."""
        loaded = None
        if isinstance(event, decision_log.Installed):
            loaded = _remembering(self._load(event.model, False))
        for variant in self._variants:
            if isinstance(event, decision_log.Installed):
                if event.model.name != self._full_name or "full" in variant.settings.levels:
                    variant.cascade.install(loaded)
            elif isinstance(event, decision_log.FullUnloaded):
                variant.cascade.unload_full()
            elif isinstance(event, decision_log.Evicted):
                variant.cascade.evict_to(event.budget)
            elif not isinstance(event, decision_log.CascadeCreated):
                variant.on_reply(event)

    def finish(self) -> None:
        """State the estimates of the audits."""
        for variant in self._variants:
            audits = variant.cascade.audits
            agreement = audits.agreement() if audits is not None else None
            variant.column.audited = 1.0 - agreement[0] if agreement is not None else None


class _Variant:
    """The cascade of one column."""

    def __init__(
        self,
        cascade: Any,
        settings: Settings,
        pipeline: Pipeline,
        asks: bool,
        same_wait: bool,
        column: Column,
        logged: Questions,
        outcomes: Outcomes,
        full: FullAnswers,
    ) -> None:
        """``same_wait``: whether questions are asked and waited for as in the log."""
        self.cascade, self.settings, self.column = cascade, settings, column
        self._pipeline, self._asks, self._same_wait = pipeline, asks, same_wait
        self._logged, self._outcomes, self._full = logged, outcomes, full
        self._step: Any = None
        self._now = 0.0
        #: Replies under way: due time in seconds, whether of an audit, and the reply, in the order of questions.
        self._due: deque[tuple[float, bool, Any]] = deque()
        #: Frames whose replies come when they came in the log.
        self._as_logged: set[int] = set()

    def look_up(self, frame: Any, now: float) -> None:
        """Deliver the replies that have come, and look the frame up."""
        while self._due and self._due[0][0] <= now:
            _, audit, reply = self._due.popleft()
            (self.cascade.on_audit_reply if audit else self.cascade.on_late_reply)(reply, now)
        self._step, self._now = self.cascade.lookup(frame, now), now

    def complete(self, event: decision_log.Completed | decision_log.SceneCompleted) -> None:
        """Answer the frame."""
        step, frame = self._step, event.frame
        asked = False
        if not isinstance(step, Miss | SceneMiss):
            answer = self.cascade.complete(step, None, event.now)
            asked = answer.audit
            if answer.audit:
                self._audit(frame)
        elif self._same_wait and frame in self._logged.misses:
            question = self._logged.misses[frame]
            reply = question.reply.reply() if question.in_time and question.reply is not None else None
            answer = self.cascade.complete(step, reply, event.now, event.error)
            self._as_logged.add(frame)
            asked = self._asks and event.error not in NOT_SENT and (reply is None or not reply.on_device)
        else:
            answer, asked = self._ask(step)
        self.column.add(answer, asked, self._full)

    def on_reply(self, event: Any) -> None:
        """Deliver a late reply or an audit's as in the log."""
        if event.reply.frame not in self._as_logged:
            return
        self._as_logged.discard(event.reply.frame)
        audit = isinstance(event, decision_log.AuditReply | decision_log.SceneAuditReply)
        (self.cascade.on_audit_reply if audit else self.cascade.on_late_reply)(event.reply.reply(), event.now)

    def _ask(self, step: Any) -> tuple[AnyAnswer, bool]:
        """Answer a miss that the log does not have, or of which it says something else; and whether it was asked."""
        full, deadline = self.cascade.full, self.settings.deadline_ms / 1000
        on_device = full is not None and full.seconds <= deadline
        if on_device and (step.on_device or not self._asks):
            return self.cascade.complete(step, self._full.reply(on_device=True), self._now + full.seconds), False
        if not self._asks:
            return self.cascade.complete(step, None, self._now, "no cloud"), False
        outcome = self._outcomes.at(step.frame.index)
        seconds = outcome.seconds
        if self._pipeline.mode == "wait" and seconds is not None and seconds <= deadline:
            return self.cascade.complete(step, self._full.reply(), self._now + seconds), True
        failure = outcome.failure or "no answer in time"
        if failure not in NOT_SENT and self._pipeline.mode == "async":
            failure = POSTED
        if seconds is not None:
            self._schedule(self._now + seconds, False)
        return self.cascade.complete(step, None, self._now, failure), failure not in NOT_SENT

    def _audit(self, frame: int) -> None:
        if frame in self._logged.audits:
            self._as_logged.add(frame)
        elif (seconds := self._outcomes.at(frame).seconds) is not None:
            self._schedule(self._now + seconds, True)

    def _schedule(self, due: float, audit: bool) -> None:
        self._due.append((max(due, self._due[-1][0] if self._due else due), audit, self._full.reply()))


def _check(settings: Settings, logged: Settings, task: str) -> None:
    """Refuse a budget of the other task, which would change nothing."""
    other = "max_object_error" if task == "classification" else "max_disagreement"
    if getattr(settings, other) != getattr(logged, other):
        right = "max_disagreement" if task == "classification" else "max_object_error"
        raise UserError(f"--what-if {other}: the budget of this bundle is {right}")


def _remembering(model: Any) -> Any:
    """A model that runs once on a frame, for all columns."""
    if isinstance(model, LocalDetector):
        return replace(model, detect=_Once(model.detect))
    return replace(model, score=_Once(model.score))


class _Once:
    """A function of a frame's view that is called once for each view in a row."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._view: Any = self
        self._result: Any = None

    def __call__(self, view: Any) -> Any:
        if view is not self._view:
            self._view, self._result = view, self._function(view)
        return self._result
