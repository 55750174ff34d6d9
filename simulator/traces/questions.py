"""What became of the questions in a decision log: when the full model's answers came."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

from cachenet.edge_agent.outputs import decision_log
from cachenet.edge_agent.outputs.decision_log import LoggedObjects, LoggedReply
from cachenet.edge_agent.outputs.report import AnyAnswer


@dataclass
class Question:
    """One question to the server, or one answer of the full model on the device.

    Attributes:
        seconds: Time from the lookup to the reply, seconds; None: no reply came.
        reply: The reply; None: no reply came.
        in_time: Whether the reply was the frame's answer.
        failure: Why no reply came in time.
    """

    seconds: float | None = None
    reply: LoggedReply | LoggedObjects | None = None
    in_time: bool = False
    failure: str = ""


@dataclass
class Questions:
    """The questions of a log, by frame.

    Attributes:
        misses: Frames that no local level answered.
        audits: Audited hits.
        answers: The logged answers.
    """

    misses: dict[int, Question] = field(default_factory=dict)
    audits: dict[int, Question] = field(default_factory=dict)
    answers: dict[int, AnyAnswer] = field(default_factory=dict)

    def replies(self) -> dict[int, LoggedReply | LoggedObjects]:
        """The replies of the whole full model, by frame."""
        found = {}
        for frame, question in (*self.misses.items(), *self.audits.items()):
            if question.reply is not None and getattr(question.reply, "exit_risk", None) is None:
                found[frame] = question.reply
        return found

    def of_server(self) -> Outcomes:
        """What became of the questions to the server."""
        asked = {
            frame: own for frame, own in self.misses.items() if own.reply is None or not own.reply.on_device
        } | self.audits
        return Outcomes(sorted(asked), asked)


@dataclass
class Outcomes:
    """Questions to the server in the order of their frames."""

    frames: list[int]
    questions: dict[int, Question]

    def at(self, frame: int) -> Question:
        """What became, or would have become, of a question about ``frame``: as of the nearest frame with a question.

        Of a log without questions: a reply at once.
        """
        if not self.frames:
            return Question(0.0)
        at = bisect_left(self.frames, frame)
        near = self.frames[max(0, at - 1) : at + 1]
        return self.questions[min(near, key=lambda one: abs(one - frame))]


def questions_of(events: Iterable[decision_log.Event]) -> Questions:
    """Collect the questions of a log."""
    found, looked = Questions(), dict[int, float]()
    for event in events:
        if isinstance(event, decision_log.LookedUp | decision_log.SceneLookedUp):
            looked[event.frame] = event.now
        elif isinstance(event, decision_log.Completed | decision_log.SceneCompleted):
            found.answers[event.frame] = event.answer
            if event.answer.audit:
                found.audits[event.frame] = Question()
            elif not event.answer.hit:
                seconds = event.now - looked.get(event.frame, event.now) if event.reply is not None else None
                found.misses[event.frame] = Question(seconds, event.reply, event.reply is not None, event.error)
        elif isinstance(event, decision_log.LateReply | decision_log.SceneLateReply):
            _reply(found.misses, event, looked)
        elif isinstance(event, decision_log.AuditReply | decision_log.SceneAuditReply):
            _reply(found.audits, event, looked)
    return found


def _reply(
    questions: dict[int, Question],
    event: decision_log.LateReply
    | decision_log.SceneLateReply
    | decision_log.AuditReply
    | decision_log.SceneAuditReply,
    looked: dict[int, float],
) -> None:
    question = questions.get(event.reply.frame)
    if question is not None and question.reply is None:
        question.reply, question.seconds = event.reply, event.now - looked.get(event.reply.frame, event.now)
