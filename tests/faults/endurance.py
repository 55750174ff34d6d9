"""Compressed twelve hours of a device: resident set, descriptors, threads and disk stay flat.

    python -m tests.faults.endurance [--frames 400000] [--every 5000] [--samples FILE] [--json]

A device answers small frames as fast as it can. Broker and server are processes of their own. After every 5,000 frames
the server offers the other of two versions of the bundle. The means over an interval go to ``--samples`` as a line of
JSON: a run that ends early continues with the same file, as a further part with its own level. Exit code 1: a measure
grows, or an update did not reach the device.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import cachenet
from cachenet.shared.inference.engine import resident_bytes
from cachenet.simulator.world.processes import free_port
from tests.bundles import tiny_bundle
from tests.descriptors import descriptors
from tests.faults.processes import Killable, broker, end_on_sigterm, server, wait_for_port
from tests.faults.trend import trend

#: Measures, and the growth in 100,000 frames that counts as flat. The allocator's own noise is some 100 kB.
LIMITS = {"resident_bytes": 1e6, "descriptors": 1.0, "threads": 1.0, "disk_bytes": 1e5}
#: Intervals of each part before its memory is measured: models, caches and the allocator fill.
_WARM_UP = 2
#: Frames between two readings of the measures.
_READ_EVERY = 250
#: Longest time that a device continues until it has committed the offered version, seconds: 1,000 frames on a busy
#: machine.
_UPDATE_S = 600.0
#: Frames of the stream before it repeats, and frames that show one picture.
_PICTURES, _REPEATS = 500, 10


def pictures() -> Iterator[np.ndarray]:
    """Pictures of random blocks ``(48, 64, 3)``, each shown for a few frames, without end."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (_PICTURES, 12, 16, 3), np.uint8)
    while True:
        for block in blocks:
            picture = block.repeat(4, 0).repeat(4, 1)
            for _ in range(_REPEATS):
                yield picture


def reading(store: Path) -> dict[str, float]:
    """The measures of this process now."""
    files = [path.stat().st_size for path in store.rglob("*") if path.is_file()]
    return {
        "resident_bytes": resident_bytes(),
        "descriptors": descriptors(),
        "threads": threading.active_count(),
        "disk_bytes": sum(files),
    }


def run(frames: int, every: int, samples: Path, progress: bool) -> None:
    """Answer frames until ``samples`` holds ``frames`` of them."""
    known = load(samples)
    is_cut = samples.exists() and not samples.read_bytes().endswith(b"\n")  # the run before was ended in a line
    done, part = sum(one["frames"] for one in known), 1 + max((one["part"] for one in known), default=-1)
    with tempfile.TemporaryDirectory() as scratch:
        work, port = Path(scratch), free_port()
        versions = [tiny_bundle(work / f"bundle{seed}", seed) for seed in range(2)]
        mosquitto = broker(work, port, _mosquitto())
        offering = server(work, versions[0], port)
        try:
            mosquitto.start()
            wait_for_port(mosquitto, port)
            offering.start()
            store = work / "store"
            with cachenet.connect(
                f"mqtt://127.0.0.1:{port}", store=store, device="endurance", audit_share=0.05,
                levels="frames,submodels,base,cloud", provider="cpu", threads=1,
            ) as device:  # fmt: skip
                stream, offered = pictures(), 0
                while done < frames:
                    sample = _interval(device, stream, every, store)
                    sample |= {"part": part, "version": device.summary()["bundle_version"][:12]}
                    with samples.open("a") as file:
                        file.write("\n" * is_cut + json.dumps(sample) + "\n")
                    is_cut = False
                    done += every
                    if progress:
                        print(f"\r{done} of {frames} frames", end="", file=sys.stderr, flush=True)
                    if done < frames:
                        offered = 1 - offered
                        _offer(device, stream, offering, versions[offered])
        finally:
            offering.kill()
            mosquitto.kill()


def _interval(device: cachenet.Device, stream: Iterator[np.ndarray], frames: int, store: Path) -> dict[str, Any]:
    begun, readings = time.monotonic(), []
    for number in range(frames):
        device(next(stream))
        if number % _READ_EVERY == 0:
            readings.append(reading(store))
    means = {name: statistics.fmean(one[name] for one in readings) for name in LIMITS}
    return {"frames": frames, "seconds": round(time.monotonic() - begun, 2), **means}


def _offer(device: cachenet.Device, stream: Iterator[np.ndarray], offering: Killable, bundle: Path) -> None:
    """Start the server with another version; the device answers until it has committed the version."""
    before = device.summary()["bundle_version"]
    offering.kill()
    offering.command[-1] = str(bundle)
    offering.start()
    deadline = time.monotonic() + _UPDATE_S
    while time.monotonic() < deadline:
        for _ in range(50):
            device(next(stream))
        summary = device.summary()
        if summary["bundle_version"] != before and summary["update"] == "committed":
            return
    raise SystemExit(f"the update to {bundle} is {device.summary()['update']!r} after {_UPDATE_S:.0f} s")


def load(samples: Path) -> list[dict[str, Any]]:
    """The samples of earlier parts; the last line of an interrupted run may be cut off."""
    lines = samples.read_text().splitlines() if samples.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def measures(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Growth of each measure in 100,000 frames with its interval, and whether its lower bound is over the limit."""
    parts: dict[int, list[dict[str, Any]]] = {}
    for sample in samples:
        parts.setdefault(sample["part"], []).append(sample)
    report: dict[str, Any] = {
        "frames": sum(sample["frames"] for sample in samples),
        "parts": len(parts),
        "updates": len(samples) - len(parts),
        "seconds": round(sum(sample["seconds"] for sample in samples), 1),
        "growing": [],
    }
    for name, limit in LIMITS.items():
        points = []
        for part in parts.values():
            ends = np.cumsum([sample["frames"] for sample in part])
            points.append([(float(end), sample[name]) for end, sample in zip(ends, part, strict=True)][_WARM_UP:])
        found = trend([own for own in points if own] or [[(0.0, 0.0)]])
        report[name] = {
            "last": round(samples[-1][name]),
            "growth_per_100000": [round(1e5 * value, 1) for value in found] if np.isfinite(found.low) else None,
        }
        if 1e5 * found.low > limit:
            report["growing"].append(name)
    return report


def _mosquitto() -> str:
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise SystemExit("mosquitto is missing; `make test` says how to install it")
    return program


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.endurance", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--frames", type=int, default=400_000, help="number of frames (default: 400000)")
    parser.add_argument("--every", type=int, default=5000, help="frames between two updates (default: 5000)")
    parser.add_argument("--samples", type=Path, help="file of samples; an existing one is continued (default: none)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a line")
    chosen = parser.parse_args()
    logging.getLogger("cachenet").setLevel(logging.CRITICAL)  # random models disagree, and audits give alarms
    end_on_sigterm()
    with tempfile.TemporaryDirectory() as scratch:
        samples = chosen.samples or Path(scratch) / "samples.jsonl"
        try:
            run(chosen.frames, chosen.every, samples, sys.stderr.isatty())
        except KeyboardInterrupt:
            print("interrupted; the same command continues with --samples", file=sys.stderr)
        if not (found := load(samples)):
            raise SystemExit("no interval has ended")
        report = measures(found)
    if chosen.json:
        print(json.dumps(report))
    else:
        grown = {name: report[name]["growth_per_100000"] for name in LIMITS}
        print(
            f"{report['frames']} frames, {report['updates']} updates, {report['seconds']} s; growth in 100,000: {grown}"
        )
    if report["growing"]:
        print(f"growing: {', '.join(report['growing'])}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
