"""What a replay costs beside the decisions that it drives, and whether it stays so when it grows.

    python -m benchmarks.replay_cost

``scale``: ``cachenet`` over streams from 10,000 to a million frames, and over 1 to 1,000 devices of 1,000 frames each,
in processes of their own. ``frame_us``: microseconds of a frame, of which ``deciding_us`` go by inside the cascade's
calls; ``ratio`` is of the one to the other. ``grown_bytes``: what the resident set grows by while it plays, without
what the frames to be played take. ``prepare``: ``shoot_s`` is what it takes to have all models look at the
``pictures``. Stream ``dwell`` of the sample's images. Times are the processor's own, so that a neighbour's work does
not count. Some ten minutes; what is going on is told on stderr.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cachenet.models.certify import recorded
from cachenet.models.data import sample
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.inference.engine import peak_resident_bytes, resident_bytes
from cachenet.simulator.policies.policies import DecisionPolicy, ModelTimer, Policy, PolicyInputs, mind
from cachenet.simulator.report import comparison
from cachenet.simulator.report.comparison import Setup
from cachenet.simulator.traces.trace import Trace, shoot
from cachenet.simulator.world import links, machines, world
from cachenet.simulator.world.device import Setting

_SCALE = ((10_000, 1), (100_000, 1), (1_000_000, 1), (1_000, 30), (1_000, 1_000))


def prepared(bundle: Bundle) -> dict[str, Any]:
    """What a film of 10,000 frames takes before it can be played."""
    begun = time.process_time()
    [film] = _films(bundle, 10_000, 1)
    return {"pictures": len(film.pictures.nbytes), "shoot_s": time.process_time() - begun}


def played(bundle: Bundle, frames: int, devices: int) -> dict[str, Any]:
    """One replay of that size, in this process."""
    kits = _kits(bundle, _films(bundle, frames, devices))
    full = comparison.costs(bundle)[bundle.manifest.only("full")]
    setting = Setting(machines.device("rpi4"), links.load("wifi"), machines.server("host"))
    stopwatch = Stopwatch()
    with patch("cachenet.simulator.world.device.mind", stopwatch.mind):
        before, begun, started = resident_bytes(), time.process_time(), time.perf_counter()
        run = world.play("cachenet", kits, setting, full, 0, replicas=1 + devices // 20)
        # Which part of it is deciding is told by a clock that is read in no time, and how long it was by a true one.
        deciding = stopwatch.seconds / (time.perf_counter() - started)
        frame_us = 1e6 * (time.process_time() - begun) / (frames * devices)
        grown = resident_bytes() - before
    tallies = [device.tally for device in run]
    assert sum(tally.frames for tally in tallies) == frames * devices
    return {
        "frames": frames,
        "devices": devices,
        "frame_us": frame_us,
        "deciding_us": frame_us * deciding,
        "ratio": 1.0 / deciding,
        "local_share": sum(tally.hits for tally in tallies) / (frames * devices),
        "grown_bytes": grown,
        "grown_bytes_a_device": grown / devices,
        "peak_resident_bytes": peak_resident_bytes(),
    }


class Stopwatch:
    """Seconds inside the calls of all minds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def mind(self, policy: Policy, kit: PolicyInputs, meter: ModelTimer) -> DecisionPolicy:
        """As ``policies.mind``, and its calls are timed."""
        made = mind(policy, kit, meter)
        for name in ("lookup", "complete", "on_late_reply", "on_audit_reply", "install", "on_device"):
            setattr(made, name, self._timed(getattr(made, name)))
        return made

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any) -> Any:
            begun = time.perf_counter()
            found = call(*given)
            self.seconds += time.perf_counter() - begun
            return found

        return timed


def _films(bundle: Bundle, frames: int, devices: int) -> list[Trace]:
    full = bundle.manifest.only("full")
    return shoot("dwell", range(devices), frames, sample.load(), recorded.opened(bundle), full)


def _kits(bundle: Bundle, films: list[Trace]) -> list[PolicyInputs]:
    device, costs = machines.device("rpi4"), comparison.costs(bundle)
    return [
        comparison.kit(bundle.manifest, costs, device, Setup(), film, f"device-{number}")
        for number, film in enumerate(films)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--one", type=int, nargs=2, metavar=("FRAMES", "DEVICES"), help="one replay of that size")
    asked = parser.parse_args()
    bundle = Bundle(asked.bundle)
    if asked.one:
        print(json.dumps(played(bundle, *asked.one)))
        return
    _tell("preparing")
    prepare, scale = prepared(bundle), []
    for frames, devices in _SCALE:
        _tell(f"{frames:,} frames, devices: {devices:,}")
        command = [sys.executable, "-m", "benchmarks.replay_cost", "--bundle", asked.bundle, "--one"]
        child = subprocess.run([*command, str(frames), str(devices)], check=True, stdout=subprocess.PIPE)
        scale.append(json.loads(child.stdout))
        _tell(f"  {scale[-1]['frame_us']:.0f} us a frame, {scale[-1]['ratio']:.2f} times deciding")
    version = f"{bundle.manifest.name} {bundle.version}"
    print(json.dumps({"bundle": version, "prepare": prepare, "scale": scale}))


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
