"""What a replay costs beside the decisions that it drives, and whether it stays so when it grows.

    python -m benchmarks.replay_cost

``ratio``: time of a simulated frame of ``ours`` over that of the same hierarchy's calls alone, by turns in one process,
the median of rounds. ``scale``: for streams from 10,000 to a million frames and for 1 to 1,000 devices of 1,000 frames
each, in processes of their own: microseconds of a frame, and what the resident set grows by while it plays. Before
that, ``shoot_s`` is what it takes to have all models say what they say of the pictures, and ``reference_us``, a frame,
what the reference takes. Stream ``dwell`` of the sample's images. All times are the processor's own, so that a
neighbour's work does not count. Some fifteen minutes; what is going on is told on stderr.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from edge_agent.core.types import Ask, Reply
from models import recorded, sample
from shared.bundle import Bundle
from shared.engine import peak_resident_bytes, resident_bytes
from simulator import comparison, links, machines, world
from simulator.comparison import Setup
from simulator.film import Film, shoot
from simulator.policies import Kit, Meter, mind

_FRAMES, _ROUNDS = 3000, 7
_SCALE = ((10_000, 1), (100_000, 1), (1_000_000, 1), (1_000, 1), (1_000, 30), (1_000, 1_000))


def measure(directory: Path) -> dict[str, Any]:
    """The figures as the command prints them."""
    bundle = Bundle(directory)
    [kit] = _kits(bundle, _films(bundle, _FRAMES, 1))
    setting, full = _setting(), comparison.costs(bundle)[bundle.manifest.only("full")]
    alone, played = [], []
    for _ in range(_ROUNDS):
        begun = time.process_time()
        _decide(kit)
        middle = time.process_time()
        world.play("ours", [kit], setting, full, 0)
        alone.append(middle - begun)
        played.append(time.process_time() - middle)
    return {
        "bundle": f"{bundle.manifest.name} {bundle.version}",
        "core_us": 1e6 * median(alone) / _FRAMES,
        "replay_us": 1e6 * median(played) / _FRAMES,
        "ratio": median(two / one for one, two in zip(alone, played, strict=True)),
    }


def scaled(directory: Path, frames: int, devices: int) -> dict[str, Any]:
    """One replay of that size, in this process."""
    bundle = Bundle(directory)
    begun = time.process_time()
    films = _films(bundle, frames, devices)
    shot = time.process_time()
    _tell(f"  pictures {shot - begun:.0f} s")
    kits = _kits(bundle, films)
    prepared = time.process_time()
    _tell(f"  reference {prepared - shot:.0f} s")
    full = comparison.costs(bundle)[bundle.manifest.only("full")]
    before, started = resident_bytes(), time.process_time()
    run = world.play("ours", kits, _setting(), full, 0, replicas=1 + devices // 20)
    seconds, grown = time.process_time() - started, resident_bytes() - before
    _tell(f"  replay {seconds:.0f} s")
    assert sum(device.tally.frames for device in run) == frames * devices
    return {
        "frames": frames,
        "devices": devices,
        "shoot_s": shot - begun,
        "reference_us": 1e6 * (prepared - shot) / (frames * devices),
        "frame_us": 1e6 * seconds / (frames * devices),
        "grown_bytes": grown,
        "grown_bytes_a_device": grown / devices,
        "peak_resident_bytes": peak_resident_bytes(),
    }


def _films(bundle: Bundle, frames: int, devices: int) -> list[Film]:
    full = bundle.manifest.only("full")
    return shoot("dwell", range(devices), frames, sample.load(), recorded.opened(bundle), full)


def _kits(bundle: Bundle, films: list[Film]) -> list[Kit]:
    manifest = bundle.manifest
    full = manifest.only("full")
    device, costs = machines.device("rpi4"), comparison.costs(bundle)
    temperature = manifest.models[full].temperature
    return [
        comparison.kit(
            manifest,
            costs,
            device,
            Setup(),
            film,
            film.reference(full, temperature, manifest.context),
            f"device-{number}",
        )
        for number, film in enumerate(films)
    ]


def _setting() -> world.Setting:
    return world.Setting(machines.device("rpi4"), links.load("wifi"), machines.server("host"))


def _decide(kit: Kit) -> None:
    """The calls alone: every question is answered at once, and what is wanted is there."""
    meter = Meter()
    hierarchy = mind("ours", kit, meter)
    logits = kit.film.pictures.logits[kit.manifest.only("full")]
    for index in range(len(kit.film)):
        frame, now = kit.film.frame(index), index / 30
        step = hierarchy.look(frame, now)
        reply = Reply(index, logits[frame.view]) if isinstance(step, Ask) else None
        answer = hierarchy.settle(step, reply, now + 0.02)
        if answer.audit:
            hierarchy.audited(Reply(index, logits[frame.view]), now)
        if hierarchy.wanted is not None:
            hierarchy.install(kit.model(hierarchy.wanted, meter))


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--one", type=int, nargs=2, metavar=("FRAMES", "DEVICES"), help="one replay of that size")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(scaled(asked.bundle, *asked.one)))
        return
    _tell(f"a replay beside its decisions, {_FRAMES} frames, {_ROUNDS} rounds")
    found = measure(asked.bundle)
    found["scale"] = []
    for frames, devices in _SCALE:
        _tell(f"{frames} frames, {devices} devices")
        command = [sys.executable, "-m", "benchmarks.replay_cost", "--bundle", asked.bundle, "--one"]
        child = subprocess.run([*command, str(frames), str(devices)], check=True, stdout=subprocess.PIPE)
        found["scale"].append(json.loads(child.stdout))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
