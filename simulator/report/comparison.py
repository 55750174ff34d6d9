"""The comparison: every policy over the same recorded films, on one device, link and server, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx
from rich.progress import Progress
from rich.table import Table

from cachenet.edge_agent.outputs.report import Latencies
from cachenet.models.certify.recorded import Models
from cachenet.models.data import streams
from cachenet.models.data.cifar10 import LABELS, Split
from cachenet.models.export import cost
from cachenet.models.export.cost import Cost
from cachenet.models.report.confidence_interval import interval
from cachenet.shared.bundle.manifest import Bundle, Manifest, Way
from cachenet.shared.cascade.reference import disagreements
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.early_exit import load
from cachenet.shared.inference.graph_split import cut, read
from cachenet.simulator.policies import trivial
from cachenet.simulator.policies.policies import OWN, POLICIES, Policy, PolicyInputs
from cachenet.simulator.policies.trivial import TRIVIAL, Trivial
from cachenet.simulator.policies.trivial import Setting as Thresholds
from cachenet.simulator.traces.trace import Index, Trace, project, shoot
from cachenet.simulator.world import links, machines, servers, world
from cachenet.simulator.world.device import WINDOW, Device, Setting, Tally

if TYPE_CHECKING:
    from cachenet.simulator.report.sweep import Sweep

#: What a user has without any of this; the better of the two is what a policy has to beat.
BASELINES: tuple[Policy, ...] = ("server-only", "device-only")
LATENCIES = ("mean", "p50", "p95", "p99")
#: By how much a baseline may agree less with the full model than the other and still be one.
_FAIR = 0.02
#: Kind of the early exits of a full model that a device runs itself.
_WAY: Way = "gati"
#: Columns that ``table`` needs to show every figure whole.
TABLE_WIDTH = 150


@dataclass(frozen=True)
class Setup:
    """What is compared; names are those of profiles or of their files. ``stream``: a name, or the directory of a
    recorded one, of which ``frames`` and ``fps`` are then the recording's. ``dwell``: see ``streams.plan``. ``seeds``:
    of streams, links and audits. ``devices``: cameras behind the same ``replicas`` of the server, each with a stream of
    its own. ``cold``: see ``Setting``."""

    stream: str = "dwell"
    dwell: int = streams.DWELL
    device: str = "rpi4"
    link: str = "wifi"
    server: str = "host"
    seeds: range = range(1000, 1020)
    frames: int = 1000
    fps: float = 30.0
    deadline_ms: float = 250.0
    max_disagreement: float = MAX_DISAGREEMENT
    devices: int = 1
    replicas: int = 1
    cold: bool = False
    policies: tuple[Policy, ...] = POLICIES

    @property
    def recorded(self) -> bool:
        return self.stream not in streams.NAMES


@dataclass(frozen=True)
class Bench:
    """A bundle, ready to be compared with.

    Attributes:
        costs: By model.
        reached: Costs of what runs until each early exit of the full model has answered, and last of a whole run with
            all exits.
        thresholds: Of the trivial policies.
    """

    bundle: Bundle
    costs: dict[str, Cost]
    reached: list[Cost]
    films: list[Trace]
    thresholds: dict[Trivial, Thresholds] = field(default_factory=dict)

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest


Row = dict[str, float]


@dataclass(frozen=True)
class Run:
    """One policy's run of one seed: its figures, its latencies, and hits over time, the first device's."""

    row: Row
    latency: Latencies
    course: list[float]


Runs = dict[Policy, list[Run]]


def costs(bundle: Bundle) -> dict[str, Cost]:
    """What tells how long its models take, by their names."""
    return {
        name: cost.cost(onnx.load(str(bundle.path(name))), model.input.size)
        for name, model in bundle.manifest.models.items()
    }


def reached(bundle: Bundle) -> list[Cost]:
    """Of a run of the full model until each cache between its layers has answered, and last of those that none does;
    empty where it has none."""
    manifest = bundle.manifest
    if _WAY not in manifest.layers:
        return []
    full, caches = manifest.models[manifest.only("full")], manifest.layers[_WAY].caches
    pieces = cut(read(bundle.find(full).read_bytes()), [layer.tensors for layer in caches])
    found, operators, looked = [], 0, 0
    for piece, layer in zip(pieces, caches, strict=False):
        cache = onnx.load(str(bundle.find(layer)))
        operators += cost.operators(onnx.load_from_string(piece.model)) + cost.operators(cache)
        looked += cost.parameters(cache)  # its weights are used about once each
        found.append(Cost(round(layer.share * full.macs) + looked, operators, False))
    operators += cost.operators(onnx.load_from_string(pieces[-1].model))
    return [*found, Cost(full.macs + looked, operators, False)]


class Incomparable(UserError):
    """A bundle that cannot be compared with; the text says why."""


def check(setup: Setup) -> None:
    """Raises ``UnknownMachine`` or ``UnknownLink`` if a profile is not there."""
    machines.device(setup.device), machines.server(setup.server), links.load(setup.link)


def check_bundle(setup: Setup, manifest: Manifest) -> None:
    """Raises ``Incomparable``."""
    if not setup.recorded and manifest.labels != LABELS:
        raise Incomparable(f"streams are of CIFAR-10's labels, and {manifest.name} has others; record one of your own")


def with_policies(setup: Setup, manifest: Manifest) -> Setup:
    """``setup`` without ``cachenet-paper`` where the bundle has no submodels for it."""
    if manifest.entropy:
        return setup
    return replace(setup, policies=tuple(one for one in setup.policies if one != "cachenet-paper"))


def about(setup: Setup, images: str) -> str:
    """What the figures hold for, in a line for a person."""
    of = "the same pictures for every seed" if setup.recorded else f"of {images} images"
    several = f" for each of {setup.devices} cameras behind {setup.replicas} servers" if setup.devices > 1 else ""
    return (
        f"Stream {setup.stream}, {of}, device {setup.device}, link {setup.link}, server {setup.server}, "
        f"{len(setup.seeds)} seeds from {setup.seeds.start}, {setup.frames} frames{several}; "
        f"± is half a 95 % interval. Budget: {setup.max_disagreement:.1%} disagreement. The thresholds of "
        f"{', '.join(TRIVIAL)} are chosen in hindsight, on these very frames."
    )


def prepare(bundle: Bundle, setup: Setup, split: Split, models: Models, progress: Progress) -> Bench:
    """Have every model say what it says of every stream, once. Raises ``StreamError`` of a recorded one."""
    count = len(setup.seeds) * setup.devices
    task = progress.add_task("what models say", total=setup.frames if setup.recorded else count)

    def advance() -> None:
        progress.advance(task)

    manifest = bundle.manifest
    full = manifest.only("full")
    # Nothing is drawn to run whole: one request in fifty does, and a film is to be the same every time.
    layered = load(manifest, _WAY, bundle.find, "cpu", 1, lambda: 1.0) if _WAY in manifest.layers else None
    if setup.recorded:
        film = project(Path(setup.stream), manifest.labels, models, full, advance, layered)
        films = [film] * count
    else:
        seeds = [seed * setup.devices + number for seed in setup.seeds for number in range(setup.devices)]
        name = streams.named(setup.stream)
        films = shoot(name, seeds, setup.frames, split, models, full, advance, setup.dwell, layered)
    progress.remove_task(task)
    base = manifest.only("base")
    temperature = manifest.models[base].temperature
    shown = films[:1] if setup.recorded else films
    thresholds = {
        name: trivial.choose(name, shown, full, base, temperature, setup.max_disagreement)
        for name in TRIVIAL
        if name in setup.policies
    }
    return Bench(bundle, costs(bundle), reached(bundle), films, thresholds)


def compare(bench: Bench, setup: Setup, link: links.LinkProfile | None, progress: Progress) -> Runs:
    """Runs by policy and seed. ``link``: in the place of the set-up's."""
    task = progress.add_task("replaying", total=len(setup.seeds) * len(setup.policies))
    device, server = machines.device(setup.device), machines.server(setup.server)
    setting = Setting(device, link or links.load(setup.link), server, setup.fps, setup.cold)
    manifest = bench.manifest
    full = manifest.only("full")
    runs: Runs = {policy: [] for policy in setup.policies}
    for place, seed in enumerate(setup.seeds):
        own = range(place * setup.devices, (place + 1) * setup.devices)
        names = [f"device-{seed}-{number}" for number in range(setup.devices)]
        kits = [
            kit(manifest, bench.costs, device, setup, bench.films[n], name, bench.reached, bench.thresholds)
            for n, name in zip(own, names, strict=True)
        ]
        for policy in setup.policies:
            devices = world.play(policy, kits, setting, bench.costs[full], seed, setup.replicas)
            runs[policy].append(_run(devices, device, [bench.films[n].labels(full) for n in own]))
            progress.advance(task)
    progress.remove_task(task)
    return runs


