"""Answers of a bundle on a camera that it was not built for.

    python -m benchmarks.out_of_distribution
    python -m benchmarks.out_of_distribution --videos DIR --json

The shipped CIFAR-10 bundle on street, traffic and telephone clips, which
'model-builder fetch --out build/imagenet' downloads. Shares of frames:
"labelled", answered by a local level with a label and a stated risk under 0.1;
"unknown"; "asked", audits included. Default settings; the server answers every
request.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cachenet.models.certify import traces
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.audits import MIN_AUDIT_RATE
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT
from cachenet.shared.media.video import BadVideo, Video

VIDEOS = ("vtest.avi", "bikes.mp4", "carphone_pristine.mp4")
#: Stated risk under which an answer counts as labelled.
_MOST_RISK = 0.1


def measure(bundle: Bundle, models: traces.Models, video: Path) -> dict[str, Any]:
    """Measures of one video. Raises ``BadVideo`` and ``OSError``."""
    family = traces.family_of(bundle.manifest)
    pictures = [frame.picture for frame in Video(video).frames()]
    stream = traces.record_pictures(pictures, np.zeros(len(pictures), np.int64), models)
    run = traces.replay(stream, family, traces.device_cascade(stream, family, MAX_DISAGREEMENT, MIN_AUDIT_RATE))
    unknown = run.labels < 0
    labelled = ~run.misses & ~unknown & (run.risks < _MOST_RISK)
    return {
        "frames": len(pictures),
        "labelled": round(float(labelled.mean()), 5),
        "unknown": round(float(unknown.mean()), 5),
        "asked": round(float(run.asked.mean()), 5),
    }


def pooled(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Measures over all frames of all videos."""
    frames = [row["frames"] for row in rows]
    shares = ("labelled", "unknown", "asked")
    return {"frames": sum(frames)} | {
        name: round(float(np.average([row[name] for row in rows], weights=frames)), 5) for name in shares
    }


def _measured(bundle: Bundle, models: traces.Models, video: Path) -> dict[str, Any]:
    try:
        return measure(bundle, models, video)
    except (BadVideo, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        print(f"benchmarks.out_of_distribution: {video}: {why}", file=sys.stderr)
        sys.exit(2)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.out_of_distribution",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--videos", type=Path, default=Path("build/imagenet/videos"), metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    chosen = parser.parse_args()
    bundle = Bundle(chosen.bundle)
    models = traces.open_models(bundle)
    found = {name: _measured(bundle, models, chosen.videos / name) for name in VIDEOS}
    found["all"] = pooled(list(found.values()))
    if chosen.json:
        print(json.dumps({"bundle": bundle.version[:12], "videos": found}))
        return
    table = Table("video", "frames", f"label, risk under {_MOST_RISK:g}", "unknown", "asked", box=None)
    for name, row in found.items():
        table.add_row(name, str(row["frames"]), *(f"{row[key]:.1%}" for key in ("labelled", "unknown", "asked")))
    Console(highlight=False, markup=False).print(table)


if __name__ == "__main__":
    main()
