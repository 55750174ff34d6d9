"""Summary of a decision log: which levels answered, why frames were sent, and which frames are worth a look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from cachenet.edge_agent.explain import causes
from cachenet.edge_agent.explain.explanation import answer_text
from cachenet.edge_agent.explain.failures import failure_of
from cachenet.edge_agent.explain.record import FrameRecord

#: Frames of each list.
_SHOWN = 5


class FrameLine(msgspec.Struct, frozen=True):
    """A frame that is worth a look. ``error``: error by the full model's check; None without."""

    frame: int
    level: str
    answer: str
    risk: float
    error: float | None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of a log.

    Attributes:
        frames: Number of frames.
        budget: Flag and value of the risk budget at the end of the log.
        levels: Number of frames by level.
        audits: Number of hits that were sent to be checked.
        reasons: Number of misses by reason, most frequent first.
        failures: Number of fallbacks by the reason why the full model did not answer in time, most frequent first.
        raised: Number of misses by the part that raised the risk most, most frequent first.
        checked: Number of answers of the device that the full model has checked: audits and late answers.
        wrong: Mean error of these; None without any.
        worst: Checked answers of greatest error.
        riskiest: Answers of the device of greatest risk.
    """

    frames: int
    budget: tuple[str, float]
    levels: dict[str, int]
    audits: int
    reasons: dict[str, int]
    failures: dict[str, int]
    raised: dict[str, int]
    checked: int
    wrong: float | None
    worst: tuple[FrameLine, ...]
    riskiest: tuple[FrameLine, ...]


def summarise(records: Iterable[FrameRecord]) -> Summary:
    """Summarise the frames of a log, at least one."""
    levels: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    raised: Counter[str] = Counter()
    riskiest: list[tuple[float, int, FrameLine]] = []
    worst: list[tuple[float, int, FrameLine]] = []
    audits, errors, budget = 0, [], ("", 0.0)
    for record in records:
        answer = record.answer
        budget = record.settings.budget_for(record.task)
        levels[answer.level] += 1
        audits += answer.audit
        if not answer.hit:
            why, _, failure = answer.reason.partition("; ")
            reasons["the risk was over the threshold" if " over " in why else why] += 1
            if failure:
                failures[failure_of(failure).why] += 1
            if " over " in why and (name := _raises(record)):
                raised[name] += 1
        if answer.hit or answer.level == "fallback":
            line = FrameLine(answer.frame, answer.level, answer_text(record), answer.risk, record.error)
            _add(riskiest, answer.risk, line)
            if record.error is not None:
                errors.append(record.error)
                if record.error:
                    _add(worst, record.error, line)
    return Summary(
        frames=levels.total(),
        budget=budget,
        levels=dict(levels.most_common()),
        audits=audits,
        reasons=dict(reasons.most_common()),
        failures=dict(failures.most_common()),
        raised=dict(raised.most_common()),
        checked=len(errors),
        wrong=sum(errors) / len(errors) if errors else None,
        worst=tuple(line for _, _, line in worst),
        riskiest=tuple(line for _, _, line in riskiest),
    )


def _raises(record: FrameRecord) -> str:
    """Name of the part that raises the risk of a miss most; empty if none is known."""
    best = record.best
    if best is None:
        return ""
    rising = [one for one in best.causes if one.without < best.risk]
    cause = min(rising, key=lambda one: one.without, default=None)
    return causes.NAMES.get(cause.name, cause.name) if cause is not None else ""


def _add(shown: list[tuple[float, int, FrameLine]], value: float, line: FrameLine) -> None:
    """Add a frame to the ``_SHOWN`` of greatest ``value``, in order; of equal ones the first stay."""
    shown.append((value, -line.frame, line))
    shown.sort(key=lambda one: one[:2], reverse=True)
    del shown[_SHOWN:]
