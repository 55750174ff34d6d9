"""What is wrong with a device, from its last messages. Pure: no I/O, no clock."""

from __future__ import annotations

import msgspec

from cachenet.shared.transport.fleet import Stats
from cachenet.shared.transport.protocol import Status

#: Severity of each kind of finding; the sum orders the devices.
OFFLINE, UPDATE_FAILED, FAULT, OVER_BUDGET, ERRORS, STALE, FALLBACKS, NO_STATS = 100, 80, 60, 50, 40, 40, 30, 20
#: Share of recent answers that are fallbacks, above which it is a finding: any link is late now and then.
MAX_FALLBACKS = 0.05
#: Periods without a message with figures after which they are missing; the broker drops the retained one then, too.
MAX_PERIODS = 3.0


class Finding(msgspec.Struct, frozen=True):
    """Something that is wrong with a device, in one line."""

    severity: int
    text: str


def assess(status: Status, stats: Stats | None, age_s: float, errors_before: int = 0) -> list[Finding]:
    """Findings about a device, the worst first; empty for a device that works.

    A device that was stopped in an orderly way has no findings.

    Args:
        status: Its status.
        stats: Its figures; None if there are none.
        age_s: Time since these were received, seconds.
        errors_before: Its errors in the message before that.

    Example:
        >>> assess(Status("offline", "1.0"), None, 0.0)
        [Finding(severity=100, text='connection lost')]
    """
    if status.state == "stopped":
        return []
    found = []
    if status.state == "offline":
        found.append(Finding(OFFLINE, "connection lost"))
    if status.update.startswith("failed"):
        found.append(Finding(UPDATE_FAILED, f"update {status.update}"))
    if status.metadata:
        found.append(Finding(STALE, status.metadata))
    if status.state == "online":
        if stats is None:
            found.append(Finding(NO_STATS, "no figures yet"))
        elif age_s > MAX_PERIODS * stats.period_s:
            found.append(Finding(NO_STATS, f"no figures for {age_s:.0f} s"))
        else:
            found += _of_stats(stats, errors_before)
    return sorted(found, key=lambda finding: -finding.severity)


def _of_stats(stats: Stats, errors_before: int) -> list[Finding]:
    found = []
    if stats.faults:
        found.append(Finding(FAULT, stats.faults))
    if stats.error is not None and stats.error[1] > stats.budget > 0:
        estimate, low, _ = stats.error
        text = f"error {estimate:.1%}, at least {low:.1%} (95 %); the budget is {stats.budget:.1%}"
        found.append(Finding(OVER_BUDGET, text))
    if (errors := stats.errors - errors_before) > 0:
        found.append(Finding(ERRORS, f"{errors} frame{'s' * (errors > 1)} or model runs failed"))
    if stats.recent.fallbacks > MAX_FALLBACKS:
        found.append(Finding(FALLBACKS, f"{stats.recent.fallbacks:.0%} of the answers are fallbacks"))
    return found
