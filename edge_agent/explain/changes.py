"""What would have changed the decision of a frame."""

from __future__ import annotations

import math

from cachenet.edge_agent.explain import causes
from cachenet.edge_agent.explain.failures import failure_of
from cachenet.edge_agent.explain.record import FrameRecord
from cachenet.edge_agent.remote import POSTED
from cachenet.shared.cascade.risk_budget import MAX_RISK

#: Least budget that is worth a number.
_LEAST = 1e-9


def changes(record: FrameRecord) -> tuple[str, ...]:
    """What would have changed the decision, in sentences; none where nothing is known of that."""
    if record.answer.unknown or "out of distribution" in record.answer.reason:
        return ("A bundle that was built from footage of this camera (docs/build.md).",)
    if record.answer.reason.startswith("no risk is known yet"):
        return ("More answers of the full model: risks are learned from the first 50.",)
    if record.answer.hit:
        return _of_hit(record)
    return (*_of_failure(record), *_of_risk(record), *_of_levels(record))


def _of_hit(record: FrameRecord) -> tuple[str, ...]:
    decision, best = record.decision, record.best
    if decision is None or decision.not_asked or best is None or best.risk <= 0:
        return ()
    flag, budget = record.settings.budget_for(record.task)
    needed = budget * best.risk / decision.threshold
    asked = "sent to the cloud" if record.asks else "answered by the full model"
    return (f"With {flag} under {_digits(needed, math.floor)} the frame would have been {asked}.",)


def _of_risk(record: FrameRecord) -> tuple[str, ...]:
    """Changes by which the risk of a miss would have been within the threshold."""
    decision, best = record.decision, record.best
    if decision is None or best is None or best.risk <= decision.threshold:
        return ()
    found = []
    for cause in causes.shown(best):
        if cause.without <= decision.threshold and cause.name != "uncertainty":
            label = record.label(best.label) if best.label is not None else ""
            changed = "With this as on average footage" if best.label is not None else "Without this"
            part = causes.text(cause, label, best.model)
            found.append(f"{changed}, the risk is {cause.without:.3f} and the answer a hit: {part}.")
    flag, budget = record.settings.budget_for(record.task)
    if best.risk > MAX_RISK:
        found.append(f"No budget: the threshold is {MAX_RISK:g} at most.")
    else:
        needed = _digits(budget * best.risk / decision.threshold, math.ceil)
        found.append(
            f"{flag} {needed} in place of {budget:g}: a hit on the device, at the same ratio to the threshold."
        )
    return tuple(found)


def _of_levels(record: FrameRecord) -> tuple[str, ...]:
    missing = [level for level in ("frames", "base", "submodels") if level not in record.settings.levels]
    if not missing:
        return ()
    return (f"Levels that were switched off and might have answered: {', '.join(missing)}.",)


def _of_failure(record: FrameRecord) -> tuple[str, ...]:
    """Changes by which the full model would have answered a fallback."""
    answer, settings, check = record.answer, record.settings, record.check
    if answer.level != "fallback":
        return ()
    _, _, failure = answer.reason.rpartition("; ")
    if failure == POSTED:
        return (f"--mode wait: the frame would have waited for the cloud, {settings.deadline_ms} ms at most.",)
    if failure == "no answer in time":
        if check is not None:
            return (f"--deadline-ms {math.ceil(1000 * check.seconds)} or more: the answer came that late.",)
        return (f"An answer within {settings.deadline_ms} ms (--deadline-ms); none came at all.",)
    advice = failure_of(failure).help
    return (advice,) if advice else ()


def _digits(value: float, rounded: object) -> str:
    """``value`` with two digits, rounded down (``math.floor``) or up (``math.ceil``)."""
    if value < _LEAST:
        return "0"
    scale = 10.0 ** (1 - math.floor(math.log10(value)))
    whole = math.floor(value * scale) if rounded is math.floor else math.ceil(value * scale)
    return f"{whole / scale:.2g}"