def kit(
    manifest: Manifest,
    costs: Mapping[str, Cost],
    device: machines.DeviceProfile,
    setup: Setup,
    film: Trace,
    name: str,
    reached: Sequence[Cost] = (),
    thresholds: Mapping[Trivial, Thresholds] | None = None,
) -> PolicyInputs:
    """What policies are made of, on that device. ``reached``, ``thresholds``: see ``Bench``."""
    threads = device.local_threads(costs[manifest.only("base")])
    return PolicyInputs(
        film,
        manifest,
        setup.max_disagreement,
        setup.deadline_ms / 1e3,
        {model: device.seconds(cost_, threads) for model, cost_ in costs.items()},
        device.seconds(costs[manifest.only("full")], device.threads),
        thresholds or {},
        name,
        threads,
        tuple(device.seconds(cost_, device.threads) for cost_ in reached),
    )


def _run(devices: Sequence[Device], profile: machines.DeviceProfile, full: Sequence[Index]) -> Run:
    """All devices' frames together. ``full``: the full model's label of each frame, by device."""
    tallies = [one.tally for one in devices]
    frames = sum(tally.frames for tally in tallies)
    latency = tallies[0].latency
    for tally in tallies[1:]:
        latency = latency.with_(tally.latency)

    def share(of: Callable[[Tally], int]) -> float:
        return sum(of(tally) for tally in tallies) / frames

    known = all(one.has_truth for one in devices)
    row = {name: value for name, value in latency.table().items() if name in LATENCIES}
    row |= {
        "fps": 1e3 / latency.mean,
        "local_share": share(lambda tally: tally.hits),
        "full_share": share(lambda tally: tally.full),
        "fallback_share": share(lambda tally: tally.fallbacks),
        "asked_share": share(lambda tally: tally.asked),
        "disagreement": sum(
            int(disagreements(np.array(one.tally.labels, np.int64), own).sum())
            for one, own in zip(devices, full, strict=True)
        )
        / frames,
        "agreement": share(lambda tally: tally.agreed),
        "unknown_share": share(lambda tally: sum(label < 0 for label in tally.labels)),
        "bytes_up": sum(one.up.bytes for one in devices) / frames,
        "bytes_down": sum(one.down.bytes for one in devices) / frames,
        "models_pushed": share(lambda tally: tally.pushed) * frames / len(devices),
    }
    if known:
        row["accuracy"] = share(lambda tally: tally.right)
    if (watts := profile.watts) is not None:
        busy = sum(tally.busy_s for tally in tallies)
        sent, received = sum(one.up.busy_s for one in devices), sum(one.down.busy_s for one in devices)
        row["millijoules"] = 1e3 * (watts.busy - watts.idle) * busy / frames
        row["radio_millijoules"] = 1e3 * (watts.send * sent + watts.receive * received) / frames
    whole = tallies[0].course[: tallies[0].frames // WINDOW]
    return Run(row, latency, [hits / WINDOW for hits in whole])


def fair(rows: Mapping[Policy, Sequence[Row]]) -> list[Policy]:
    """The baselines that give the full model's answers: over a link that never answers in time, asking is no rival."""
    known = {name: sum(row["agreement"] for row in rows[name]) / len(rows[name]) for name in BASELINES if name in rows}
    return [name for name, agreement in known.items() if agreement >= max(known.values()) - _FAIR]


def summary(runs: Runs) -> dict[str, dict[str, Any]]:
    """By policy: means over seeds, and under ``intervals`` their 95 % intervals; with ratios of mean latencies to the
    best baseline's and to the oracle's, of which more is faster."""
    found: dict[str, dict[str, Any]] = {}
    rows = {policy: [run.row for run in own] for policy, own in runs.items()}
    baselines = fair(rows)
    for policy, own in rows.items():
        figures: dict[str, Any] = {name: [row[name] for row in own] for name in own[0]}
        if baselines:
            figures["ratio_to_best_baseline"] = [
                min(rows[name][place]["mean"] for name in baselines) / row["mean"] for place, row in enumerate(own)
            ]
        if "oracle" in rows:
            figures["ratio_to_oracle"] = [rows["oracle"][n]["mean"] / row["mean"] for n, row in enumerate(own)]
        spans = {name: interval(values) for name, values in figures.items()}
        said: dict[str, Any] = {"latency_ms": {name: spans[name]["mean"] for name in LATENCIES}}
        said |= {name: span["mean"] for name, span in spans.items() if name not in LATENCIES}
        said["intervals"] = {name: span["interval"] for name, span in spans.items()}
        found[policy] = said
    return found


def to_json(
    bench: Bench,
    setup: Setup,
    found: dict[str, dict[str, Any]],
    images: str,
    sweep: Sweep | None = None,
    swept: Sequence[dict[str, dict[str, Any]]] = (),
) -> bytes:
    """The whole comparison, with every setting that it holds for."""
    whole: dict[str, Any] = {
        "frames": setup.frames,
        "seeds": len(setup.seeds),
        "setting": {
            **{name: value for name, value in vars(setup).items() if name != "seeds"},
            "first_seed": setup.seeds.start,
            "bundle": f"{bench.manifest.name} {bench.bundle.version}",
            "images": images,
            "server_queue": servers.QUEUE,
            "server_max_batch": servers.LARGEST,
            "link_profile": msgspec.to_builtins(links.load(setup.link)),
            "device_profile": msgspec.to_builtins(machines.device(setup.device), str_keys=True),
            "server_profile": msgspec.to_builtins(machines.server(setup.server)),
        },
        "policies": found,
    }
    if sweep is not None:
        values = zip(sweep.values, swept, strict=True)
        whole["sweep"] = {"key": sweep.key, "at": [{"value": value, "policies": one} for value, one in values]}
    return msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n"


def table(found: dict[str, dict[str, Any]]) -> Table:
    """Policies, one row each; of every mean over seeds, half the width of its interval where there is room for it."""
    grid = Table(box=None, header_style="bold", pad_edge=False)
    grid.add_column("policy", no_wrap=True)
    speed = ("mean ms", "p50", "p95", "p99", "fps")
    shares = ("local\n%", "asked\n%", "disagree-\nment %", "bare agree-\nment %", "truth\n%")
    price = ("bytes up\na frame", "bytes\ndown", "models\npushed", "times the\nbaseline", "of the\noracle")
    powered = all("millijoules" in of for of in found.values())
    for column in (*speed, *shares, *price, *(("mJ a\nframe",) if powered else ())):
        grid.add_column(column, justify="right", vertical="bottom")
    for policy, of in found.items():
        latency, low = of["latency_ms"], of["intervals"]["mean"][0]
        grid.add_row(
            policy,
            f"{latency['mean']:.2f} ±{latency['mean'] - low:.2f}",
            *(f"{latency[name]:.1f}" for name in LATENCIES[1:]),
            f"{of['fps']:.0f}",
            *(f"{of[name]:.1%}"[:-1] for name in ("local_share", "asked_share")),
            f"{of['disagreement']:.2%}"[:-1],
            f"{of['agreement']:.1%}"[:-1],
            f"{of['accuracy']:.1%}"[:-1] if "accuracy" in of else "-",
            *(f"{of[name]:,.0f}" for name in ("bytes_up", "bytes_down")),
            f"{of['models_pushed']:.1f}",
            f"{of['ratio_to_best_baseline']:.2f}" if "ratio_to_best_baseline" in of else "-",
            f"{of['ratio_to_oracle']:.0%}" if "ratio_to_oracle" in of else "-",
            *([f"{of['millijoules'] + of['radio_millijoules']:.0f}"] if powered else ()),
            style="bold green" if policy == OWN else None,
        )
    return grid
