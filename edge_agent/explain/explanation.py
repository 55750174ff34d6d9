"""Explains one answered frame: what was tried, where the risk comes from, and what would have changed the answer.

Pure functions of a ``FrameRecord``. The decision log and the preview have the same explanation.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from cachenet.edge_agent.explain import causes
from cachenet.edge_agent.explain.changes import changes
from cachenet.edge_agent.explain.failures import failure_of
from cachenet.edge_agent.explain.record import FrameRecord
from cachenet.edge_agent.outputs.report import counts_text
from cachenet.edge_agent.remote import POSTED
from cachenet.shared.cascade.decision import Attempt
from cachenet.shared.cascade.detect.detections import Detections
from cachenet.shared.cascade.detect.types import SceneAnswer


class Tried(msgspec.Struct, frozen=True):
    """One attempt to answer a frame on the device.

    Attributes:
        level: Level that gives the best answer after this attempt.
        model: Name of the model that ran; empty for none.
        gives: Label of highest probability by that model, and its probability; empty for none and for a detector.
        best: The best answer after this attempt.
        risk: Risk of the best answer.
        limit: Largest risk of a hit at this attempt.
        hit: Whether the risk is within the limit.
    """

    level: str
    model: str
    gives: str
    best: str
    risk: float
    limit: float
    hit: bool


class Part(msgspec.Struct, frozen=True):
    """A part of the risk. ``without``: the risk if this part were as on average footage, or absent in a detector's."""

    name: str
    text: str
    without: float


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The explanation of one frame.

    Attributes:
        level: Level that answered.
        answer: The label, or the numbers of objects by label.
        risk: Risk that the answer states.
        threshold: Largest risk of a hit at this frame; None where it was not recorded.
        best_risk: Risk of the best answer of the device; that of the answer where no attempt was recorded.
        decision: What was decided, one sentence.
        reasons: Why, in sentences.
        tried: The attempts of the device, in order.
        parts: Where the risk of the best answer comes from, the most important first.
        changes: What would have changed the decision, in sentences.
        check: What the full model answered after the device; empty without that.
    """

    frame: int
    level: str
    answer: str
    risk: float
    threshold: float | None
    best_risk: float
    decision: str
    reasons: tuple[str, ...]
    tried: tuple[Tried, ...]
    parts: tuple[Part, ...]
    changes: tuple[str, ...]
    check: str = ""


def explain(record: FrameRecord) -> Explanation:
    """Explain one frame."""
    answer, decision, best = record.answer, record.decision, record.best
    parts: tuple[Part, ...] = ()
    if best is not None:
        label = record.label(best.label) if best.label is not None else ""
        parts = tuple(Part(one.name, causes.text(one, label, best.model), one.without) for one in causes.shown(best))
    return Explanation(
        frame=answer.frame,
        level=answer.level,
        answer=answer_text(record),
        risk=answer.risk,
        threshold=decision.threshold if decision is not None else None,
        best_risk=best.risk if best is not None else answer.risk,
        decision=_decision(record),
        reasons=(*_reasons(record), *_threshold(record)),
        tried=tuple(_tried(record, one) for one in decision.attempts) if decision is not None else (),
        parts=parts,
        changes=changes(record),
        check=_check(record),
    )


def answer_text(record: FrameRecord) -> str:
    """The answer in words."""
    if not isinstance(record.answer, SceneAnswer):
        return record.label(record.answer.label)
    found = Counter(record.label(one.label) for one in record.answer.objects)
    return counts_text(dict(sorted(found.items())))


def _decision(record: FrameRecord) -> str:
    answer, shown = record.answer, answer_text(record)
    after = f" after {_time(record.seconds)}" if record.seconds is not None else ""
    audited = " The answer was sent to be checked as well." if answer.audit else ""
    if answer.level == "cloud":
        return f"Sent to the cloud, which answered {shown}{after}."
    if answer.level == "full":
        return f"Answered by the full model on the device: {shown}{after and ',' + after}."
    if answer.level == "fallback":
        if answer.reason.endswith(POSTED):
            return f"Sent to the cloud, and answered by the device meanwhile: {shown}."
        if answer.reason.endswith("no answer in time"):
            return f"Sent to the cloud, which did not answer in time; the device answered {shown}."
        return f"Meant for the full model, which could not be asked; the device answered {shown}."
    if answer.level == "frames":
        by = "from the full model's earlier answers" if record.task == "classification" else "from tracks, unmoved"
        return f"Answered on the device, {by}: {shown}.{audited}"
    if answer.level == "tracks":
        return f"Answered on the device, from tracks carried to this frame: {shown}.{audited}"
    by = f"by {answer.model}" if answer.model else "by no model"
    return f"Answered on the device, {by}: {shown}.{audited}"


def _reasons(record: FrameRecord) -> tuple[str, ...]:
    """Why the frame is a hit or a miss, and why no reply came."""
    answer, decision, best = record.answer, record.decision, record.best
    if answer.unknown:
        return ("The pictures look unlike the footage of the bundle (out of distribution), so the answer is unknown.",)
    if not answer.hit:
        why, _, failure = answer.reason.partition("; ")
        risk, over, threshold = (
            why.removeprefix("expected ").removeprefix("error ").removeprefix("risk ").partition(" over ")
        )
        sentence = f"{_risk_name(record)} {risk} is over the threshold {threshold}." if over else _MISSES.get(why, why)
        if failure == POSTED:
            return sentence, "The device did not wait for the cloud (mode async)."
        return (sentence, *([f"No answer of the full model: {failure_of(failure).why}."] if failure else []))
    if decision is None:
        return (f"{_risk_name(record)} {answer.risk:.3f} was within the threshold, which this log does not have.",)
    if decision.not_asked:
        stated = f"{_risk_name(record)} {answer.risk:.3f} is over the threshold {decision.threshold:.3f}"
        return (f"{stated}, but {decision.not_asked}.",)
    if best is not None and best.limit < decision.threshold:
        within = f"{_risk_name(record)} {answer.risk:.3f} is within {best.limit:.3f}, a tenth of the threshold"
        return (f"{within}: no model had to run.",)
    return (f"{_risk_name(record)} {answer.risk:.3f} is within the threshold {decision.threshold:.3f}.",)


#: Reasons of a miss that name no risk.
_MISSES = {
    "no risk is known yet": "No risk is known yet: the full model has answered too few frames of this stream.",
    "out of distribution": "The pictures look unlike the footage of the bundle (out of distribution).",
    "no level of the device may answer": "No level of the device may answer, by the setting levels.",
}


def _threshold(record: FrameRecord) -> tuple[str, ...]:
    if record.decision is None or record.answer.unknown:
        return ()
    flag, budget = record.settings.budget_for(record.task)
    ratio = record.decision.threshold / budget
    return (f"The threshold was {ratio:.1f} times the budget ({flag} {budget:g}).",)


def _risk_name(record: FrameRecord) -> str:
    return "The risk" if record.task == "classification" else "The expected error"


def _tried(record: FrameRecord, one: Attempt) -> Tried:
    gives = f"{record.label(one.output[0])} {100 * one.output[1]:.0f} %" if one.output is not None else ""
    objects = one.objects or 0
    best = f"{objects} object{'' if objects == 1 else 's'}" if one.label is None else record.label(one.label)
    return Tried(one.level, one.model, gives, best, one.risk, one.limit, one.risk <= one.limit)


def _check(record: FrameRecord) -> str:
    check, error = record.check, record.error
    if check is None or error is None:
        return ""
    when = f"{'The check' if check.audit else 'The full model'} came {_time(check.seconds)} after the frame"
    if isinstance(check.answer, Detections):
        found = len(check.answer)
        return f"{when}: {found} object{'' if found == 1 else 's'}, object error {error:.2f}."
    verdict = "another label, so the device was wrong" if error else "the same label"
    return f"{when}: {record.label(check.answer)}, {verdict}."


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
