"""Policies compared on real cameras with the user's own classifier, models' outputs recorded once.

    python -m benchmarks.real --task FILE.toml
    python -m benchmarks.real --task DIRECTORY/*.toml --json --plot curves.png

A task file names a video, a region of its frames, two models and three ranges of frames:

    video = "clip.mp4"
    region = [168, 0, 432, 432]     # x, y, width, height, pixels; left out: the whole frame
    full = "full.onnx"
    base = "base.onnx"
    preprocessing = "imagenet"      # a preset of the builder; of a region nothing is cropped. Or JSON
    labels = "labels.txt"           # optional: a label a line, in the order of the scores
    truth = "truth.csv"             # optional: the true label index of each play frame, one a line
    held_out = [520, 960]           # [first, end], end excluded: the user's footage
    tune = [814, 960]               # where trivial policies' thresholds are chosen; default: its last third
    play = [960, 1394]              # the frames that are measured

Paths are relative to the file. Policies: cachenet at several risk budgets; hold (every n-th frame), difference (of
grey pictures), student (base model with a threshold), student+hold, their thresholds from ``tune`` and once more in
hindsight; server-only; and oracle, a bound. Exit code 2: a task that cannot be measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.real import measure, policies, recording, report, task
from shared.ending import close_stdout
from shared.text import printable


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        *("--task", "-t"), type=Path, nargs="+", action="extend", required=True, metavar="FILE", help="task files"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw agreement over share asked into this file")
    parser.add_argument("--seed", type=int, default=0, help="seed of the audits and of the bootstrap (default: 0)")
    chosen = parser.parse_args()
    try:
        tasks = [task.load(file) for file in chosen.task]
        if twice := next((one.name for one in tasks if sum(one.name == other.name for other in tasks) > 1), None):
            raise task.TaskError(f"two task files are called {twice}; give each task a name of its own")
        measured = [_measured(one, chosen.seed) for one in tasks]
        if chosen.plot:
            report.plot(chosen.plot, measured)
    except task.TaskError as error:
        _say(str(error))
        sys.exit(error.code)
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}")
        sys.exit(1)
    text = json.dumps(report.as_json(measured, chosen.seed)) if chosen.json else report.as_text(measured, chosen.seed)
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader, such as ``head``, has seen enough
        close_stdout()
        sys.exit(1)


def _measured(one: task.Task, seed: int) -> measure.Measured:
    recordings = recording.record(one, advance=lambda number, of: _progress(one.name, number, of))
    try:
        return measure.measure(one, recordings, seed)
    except policies.NotThere as error:
        _say(str(error))
        return measure.measure(one, recordings, seed, with_cachenet=False)


def _progress(name: str, number: int, of: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if number == of else ""
        print(f"\r{name}: models ran on {number} of {of} frames", end=end, file=sys.stderr, flush=True)


def _say(why: str) -> None:
    print(printable(f"benchmarks.real: {why}"), file=sys.stderr)


if __name__ == "__main__":
    main()
