"""A stream under several sets of settings, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from cachenet.shared.cascade.types import LOCAL_LEVELS
from cachenet.simulator.traces.what_if import Column, WhatIf

#: Levels in the order of their price.
_LEVELS = (*LOCAL_LEVELS, "full", "cloud", "fallback")


def measures(column: Column) -> dict[str, Any]:
    """What one set of settings does.

    Returns:
        ``settings``: those that differ from the log's. ``frames``. ``asked``: share of frames sent to the server,
        audits included. ``kilobytes`` of their pictures. ``levels``: share of frames by level. ``error``: mean error of
        all answers against the full model's on the same frame. ``stated``: the mean of the risks that the answers
        state. ``audited``: the error that the audits of the run estimate; None without audits.
    """
    levels: Counter[str] = Counter(answer.level for answer in column.answers)
    n = len(column.answers)
    return {
        "settings": column.title,
        "frames": n,
        "asked": sum(column.asked) / n,
        "kilobytes": round(sum(column.nbytes) / 1e3, 1),
        "levels": {level: levels[level] / n for level in _LEVELS if levels[level]},
        "error": float(np.mean(column.errors)),
        "stated": float(np.mean([answer.risk for answer in column.answers])),
        "audited": column.audited,
    }


def table(found: WhatIf) -> str:
    """The sets of settings as text of 80 columns: a letter for each, and a column of figures."""
    columns = [measures(column) for column in found.columns]
    flag, budget = found.budget
    heads = [chr(ord("A") + at) for at in range(len(columns))]
    lines = [f"A  as logged, with {flag} {budget:g}"]
    lines += [f"{head}  {one['settings']}" for head, one in zip(heads[1:], columns[1:], strict=True)]
    levels = [level for level in _LEVELS if any(level in one["levels"] for one in columns)]
    rows = [
        ("", heads),
        ("sent to the server, % of the frames", _percents(columns, "asked")),
        ("pictures sent, kB", [f"{one['kilobytes']:.0f}" for one in columns]),
        *((f"answered by {level}, %", [f"{100 * one['levels'].get(level, 0.0):.1f}" for one in columns])
          for level in levels),
        ("error against the full model, %", [f"{100 * one['error']:.2f}" for one in columns]),
        ("  as the answers state it", [f"{100 * one['stated']:.2f}" for one in columns]),
        ("  as audits estimate it", [_audited(one) for one in columns]),
    ]  # fmt: skip
    lines += ["", *(f"{name:<35}" + "".join(f"{cell:>7}" for cell in cells) for name, cells in rows)]
    frames = columns[0]["frames"]
    logged = frames - found.computed
    lines += ["", f"{frames} frames; {logged} full answers are from the log, the others are computed."]
    return "\n".join(line.rstrip() for line in lines)


def _audited(measured: dict[str, Any]) -> str:
    """The estimate of the audits; ``-`` without audits, and for the log, which has the audits but not the estimate."""
    return "-" if measured["audited"] is None else f"{100 * measured['audited']:.2f}"


def _percents(columns: Sequence[dict[str, Any]], name: str) -> list[str]:
    return [f"{100 * one[name]:.1f}" for one in columns]
