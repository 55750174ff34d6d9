"""The command ``simulator``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console

from cachenet.shared.bundle import zoo
from cachenet.shared.command import exit, jobs
from cachenet.shared.command.errors import UserError
from cachenet.shared.command.extras import how_to_install
from cachenet.shared.command.options import Version, program
from cachenet.simulator.ending import end, progress_bar, reported
from cachenet.simulator.traces.command import replay
from cachenet.simulator.world import link_profiles
from cachenet.simulator.world.emulator import Counts, Emulator, run, serve

if TYPE_CHECKING:
    from cachenet.models.data.cifar10 import Split
    from cachenet.shared.bundle.manifest import Bundle

#: Other spellings of flags, without dashes.
ALIASES: dict[str, str] = {"specialise": "fine-tune"}
app = program("simulator", aliases=ALIASES)

#: Width of the output where there is no terminal, columns.
_PLAIN_WIDTH = 80
#: Seed of the first stream of a comparison; the others follow.
_FIRST_SEED = 1000

ImagesOption = Annotated[
    str, typer.Option(help="Images of the stream: sample (shipped) or test (CIFAR-10's, downloaded once).")
]


@app.callback()
def _root(version: Version = False) -> None:
    """Emulate links and compare policies, with the real programs.

    Example: simulator live --link lte
    """


@app.command()
def live(
    bundle: Annotated[Path, typer.Option(help=f"Bundle to deploy: {zoo.HELP}.")] = Path("campus"),
    stream: Annotated[
        str,
        typer.Option(
            help="Video for detectors, or kind of stream for classifiers: camera, held, dwell, session, shuffled "
            "(default: the installed clip, or camera)."
        ),
    ] = "",
    frames: Annotated[
        int | None,
        typer.Option(min=2, help="Number of frames that every policy answers (default: 150, or 600 for classifiers)."),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            min=0.1, max=1000, help="Frame rate, frames per second (default: the video's, or 30 for classifiers)."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the link and of a classifier's stream.")] = 0,
    link_name: Annotated[
        str,
        typer.Option(
            "--link", help="Link between device and broker, or a CSV file (default: lte, or wifi for classifiers)."
        ),
    ] = "",
    out: Annotated[Path, typer.Option(help="Directory of the results: demo.json, demo.png, demo.mp4.")] = Path("build"),
    slowdown: Annotated[
        float, typer.Option(min=1, max=1000, help="Factor by which models run slower on the device.")
    ] = 1.0,
    fine_tune: Annotated[
        bool,
        typer.Option(
            "--fine-tune",
            help="Show a camera before and after the server has trained a submodel for it, in place of a comparison; "
            "takes minutes and needs torch. Written: learning.json and learning.png.",
        ),
    ] = False,
) -> None:
    """Compare three policies over one stream and one emulated link: real broker, server and agents on this machine.

    Example: simulator live --link 3g --frames 100

    Example: simulator live --bundle cifar10

    Example: simulator live --fine-tune --bundle build/mine --stream camera.mp4
    """
    from cachenet.models.data.cifar10 import DatasetError
    from cachenet.shared.media.recording import StreamError
    from cachenet.simulator.live.compare import compare
    from cachenet.simulator.live.learning import learn
    from cachenet.simulator.live.picture import NoMatplotlib
    from cachenet.simulator.live.task import Options
    from cachenet.simulator.world.processes import Failed

    # SIGTERM must end the child processes, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH, highlight=False, markup=False)
    try:
        run_live = learn if fine_tune else compare
        run_live(Options(zoo.find(bundle), stream, frames, fps, seed, link_name, out, slowdown), console)
    except NoMatplotlib as error:
        console.print(f"No picture: {error}")
    except (Failed, StreamError, DatasetError) as error:
        end(1, str(error))
    except UserError as error:
        end(2, str(error))
    except OSError as error:
        end(1, f"{error.filename}: {error.strerror}")


@app.command()
def stream(
    name: Annotated[str, typer.Argument(help="Kind of stream: camera, held, dwell, session or shuffled.")],
    out: Annotated[Path, typer.Option(help="New directory of the stream.")],
    frames: Annotated[int, typer.Option(min=1, help="Number of frames of the stream.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the stream; the same seed gives the same bytes.")] = 0,
    images: ImagesOption = "sample",
) -> None:
    """Write a stream as files, which edge-agent reads like a camera.

    Example: simulator stream dwell --frames 500 --out build/dwell
    """
    from cachenet.models.data import cifar10, streams

    with reported(out):
        split = _images(images)
        plan = streams.schedule(streams.named(name), split.labels, seed, frames)
        with progress_bar() as progress:
            task = progress.add_task("frames", total=frames)
            streams.record_stream(
                plan, split.images, out, cifar10.LABELS, lambda done: progress.update(task, completed=done)
            )
    typer.echo(f"Written: {out}, {frames} frames of {name}, seed {seed}")


@app.command()
def compare(
    bundle: Annotated[Path, typer.Option(help=f"Bundle whose models are compared: {zoo.HELP}.")] = Path("cifar10"),
    stream_name: Annotated[
        str,
        typer.Option(
            "--stream",
            help="Kind of stream: camera, held, dwell, session or shuffled; or the directory of a recorded one.",
        ),
    ] = "dwell",
    device: Annotated[str, typer.Option(help="Profile of the device, or a file of one.")] = "rpi4",
    link_name: Annotated[
        str,
        typer.Option("--link", help="Link between device and server: lan, wifi, lte, 3g, sat, lossy, or a CSV file."),
    ] = "wifi",
    server: Annotated[str, typer.Option(help="Profile of the server, or a file of one.")] = "host",
    seeds: Annotated[int, typer.Option(min=1, help="Number of streams.")] = 20,
    frames: Annotated[
        int, typer.Option(min=32, help="Number of frames of each stream; a recorded stream is used to its end.")
    ] = 1000,
    fps: Annotated[
        float | None,
        typer.Option(
            min=0.1, max=1000, help="Frame rate of the camera, frames per second (default: the recording's, or 30)."
        ),
    ] = None,
    deadline_ms: Annotated[
        float, typer.Option(min=1, max=60_000, help="Longest time of a frame, milliseconds.")
    ] = 250.0,
    max_disagreement: Annotated[
        float,
        typer.Option(
            min=0.0001, max=0.9, help="Risk budget: share of all answers that may disagree with the full model."
        ),
    ] = 0.02,
    devices: Annotated[int, typer.Option(min=1, max=10_000, help="Number of cameras behind the same servers.")] = 1,
    replicas: Annotated[int, typer.Option(min=1, max=1000, help="Number of replicas of the server.")] = 1,
    cold: Annotated[
        bool, typer.Option("--cold", help="Whether devices start without files of the bundle, and fetch them.")
    ] = False,
    images: ImagesOption = "sample",
    sweep_text: Annotated[
        str, typer.Option("--sweep", help="Quantity to vary and its range, such as link.rtt=5..200.")
    ] = "",
    as_json: Annotated[Path | None, typer.Option("--json", help="File of all results and settings, JSON.")] = None,
    as_html: Annotated[Path | None, typer.Option("--html", help="File of a page with plots, HTML.")] = None,
    cluster: Annotated[str, typer.Option(help=jobs.HELP)] = "",
) -> None:
    """Compare all policies on one device, link and server, before you buy any. The device's decisions are real; time
    is virtual.

    Example: simulator compare --device rpi4 --link lte --stream session --html build/compare.html

    Example: edge-agent run camera:0 --broker mqtt://server.local --set record=build/door &&
    simulator compare --stream build/door --link lte
    """
    try:
        import onnx  # noqa: F401
        import simpy  # noqa: F401
        from matplotlib import figure  # noqa: F401

        from cachenet.models.certify import traces
        from cachenet.models.data.streams import STREAM_NAMES, named
        from cachenet.shared.command import atomic_files
        from cachenet.shared.media import recording as streams_on_disk
        from cachenet.simulator.report import comparison, page, sweep
        from cachenet.simulator.report.comparison import Setup
    except ImportError as error:
        _open(bundle)
        end(2, f"comparing needs {error.name}; {how_to_install('sim')}")
    with reported():
        swept = sweep.parse(sweep_text) if sweep_text else None
        if stream_name not in STREAM_NAMES and Path(stream_name).is_dir():
            recording = streams_on_disk.read(Path(stream_name))
            frames, fps = recording.frames, fps or recording.fps
        else:
            named(stream_name)
        setup = Setup(
            stream=stream_name,
            device=device,
            link=link_name,
            server=server,
            seeds=range(_FIRST_SEED, _FIRST_SEED + seeds),
            frames=frames,
            fps=fps or 30.0,
            deadline_ms=deadline_ms,
            max_disagreement=max_disagreement,
            devices=devices,
            replicas=replicas,
            cold=cold,
        )
        comparison.check(setup)
        opened = _open(bundle)
        setup = comparison.for_bundle(setup, opened.manifest)
        points = [swept.at(setup, value) for value in swept.values] if swept is not None else []
        split = _images(images)
        models = traces.open_models(opened)
        with jobs.connected(cluster) as run_jobs, progress_bar() as progress:
            bench = comparison.prepare(opened, setup, split, models, progress, run_jobs)
            runs = comparison.compare(bench, setup, None, progress, run_jobs)
            found = comparison.summary(runs)
            curves = []
            for other, profile in points:
                same = bench if other == setup else comparison.prepare(opened, other, split, models, progress, run_jobs)
                curves.append(comparison.summary(comparison.compare(same, other, profile, progress, run_jobs)))
        if as_json is not None:
            varied = sweep.to_builtins(swept, curves) if swept is not None else None
            atomic_files.write(as_json, comparison.to_json(bench, setup, found, images, varied))
        if as_html is not None:
            atomic_files.write(as_html, page.html(setup, runs, found, swept, curves).encode())
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, comparison.TABLE_WIDTH)  # a terminal wraps lines; Rich would cut numbers
    console.print(comparison.table(found), crop=False)
    console.print(f"\n{comparison.describe(setup, images)}")
    for path in (as_json, as_html):
        if path is not None:
            console.print(f"Written: {path}")


app.command()(replay)


@app.command()
def profile(
    out: Annotated[Path, typer.Option(help="File of the device profile, TOML, for simulator compare --device.")] = Path(
        "device.toml"
    ),
    server_out: Annotated[
        Path | None, typer.Option("--server", help="File of the profile of this machine as a server, TOML.")
    ] = None,
    bundle: Annotated[Path, typer.Option(help=f"Bundle to answer frames with: {zoo.HELP}.")] = Path("cifar10"),
) -> None:
    """Measure the profile of this machine, for simulator compare. Takes a minute, in which nothing else should run.

    Example: simulator profile --out pi.toml && simulator compare --device pi.toml --link lte
    """
    import os
    import platform

    try:
        from cachenet.shared.command import atomic_files
        from cachenet.simulator.world import hardware_profiles, profiling
    except ImportError as error:
        _open(bundle)
        end(2, f"profiling needs {error.name}; {how_to_install('sim')}")
    processors = len(os.sched_getaffinity(0))
    counts = sorted({1, min(4, processors), processors})
    name = f"{platform.node()}: {processors} processors, {platform.machine()}"
    opened = _open(bundle)
    with reported(out), progress_bar() as progress:
        task = progress.add_task("measuring", total=2 * len(counts) + 1 + (server_out is not None))
        found, median_error = profiling.device(name, opened, counts, lambda: progress.advance(task))
        atomic_files.write(out, hardware_profiles.to_toml(found).encode())
        if server_out is not None:
            measured = profiling.server(name, opened, processors)
            atomic_files.write(server_out, hardware_profiles.to_toml(measured).encode())
    written = f"Written: {out}" + (f" and {server_out}" if server_out else "")
    typer.echo(f"{written}; the median error of an estimated run time is {median_error:.0%}.")


def _open(bundle: Path) -> Bundle:
    """Open the bundle; a bad one ends the program with exit code 2."""
    from cachenet.shared.bundle.manifest import Bundle

    with reported():
        return Bundle(zoo.find(bundle))


def _images(name: str) -> Split:
    """The images of generated streams. Raises ``DatasetError``."""
    from cachenet.models.data import cifar10, sample

    if name not in ("sample", "test"):
        end(2, f"--images {name!r} is neither sample nor test")
    return sample.load() if name == "sample" else cifar10.load().test


@app.command()
def link(
    listen: Annotated[int, typer.Option(min=1, max=65535, help="Port of this machine for the device.")],
    to: Annotated[str, typer.Option(help="Address of the broker, HOST:PORT.")],
    profile: Annotated[
        str, typer.Option(help="Link to emulate: a profile, or a CSV file of a recorded link.")
    ] = "wifi",
    seed: Annotated[int, typer.Option(min=0, help="Seed of jitter and losses.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the byte counts as JSON.")] = False,
) -> None:
    """Emulate a link: carry TCP from a port of this machine to a broker. Prints the byte counts up and down at the end
    and at each SIGUSR1.

    Example: simulator link --profile lte --listen 1884 --to 127.0.0.1:1883
    """

    def print_counts(counts: Counts) -> None:
        text = f"{counts.bytes_up} bytes up, {counts.bytes_down} bytes down"
        print(msgspec.json.encode(counts).decode() if as_json else text, flush=True)

    host, _, port = to.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        end(2, f"--to {to!r} is not HOST:PORT, as in 127.0.0.1:1883")
    with reported(f"port {listen}"):
        emulator = Emulator(link_profiles.load(profile), (host, int(port)), seed)
        ready = f"{profile} link listening on 127.0.0.1:{listen}, to {to}"
        print_counts(run(serve(emulator, listen, lambda: print(ready, file=sys.stderr, flush=True), print_counts)))


def main() -> None:
    exit.run(app)


if __name__ == "__main__":
    main()
