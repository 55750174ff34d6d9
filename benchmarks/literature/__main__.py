"""Measure a method of the literature on the project's models and clips.

    python -m benchmarks.literature --row exits-on-device --json

Rows: docs/literature.md says what each is, and how long it takes. What a row
trains stays in --work: a run that was ended continues there.
Exit code 2: a row or an input that is not there; 1: a row that failed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from benchmarks.literature.row import Inputs, Row
from cachenet.shared.command import exit
from cachenet.shared.command.errors import UserError

#: Rows, and the modules that measure them. Each module has a ``ROW``.
ROWS = {
    "feature-compression": "feature_compression.measure",
    "converting-autoencoder": "converting_autoencoder.measure",
    "learned-offloading": "learned_offloading.measure",
    "time-estimation": "time_estimation.row",
    "compression": "compression.row",
    "scene-reuse": "scene_reuse.measure",
    "exits-on-device": "exits_on_device.measure",
}
_PROGRAM = "benchmarks.literature"


def row(name: str) -> Row:
    """The row of a name; its module is imported now, since some need the extra ``literature``."""
    found = importlib.import_module(f"benchmarks.literature.{ROWS[name]}").ROW
    if not isinstance(found, Row):
        raise TypeError(f"{name}: ROW is not a Row")
    return found


def main() -> None:
    chosen = _parser().parse_args()
    inputs = Inputs(chosen.data, chosen.work / chosen.row, chosen.smoke, lambda line: print(line, file=sys.stderr))
    inputs.work.mkdir(parents=True, exist_ok=True)
    try:
        one = row(chosen.row)
        result = one.measure(inputs)
    except UserError as error:
        exit.say(_PROGRAM, str(error))
        sys.exit(2)
    except ModuleNotFoundError as error:
        exit.say(_PROGRAM, f"{error.name} is missing: pip install -c constraints.txt '.[dev]'")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    if chosen.json:
        about = {"row": chosen.row, "published": one.published, "measured": result.measured, "unit": result.unit}
        print(json.dumps({**about, "pays": result.pays, "smoke": inputs.smoke, **result.details}))
        return
    print(f"published  {one.published}")
    print(f"measured   {result.measured:.4g} {result.unit}" + (" (smoke: means nothing)" if inputs.smoke else ""))
    print(f"pays       {'yes' if result.pays else 'no'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {_PROGRAM}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", required=True, choices=sorted(ROWS), metavar="NAME", help=", ".join(sorted(ROWS)))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="clips, detectors and tasks")
    parser.add_argument("--work", type=Path, default=Path("build/literature"), help="what was trained and recorded")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to show that the row runs")
    parser.add_argument("--json", action="store_true", help="print everything as one line of JSON")
    return parser


if __name__ == "__main__":
    main()
