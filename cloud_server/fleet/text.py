"""The fleet as text for a terminal."""

from __future__ import annotations

from cachenet.cloud_server.fleet.fleet import Row, Summary
from cachenet.shared.command.text import printable

#: Most devices in the table; the rest is only counted.
MAX_ROWS = 20
_HEAD = ("device", "state", "bundle", "local", "error", "at most", "ms")


def lines(summary: Summary) -> list[str]:
    """Counts, and a table of the devices with findings, or of the first ones if there are none."""
    if not summary.devices:
        return ["no devices"]
    states = ", ".join(f"{count} {state}" for state, count in summary.states.items())
    found = [f"{summary.devices} device{'s' * (summary.devices != 1)}: {states}; {summary.with_findings} with findings"]
    rows = [row for row in summary.rows if row.severity] or summary.rows
    shown = rows[:MAX_ROWS]
    if shown:
        cells = [_HEAD, *(_cells(row) for row in shown)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for index, line in enumerate(cells):
            texts = [f"{text:<{width}}" if at < 3 else f"{text:>{width}}"
                     for at, (text, width) in enumerate(zip(line, widths, strict=True))]  # fmt: skip
            found.append("  ".join(texts).rstrip())
            found += [f"    {printable(finding.text)}" for finding in (shown[index - 1].findings if index else [])]
    if len(rows) > len(shown):
        found.append(f"and {len(rows) - len(shown)} more; --json has all, --html and --listen make a page")
    return found


def _cells(row: Row) -> tuple[str, ...]:
    stats, error = row.stats, row.stats.error if row.stats is not None else None
    recent = stats.recent if stats is not None and stats.recent.frames else None
    return (
        row.device,
        row.status.state,
        printable(row.status.bundle[:8]),
        f"{recent.local:.1%}" if recent is not None else "",
        f"{error[0]:.1%}" if error is not None else "",
        f"{error[2]:.1%}" if error is not None else "",
        f"{recent.latency_ms:.1f}" if recent is not None else "",
    )
