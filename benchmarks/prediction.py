"""How near a replay comes to a real run: this machine's own profile is measured, ``simulator live`` is run with real
processes over an emulated link, and the same frames are replayed with the profile.

    python -m benchmarks.prediction --link wifi --stream camera

Of each policy the mean latency in milliseconds, measured and predicted, and ``ratio``, predicted over measured. Nothing
else should run meanwhile. In the live run device, broker and server share one machine; the profile is of each alone.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from cachenet.models.certify import recorded
from cachenet.models.data import streams
from cachenet.shared.bundle.manifest import Bundle
from cachenet.simulator.policies.policies import Policy
from cachenet.simulator.report import comparison, live
from cachenet.simulator.report.comparison import Setup
from cachenet.simulator.report.live import Options
from cachenet.simulator.report.report import CACHENET, SERVER
from cachenet.simulator.traces.trace import project
from cachenet.simulator.world import links, profiling, world
from cachenet.simulator.world.device import Setting

#: Those that decide alike live and replayed; live, ``device-only`` has one thread.
POLICIES: tuple[Policy, ...] = (CACHENET, SERVER)  # type: ignore[assignment]


def measure(options: Options) -> dict[str, Any]:
    """The figures as the command prints them."""
    bundle = Bundle(options.bundle)
    manifest = bundle.manifest
    full = manifest.only("full")
    processors = len(os.sched_getaffinity(0))
    device, _ = profiling.device("this machine", bundle, sorted({1, processors}))
    server = profiling.server("this machine", bundle, processors)
    with tempfile.TemporaryDirectory(prefix="cachenet-prediction-") as directory:
        options = replace(options, out=Path(directory))
        outcomes = live.compare(options, Console(file=io.StringIO()))
        film = project(Path(directory) / "demo" / "stream", manifest.labels, recorded.opened(bundle), full)
    costs = comparison.costs(bundle)
    kit = comparison.kit(manifest, costs, device, Setup(), film, "demo")
    setting = Setting(device, links.load(options.link), server, options.fps, cold=True)  # as a new store is
    found = {}
    for policy in POLICIES:
        [played] = world.play(policy, [kit], setting, costs[full], options.seed)
        measured, predicted = outcomes[policy].latency_ms["mean"], played.tally.latency.mean
        found[policy] = {
            "measured_ms": measured,
            "predicted_ms": predicted,
            "ratio": predicted / measured,
            "measured_local_share": outcomes[policy].local_share,
            "predicted_local_share": played.tally.hits / played.tally.frames,
        }
    return {
        "bundle": f"{manifest.name} {bundle.version}",
        "stream": options.stream,
        "link": options.link,
        "seed": options.seed,
        "frames": options.frames,
        "fps": options.fps,
        "policies": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--stream", choices=streams.NAMES, default="camera")
    parser.add_argument("--link", default="wifi")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=600)
    asked = parser.parse_args()
    options = Options(frames=asked.frames, seed=asked.seed, stream=asked.stream, link=asked.link, bundle=asked.bundle)
    print(json.dumps(measure(options)))


if __name__ == "__main__":
    main()
