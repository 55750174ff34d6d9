"""A change in mid-clip: the light, the camera's place, or a restart.

    python -m benchmarks.scene_change --task FILE.toml
    python -m benchmarks.scene_change --task FILE.toml --json

The cascade with its defaults on the play frames of a task (see benchmarks.real).
From their middle on every picture changes, for both models: "darker" (gamma 2),
"brighter" (1.2 times and 25 grey levels), "moved" (by 8 % of the width and 6 %
of the height, the edge mirrored). Or the device restarts with its learned risk
models. Measures: disagreement over all answers before, in the first 100 frames
after, and later; share of runs with an alarm in these 100 frames, by the scene
change detector ("scene") or by audits. Means over several draws of the audits.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.real import policies, recording, task
from benchmarks.real.recording import Recording, Recordings
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.reference import disagreements
from cachenet.shared.cascade.replay import ModelTrace, run
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT
from cachenet.shared.inference.image import Picture
from cachenet.shared.media.video import Video

#: Frames after a change that are counted separately.
AFTER = 100


def darker(picture: Picture) -> Picture:
    """Gamma 2."""
    return np.asarray(np.rint(255 * (picture / 255.0) ** 2), np.uint8)


def brighter(picture: Picture) -> Picture:
    """1.2 times, and 25 grey levels."""
    return np.asarray(np.clip(np.rint(1.2 * picture) + 25, 0, 255), np.uint8)


def moved(picture: Picture) -> Picture:
    """Shifted by 8 % of the width and 6 % of the height."""
    height, width = picture.shape[:2]
    shift = np.array([[1, 0, 0.08 * width], [0, 1, 0.06 * height]], np.float32)
    return np.asarray(cv2.warpAffine(picture, shift, (width, height), borderMode=cv2.BORDER_REFLECT), np.uint8)


CHANGES: dict[str, Callable[[Picture], Picture]] = {"darker": darker, "brighter": brighter, "moved": moved}

Row = dict[str, Any]


def measure(one: task.Task, draws: int) -> dict[str, Row]:
    """Measures by change. Raises ``TaskError``."""
    recordings = recording.record(one)
    play = policies.trace(recordings.play)
    middle = len(play) // 2
    found = {"none": _mean([_changed(recordings, play, middle, seed) for seed in range(draws)])}
    for name, change in CHANGES.items():
        after = policies.trace(_recorded(one, middle, change))
        trace = joined(play.part(0, middle), after)
        found[name] = _mean([_changed(recordings, trace, middle, seed) for seed in range(draws)])
    found["restart"] = _mean([_restarted(recordings, play, middle, seed) for seed in range(draws)])
    return found


def joined(before: ModelTrace, after: ModelTrace) -> ModelTrace:
    """One trace after the other."""
    return ModelTrace(
        np.concatenate([before.full, after.full]),
        np.concatenate([before.base, after.base]),
        [*before.signatures, *after.signatures],
    )


def _recorded(one: task.Task, middle: int, change: Callable[[Picture], Picture]) -> Recording:
    """Recording of the changed play frames from ``middle`` on, by way of a lossless video."""
    first, end = one.play[0] + middle, one.play[1]
    with tempfile.TemporaryDirectory() as scratch:
        path, writer = Path(scratch) / "changed.avi", None
        for number, frame in enumerate(Video(one.video).frames()):
            if number >= end:
                break
            if number >= first:
                height, width = frame.picture.shape[:2]
                x, y, w, h = one.region or (0, 0, width, height)
                picture = change(np.ascontiguousarray(frame.picture[y : y + h, x : x + w]))
                if writer is None:
                    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"png "), 25.0, (w, h))
                writer.write(picture)
        if writer is not None:
            writer.release()
        only = replace(one, video=path, region=None, truth=None, held_out=(0, 1), tune=(0, 1), play=(0, end - first))
        return recording.record(only, Path(scratch)).play


def _changed(recordings: Recordings, trace: ModelTrace, middle: int, seed: int) -> Row:
    cascade = policies.cascade(recordings, trace.base, MAX_DISAGREEMENT, seed)
    outcome = run(cascade, trace)
    row = _spans(disagreements(outcome.labels, trace.labels), middle)
    row["asked"] = float(outcome.asked[middle:].mean())
    return row | _alarms(recordings, trace, middle, seed)


def _alarms(recordings: Recordings, trace: ModelTrace, middle: int, seed: int) -> Row:
    """Whether there were alarms in the ``AFTER`` frames after the change, from two runs of different length."""
    counts = []
    for end in (middle, middle + AFTER):
        part = trace.part(0, end)
        cascade = policies.cascade(recordings, part.base, MAX_DISAGREEMENT, seed)
        run(cascade, part)
        counts.append((cascade.tally.scene_changes, _audit_alarms(cascade)))
    return {"scene": float(counts[1][0] > counts[0][0]), "audits": float(counts[1][1] > counts[0][1])}


def _restarted(recordings: Recordings, trace: ModelTrace, middle: int, seed: int) -> Row:
    parts = trace.part(0, middle), trace.part(middle, len(trace))
    before, after = (policies.cascade(recordings, part.base, MAX_DISAGREEMENT, seed) for part in parts)
    first = run(before, parts[0])
    if not after.estimator.restore(before.estimator.state):
        raise AssertionError("learned state does not fit the same bundle")
    second = run(after, parts[1])
    row = _spans(disagreements(np.concatenate([first.labels, second.labels]), trace.labels), middle)
    row["asked"] = float(second.asked.mean())
    return row | {"scene": float(after.tally.scene_changes > 0), "audits": float(_audit_alarms(after) > 0)}


def _audit_alarms(cascade: Cascade) -> int:
    return cascade.audits.alarms if cascade.audits is not None else 0


def _spans(disagree: Any, middle: int) -> Row:
    """Disagreement before and after the change."""
    return {
        "before": float(disagree[:middle].mean()),
        "first": float(disagree[middle : middle + AFTER].mean()),
        "later": float(disagree[middle + AFTER :].mean()) if len(disagree) > middle + AFTER else None,
    }


def _mean(rows: list[Row]) -> Row:
    return {
        name: None if rows[0][name] is None else round(float(np.mean([row[name] for row in rows])), 5)
        for name in rows[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scene_change",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", type=Path, required=True, metavar="FILE", help="task file of benchmarks.real")
    parser.add_argument("--draws", type=int, default=5, help="draws of the audits (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    chosen = parser.parse_args()
    try:
        one = task.load(chosen.task)
        found = measure(one, chosen.draws)
    except task.TaskError as error:
        print(f"benchmarks.scene_change: {error}", file=sys.stderr)
        sys.exit(error.code)
    if chosen.json:
        print(json.dumps({"task": one.name, "max_disagreement": MAX_DISAGREEMENT, "changes": found}))
        return
    table = Table(one.name, "before", f"first {AFTER}", "later", "asked after", "alarm: scene", "audits", box=None)
    for name, row in found.items():
        shares = ("before", "first", "later", "asked", "scene", "audits")
        table.add_row(name, *("-" if row[key] is None else f"{row[key]:.1%}" for key in shares))
    Console(highlight=False, markup=False).print(table)
    print(f"Disagreement over all answers; the budget is {MAX_DISAGREEMENT:.1%}.")


if __name__ == "__main__":
    main()
