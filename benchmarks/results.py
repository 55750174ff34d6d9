"""The grid: every stream on every device over every link, and the comparisons that claims are made of, written down.

    python -m benchmarks.results --seeds 5 --out docs/results.md

Every cell is what ``simulator compare`` says; models look at every stream once. Prints the whole as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from cachenet.models.certify import recorded
from cachenet.models.data import cifar10, sample, streams
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command import atomic_files
from cachenet.simulator.policies.policies import Policy
from cachenet.simulator.report import comparison
from cachenet.simulator.report.comparison import Setup

DEVICES = ("rpi4", "rpi5", "jetson-nano", "jetson-orin-nano", "host")
LINKS = ("lan", "wifi", "lte", "3g", "sat", "lossy")
#: What the grid needs to know: CacheNet, the rule as published, the best trivial policy, the baselines and the limit.
POLICIES: tuple[Policy, ...] = (
    "cachenet",
    "cachenet-paper",
    "student+hold",
    "server-only",
    "device-only",
    "oracle",
)
Found = dict[str, dict[str, Any]]


def grid(
    bundle: Bundle, split: cifar10.Split, names: Sequence[streams.Name], setup: Setup, progress: Progress
) -> dict[str, dict[str, dict[str, Found]]]:
    """Figures by stream, device and link."""
    models = recorded.opened(bundle)
    found: dict[str, dict[str, dict[str, Found]]] = {}
    for name in names:
        bench = comparison.prepare(bundle, replace(setup, stream=name), split, models, progress)
        found[name] = {}
        for device in DEVICES:
            found[name][device] = {}
            for link in LINKS:
                cell = replace(setup, stream=name, device=device, link=link)
                runs = comparison.compare(bench, cell, None, progress)
                found[name][device][link] = comparison.summary(runs)
    return found


def markdown(found: dict[str, dict[str, dict[str, Found]]], command: str, about: str) -> str:
    """The grid as tables: how many times as fast as the better baseline CacheNet is, and what it is of the oracle."""
    lines = [
        "# Results",
        "",
        f"Written by `{command}`. {about}",
        "",
        "In each cell: the mean latency of `cachenet` in milliseconds, *how many times as fast it is as the better of "
        "`server-only` and `device-only`*, and how fast beside the oracle. A baseline that is more than two points "
        "further from the full model than the other (asking over a link that never answers in time) is none. Devices "
        "and links are profiles: published timings, scaled, not measurements of those devices.",
    ]
    for name, devices in found.items():
        lines += ["", f"## `{name}`", "", "| | " + " | ".join(f"`{link}`" for link in LINKS) + " |"]
        lines += ["|---" * (len(LINKS) + 1) + "|"]
        for device, links in devices.items():
            cells = [_cell(links[link]["cachenet"]) for link in LINKS]
            lines.append(f"| `{device}` | " + " | ".join(cells) + " |")
        some = devices["rpi4"]["wifi"]
        lines += ["", _shares(some)]
    worst = min(
        (links[link]["cachenet"].get("ratio_to_best_baseline", 1.0), name, device, link)
        for name, devices in found.items()
        for device, links in devices.items()
        for link in LINKS
    )
    lines += [
        "",
        f"The worst cell: {worst[0]:.2f} times the better baseline, `{worst[1]}` on `{worst[2]}` over `{worst[3]}`.",
        "",
    ]
    return "\n".join(lines)


def _cell(own: dict[str, Any]) -> str:
    return f"{own['latency_ms']['mean']:.1f} ms, *{own['ratio_to_best_baseline']:.1f}*, {own['ratio_to_oracle']:.0%}"


def _shares(found: Found) -> str:
    """Disagreement and truth hardly depend on where it runs: of one cell."""
    said = ", ".join(
        f"`{name}` {of['local_share']:.1%} local, {of['disagreement']:.2%} disagreement, {of['accuracy']:.1%} true"
        for name, of in found.items()
    )
    return f"On `rpi4` over `wifi`: {said}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--stream", action="append", choices=streams.NAMES, help="may come again; default: all")
    parser.add_argument("--server", default="host")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--images", choices=("sample", "test"), default="test")
    parser.add_argument("--out", type=Path, help="write the tables there, Markdown")
    asked = parser.parse_args()
    names = tuple(asked.stream or streams.NAMES)
    setup = Setup(
        server=asked.server,
        seeds=range(asked.first_seed, asked.first_seed + asked.seeds),
        frames=asked.frames,
        policies=POLICIES,
    )
    bundle = Bundle(asked.bundle)
    split = sample.load() if asked.images == "sample" else cifar10.load().test
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        found = grid(bundle, split, names, setup, progress)
    about = (
        f"Bundle {bundle.manifest.name} {bundle.version[:12]}, {asked.images} images, server `{asked.server}`, "
        f"{asked.seeds} seeds from {asked.first_seed}, {asked.frames} frames each."
    )
    if asked.out is not None:
        command = "python -m benchmarks.results " + " ".join(sys.argv[1:])
        atomic_files.write(asked.out, markdown(found, command.strip(), about).encode())
    print(json.dumps({"about": about, "grid": found}))


if __name__ == "__main__":
    main()
