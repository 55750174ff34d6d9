"""Compare policies on real cameras with the user's own classifier. The models
run over each task's frames once; later runs read the cached outputs.

    python -m benchmarks.real --task FILE.toml
    python -m benchmarks.real --task DIRECTORY/*.toml --json --plot curves.png

A task file names a video, a region, two models and ranges of frames, each as
[first, end], end excluded. Paths are relative to the file.

    video = "clip.mp4"
    region = [168, 0, 432, 432]   # x, y, width, height, pixels; default: all
    full = "full.onnx"
    base = "base.onnx"
    preprocessing = "imagenet"    # as for model-builder build
    labels = "labels.txt"         # optional: a label a line, in score order
    truth = "truth.csv"           # optional: a label index for each play frame
    held_out = [520, 960]         # the user's footage
    tune = [814, 960]             # default: the last third of held_out
    play = [960, 1394]            # the frames of the measurement

Policies: cachenet at several risk budgets; hold (every n-th frame), difference
(of grey pictures), student (base model with a threshold) and student+hold, with
thresholds from the tuning frames and in hindsight; server-only; oracle, a bound.
Exit code 2: a task that cannot be measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.real import measure, recording, report, task
from cachenet.shared.command.exit import close_stdout
from cachenet.shared.command.text import printable


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        *("--task", "-t"), type=Path, nargs="+", action="extend", required=True, metavar="FILE", help="task files"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="write a plot of agreement over share asked")
    parser.add_argument("--seed", type=int, default=0, help="seed of the audits and of the bootstrap (default: 0)")
    chosen = parser.parse_args()
    try:
        tasks = [task.load(file) for file in chosen.task]
        if twice := next((one.name for one in tasks if sum(one.name == other.name for other in tasks) > 1), None):
            raise task.TaskError(f"two task files are called {twice}; give each task its own name")
        measured = [_measured(one, chosen.seed) for one in tasks]
        if chosen.plot:
            report.plot(chosen.plot, measured)
    except task.TaskError as error:
        _print_error(str(error))
        sys.exit(error.code)
    except OSError as error:
        _print_error(f"{error.filename}: {error.strerror}")
        sys.exit(1)
    text = json.dumps(report.as_json(measured, chosen.seed)) if chosen.json else report.as_text(measured, chosen.seed)
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader, such as ``head``, has ended
        close_stdout()
        sys.exit(1)


def _measured(one: task.Task, seed: int) -> measure.Measured:
    recordings = recording.record(one, advance=lambda number, of: _progress(one.name, number, of))
    return measure.measure(one, recordings, seed)


def _progress(name: str, number: int, of: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if number == of else ""
        print(f"\r{name}: models ran on {number} of {of} frames", end=end, file=sys.stderr, flush=True)


def _print_error(why: str) -> None:
    print(printable(f"benchmarks.real: {why}"), file=sys.stderr)


if __name__ == "__main__":
    main()
