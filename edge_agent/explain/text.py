"""Explanations and summaries as text of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

from cachenet.edge_agent.explain.explanation import Explanation, Part, Tried
from cachenet.edge_agent.explain.summary import FrameLine, Summary
from cachenet.shared.command.text import printable

_WIDTH = 80
_PARTS = (
    "Where the risk of the best answer comes from, each part against average footage or against a frame without it:"
)


def of_frame(made: Explanation) -> str:
    """The explanation of one frame."""
    lines = [
        *_wrapped(f"Frame {made.frame}. {made.decision}"),
        *(line for one in made.reasons for line in _wrapped(one)),
    ]
    if made.check:
        lines += _wrapped(made.check)
    if made.tried:
        rows = [("level", "model", "model gives", "best answer", "risk", "limit", ""), *map(_row, made.tried)]
        if not any(one.gives for one in made.tried):  # a detector
            rows = [(*row[:2], *row[3:]) for row in rows]
        lines += ["", *_table(rows[0], rows[1:])]
    if made.parts:
        lines += ["", *_wrapped(_PARTS)]
        lines += [line for one in made.parts for line in _wrapped(_part(made, one), "- ", "  ")]
    if made.changes:
        lines += ["", "What would have changed it:"]
        lines += [line for one in made.changes for line in _wrapped(one, "- ", "  ")]
    return "\n".join(lines)


def of_log(made: Summary, log: str) -> str:
    """The summary of a log. ``log``: its path."""
    flag, budget = made.budget
    lines = [f"{made.frames} frames, budget {budget:g} ({flag})", ""]
    lines += _table(
        ("level", "frames", "share"), [(name, str(n), f"{n / made.frames:.1%}") for name, n in made.levels.items()]
    )
    missed = sum(made.reasons.values())
    asked = missed + made.audits
    lines += [
        "",
        *_wrapped(
            f"{asked} frames ({asked / made.frames:.1%}) needed the full model: {made.audits} as audits of hits, "
            f"{missed} because:"
        ),
    ]
    lines += _counted(made.reasons)
    if made.raised:
        lines += ["", "What raised these risks most:", *_counted(made.raised)]
    if made.failures:
        lines += ["", "Why the full model did not answer in time:", *_counted(made.failures)]
    if made.wrong is not None:
        lines += [
            "",
            *_wrapped(f"The full model has checked {made.checked} answers of the device: mean error {made.wrong:.1%}."),
        ]
    if made.worst:
        lines += ["", "Checked answers with the greatest error:", *_frames(made.worst)]
    if made.riskiest:
        lines += ["", "Answers of the device with the greatest risk:", *_frames(made.riskiest)]
    chosen = (*made.worst, *made.riskiest)
    if chosen:
        lines += ["", f"Next: edge-agent explain {log} --frame {chosen[0].frame}"]
    return "\n".join(lines)


def _part(made: Explanation, part: Part) -> str:
    moved = "raised" if part.without < made.best_risk else "lowered"
    return f"{moved} from {part.without:.3f}: {part.text}"


def _row(one: Tried) -> tuple[str, ...]:
    return (
        one.level,
        one.model,
        one.gives,
        one.best,
        f"{one.risk:.3f}",
        f"{one.limit:.3f}",
        "hit" if one.hit else "no",
    )


def _frames(frames: Sequence[FrameLine]) -> list[str]:
    rows = [
        (str(one.frame), one.level, one.answer, f"{one.risk:.3f}", "" if one.error is None else f"{one.error:.2f}")
        for one in frames
    ]
    return ["  " + line for line in _table(("frame", "level", "answer", "risk", "error"), rows)]


def _counted(counts: Mapping[str, int]) -> list[str]:
    return [line for text, number in counts.items() for line in _wrapped(text, f"{number:>7}  ", " " * 9)]


def _wrapped(text: str, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(printable(text), _WIDTH, initial_indent=first, subsequent_indent=rest)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table. A cell of a long name is cut, so that a line has 80 columns."""
    cells = [tuple(head), *(tuple(printable(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    while sum(widths) + 2 * (len(widths) - 1) > _WIDTH - 2:
        widths[widths.index(max(widths))] -= 1
    return ["  ".join(_cell(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _cell(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"
