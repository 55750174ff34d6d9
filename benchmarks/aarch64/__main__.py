"""Whether the agent's wheels run on a Raspberry Pi's processor, and its models answer there as they do here.

    sudo python -m benchmarks.aarch64 [--cpu cortex-a53 cortex-a72 cortex-a76] [--frames 100]

Makes a Debian for aarch64 in ``build/aarch64``, installs the project there from wheels, and runs it emulated: the
models on shipped frames, and the agent on the shipped clip. Exit code 1 after a difference, 2 without root or QEMU.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

from benchmarks.aarch64 import emulated
from benchmarks.aarch64.compare import Answers, compare

PROJECT = Path(__file__).parents[2]
ROOT = PROJECT / "build/aarch64"
#: Where the largest difference is not that of float models. Decoded colours differ by two grey levels, and scores of
#: the INT8 base model by two steps of its output, 0.074 each, which is rounded otherwise: twice that is allowed.
TOLERANCES = {"cifar10 frames": 0.0, "campus frames": 4.0, "cifar10 general-1in50.1": 0.0, "cifar10 base": 0.3}
_SCRIPT = Path(__file__).with_name("answers.py")
#: The agent on the shipped clip. Its full model would be loaded for longer than the emulated clip lasts.
_AGENT = (
    "import sys; from importlib import resources; from cachenet.edge_agent.__main__ import main; "
    "clip = resources.files('cachenet') / 'models/zoo/campus-clip/campus.mp4'; "
    "sys.argv = ['edge-agent', 'run', str(clip), *sys.argv[1:]]; main()"
)
_SETTINGS = ("--bundle", "campus", "--mode", "offline", "--set", "levels=frames,base", "--no-view", "--output", "-")


def read(file: Path) -> Answers:
    return msgspec.msgpack.decode(file.read_bytes(), type=dict[str, list[object]])


def check(cpu: str, known: Answers, frames: int) -> bool:
    """Run everything on one processor and print one line. Returns whether all answers are as they are here."""
    printed = emulated.run(ROOT, cpu, "/answers.py", "/answers.msgpack", str(frames), "/clip.npy")
    print(printed, end="")
    compared = compare(known, read(ROOT / "answers.msgpack"), TOLERANCES)
    for one in compared:
        allowed = f"{one.largest:.2g}, {one.tolerance:g} allowed"
        print(f"  {one.model}: {one.equal} of {one.frames} equal, largest difference {allowed}")
    lines = emulated.run(ROOT, cpu, "-c", _AGENT, *_SETTINGS, "--frames", str(frames)).splitlines()
    answered = sum('"objects"' in line for line in lines)
    agrees = answered == frames and all(one.within_tolerance for one in compared)
    failed = ", ".join(one.model for one in compared if not one.within_tolerance)
    verdict = "passed" if agrees else f"FAILED {failed}"
    print(
        f"aarch64 {cpu}: the agent answered {answered} of {frames} frames, models as on {os.uname().machine}: {verdict}"
    )
    return agrees


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cpu", nargs="+", choices=emulated.CPUS, default=["cortex-a72"], help="processors to emulate")
    parser.add_argument("--frames", type=int, default=100, help="frames for each model (default: 100)")
    options = parser.parse_args()
    missing = [name for name in ("debootstrap", "dpkg-deb", "qemu-aarch64-static") if not shutil.which(name)]
    if os.geteuid() or missing:
        print(f"aarch64: needs root, debootstrap and qemu-user-static; missing: {missing or 'root'}", file=sys.stderr)
        raise SystemExit(2)
    try:
        emulated.make(ROOT)
        emulated.install(ROOT, PROJECT)
        shutil.copy(_SCRIPT, ROOT)
        here, clip = ROOT / "here.msgpack", ROOT / "clip.npy"
        clip.unlink(missing_ok=True)
        subprocess.run([sys.executable, str(_SCRIPT), str(here), str(options.frames), str(clip)], check=True)
        agree = [check(cpu, read(here), options.frames) for cpu in options.cpu]
    except (emulated.EmulationError, subprocess.CalledProcessError) as error:
        print(f"aarch64: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    raise SystemExit(0 if all(agree) else 1)


if __name__ == "__main__":
    main()
