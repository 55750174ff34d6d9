"""The command ``edge-agent``."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from cachenet.edge_agent import settings as checks
from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.composition import DeploymentError
from cachenet.edge_agent.doctor import doctor
from cachenet.edge_agent.doctor import forget as removal
from cachenet.edge_agent.outputs import home_assistant as introduction
from cachenet.edge_agent.outputs import report
from cachenet.edge_agent.outputs.observers import Writer, attach_observers
from cachenet.edge_agent.outputs.recorder import Recorder
from cachenet.edge_agent.outputs.report import Sink
from cachenet.edge_agent.outputs.terminal import TerminalView
from cachenet.edge_agent.settings import MODES, Settings
from cachenet.edge_agent.sources import Live, Pipe, Source, SourceError, open_source
from cachenet.edge_agent.sources.frozen import FROZEN_S, ON_FROZEN
from cachenet.edge_agent.updates.store import Store
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command import config, exit, logs
from cachenet.shared.command.diagnostics import command
from cachenet.shared.command.errors import UserError
from cachenet.shared.command.file_names import shown
from cachenet.shared.command.options import Version, program
from cachenet.shared.command.supervision import end_process
from cachenet.shared.command.text import printable
from cachenet.shared.inference.engine import providers
from cachenet.shared.transport.addresses import without_password
from cachenet.shared.transport.mqtt import Address, address, password
from cachenet.shared.transport.protocol import check_device

app = program("edge-agent", Settings)
_stderr = Console(stderr=True)
#: Seconds in which the agent must end after a signal: writers finish their files, and a model may be loading. Whoever
#: reads standard output or a FIFO may have stopped to, and then nothing but the end of the process helps.
STOP_S = 30.0


@app.callback()
def _root(version: Version = False) -> None:
    """Understand a camera on a small device: answer most frames here, ask a server for the rest.

    Example: edge-agent run camera:0 --broker mqtt://server.local
    """


@app.command()
def run(
    source: Annotated[
        str | None,
        typer.Argument(
            help="Camera or file: camera:N, rtsp://..., http://..., picamera, pipe:WIDTHxHEIGHT, a video, a picture, "
            "a directory of pictures or a recorded stream."
        ),
    ] = None,
    broker: Annotated[str | None, typer.Option(help="Address of the broker: mqtt[s]://[user@]host[:port].")] = None,
    bundle: Annotated[
        str | None, typer.Option(help=f"Bundle to take models from, not from the broker: {zoo.HELP}.")
    ] = None,
    catalogue: Annotated[
        str | None, typer.Option(help="Name of a bundle in the server's catalogue (default: the first).")
    ] = None,
    store: Annotated[str | None, typer.Option(help="Directory where models are kept across restarts.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Name of this device (default: the broker URL's user, or the host's name).")
    ] = None,
    password_file: Annotated[str | None, typer.Option(help="File with the broker's password.")] = None,
    ca: Annotated[
        str | None, typer.Option(help="File of the CA certificate that the broker's is checked with, for mqtts.")
    ] = None,
    trusted_key: Annotated[
        str | None, typer.Option(help="File of a public key; models that it has not signed are refused.")
    ] = None,
    levels: Annotated[str | None, typer.Option(help="Levels that answer, separated by commas.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Name of the bundle's model that is the base model (default: the bundle's own).")
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(help="Part of the picture to look at: left,top,width,height, shares of 1 (default: all)."),
    ] = None,
    max_disagreement: Annotated[
        float | None,
        typer.Option(
            help="Risk budget: mean share of all answers that may disagree with the full model, 0 to 1. With 0.02, "
            "98 of 100 answers are what the full model says of that frame or of most frames around it."
        ),
    ] = None,
    audit_share: Annotated[
        float | None,
        typer.Option(
            help="Share of hits that the full model checks as well, 0 to 1; more after an alarm. With 0.02, it checks "
            "20 of 1,000 hits. 0: none, and nothing measures the agreement."
        ),
    ] = None,
    mode: Annotated[str | None, typer.Option(help=f"Way to ask the cloud: {', '.join(MODES)}.")] = None,
    deadline_ms: Annotated[
        int | None, typer.Option(help="Longest time that a frame waits for the cloud, milliseconds.")
    ] = None,
    layer_caches: Annotated[
        str | None,
        typer.Option(
            help="Caches between the layers of a full model on this device, where it has them: gati, freeze or off."
        ),
    ] = None,
    memory_budget: Annotated[str | None, typer.Option(help="Bound on the process's resident memory, as 150MB.")] = None,
    prefetch: Annotated[
        bool | None, typer.Option(help="Whether models that may be needed next are fetched while the link is idle.")
    ] = None,
    provider: Annotated[
        str | None, typer.Option(help="Hardware that models run on: auto, cpu, cuda or tensorrt.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of a model's run; 0: as many as are measured to be quickest.")
    ] = None,
    slowdown: Annotated[
        float | None, typer.Option(help="Factor by which models run slower, to play a small device.")
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            help="Frame rate of a file, and the highest of a camera, frames per second (default: the source's own)."
        ),
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Number of frames to stop after (default: all).")] = None,
    frozen: Annotated[
        str | None,
        typer.Option(
            help=f"Reaction to a camera that gives the same picture for {FROZEN_S:.0f} s: {', '.join(ON_FROZEN)} "
            "(log a line, or open the camera again)."
        ),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="[host:]port to serve /metrics for Prometheus and /health on.")
    ] = None,
    record: Annotated[str | None, typer.Option(help="New directory to keep the frames in, as a stream.")] = None,
    flight: Annotated[str | None, typer.Option(help="File to log every decision to, for 'simulator replay'.")] = None,
    output: Annotated[
        str | None, typer.Option(help="File to append a JSON line per frame to; - is standard output.")
    ] = None,
    output_max: Annotated[
        str | None,
        typer.Option(help="Bound on the --output file, as 100MB: the file is renamed to FILE.1 and begun anew."),
    ] = None,
    summary: Annotated[str | None, typer.Option(help="File to write the summary to, as JSON.")] = None,
    preview: Annotated[str | None, typer.Option(help="[host:]port to show frames and answers to browsers on.")] = None,
    save: Annotated[
        str | None, typer.Option(help="File to write a video to with the answers drawn: .mp4 or .avi.")
    ] = None,
    misses: Annotated[
        str | None, typer.Option(help="Directory to keep the frames in that no local level was sure of.")
    ] = None,
    misses_budget: Annotated[
        str | None, typer.Option(help="Bound on the size of the --misses directory; the oldest frames go first.")
    ] = None,
    results: Annotated[
        bool | None, typer.Option(help="Whether answers are published over MQTT as they change.")
    ] = None,
    home_assistant: Annotated[
        bool | None, typer.Option(help="Whether cameras appear in Home Assistant, by MQTT discovery.")
    ] = None,
    discovery_prefix: Annotated[str | None, typer.Option(help="Prefix of Home Assistant's discovery topics.")] = None,
    view: Annotated[
        bool | None, typer.Option(help="Whether frames are shown live in the terminal (default: if stderr is one).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="TOML file with any of these options, and [[camera]] tables.")
    ] = None,
    print_config: Annotated[bool, typer.Option(help="Print the settings in force as TOML and end.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more on stderr.")] = False,
) -> None:
    """Answer every frame of SOURCE.

    Example: edge-agent run camera:0 --broker mqtt://server.local --output answers.jsonl

    Example: edge-agent run clip.mp4 --bundle cifar10 --levels frames,base
    """
    flags = {name: value for name, value in locals().items() if name in Settings.__struct_fields__}
    try:
        settings = config.load(Settings, flags, config_file)
        if print_config:
            typer.echo(config.show(settings), nl=False)
            return
        agent, sink = _prepare(settings)
    except (UserError, ValueError) as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename}: {error.strerror}")
    logs.to_stderr(logging.INFO if verbose else logging.WARNING)

    def stop(*_: Any) -> None:
        if agent.stopped.is_set():  # again: whoever waits for the end does not want to
            os._exit(130)
        # Elsewhere, because the thread that a signal interrupts may hold the very locks that this takes.
        threading.Thread(target=agent.stop, daemon=True).start()
        late = threading.Timer(STOP_S, end_process, [f"the agent has not ended within {STOP_S:.0f} s of a signal"])
        late.daemon = True
        late.start()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    shown = view if view is not None else _stderr.is_terminal
    try:
        with (
            attach_observers(agent) as writers,
            TerminalView(agent, _stderr) if shown else nullcontext(),
        ):
            agent.run(sink)
    except DeploymentError as error:
        _refuse(str(error))
    finally:
        sink.close()
        for camera in agent.cameras:
            if isinstance(camera.source, Recorder):
                camera.source.finish()
    figures = agent.summary()
    failures = _unwritten(agent, sink, writers)
    if settings.summary:
        try:
            Path(settings.summary).write_text(json.dumps(figures, indent=2) + "\n")
        except OSError as error:
            failures.append(f"--summary {settings.summary}: {error.strerror}")
    if as_json:
        typer.echo(json.dumps(figures))
    else:
        for name, own in figures.get("cameras", {"": figures}).items():
            _stderr.print(_table(own, name), _about(own), sep="\n", highlight=False)
        _stderr.print(f"up {figures['bytes_up'] / 1e3:.0f} kB, down {figures['bytes_down'] / 1e3:.0f} kB")
    if failures:
        exit.say("edge-agent", f"not written: {'; '.join(failures)}")
    if unread := _unread(agent):
        exit.say("edge-agent", f"no frame could be read from {', '.join(unread)}")
    if agent.loader.hanging_model:  # its thread cannot be ended, and would abort the interpreter's own end
        end_process(f"{agent.keeper.stuck} hangs while it is being loaded")
    if failures or unread:
        raise typer.Exit(1)


def _unwritten(agent: Agent, sink: Sink, writers: list[tuple[str, Writer]]) -> list[str]:
    """What the run has not written, each with its option and the reason."""
    found = [("--output", sink.failure)]
    for camera in agent.cameras:
        found.append(("--flight", camera.flight_failure))
        if isinstance(camera.source, Recorder):
            found.append(("--record", camera.source.failure))
    found += [(option, writer.failure) for option, writer in writers]
    return [f"{option} {failure}" for option, failure in found if failure]


@app.command()
def forget(
    broker: Annotated[str, typer.Option(help="Address of the broker: mqtt[s]://[user@]host[:port].")],
    device: Annotated[
        str | None, typer.Option(help="Name of the device (default: the broker URL's user, or the host's name).")
    ] = None,
    password_file: Annotated[str, typer.Option(help="File with the broker's password.")] = "",
    ca: Annotated[
        str | None, typer.Option(help="File of the CA certificate that the broker's is checked with, for mqtts.")
    ] = None,
    discovery_prefix: Annotated[
        str, typer.Option(help="Prefix of Home Assistant's discovery topics.")
    ] = "homeassistant",
) -> None:
    """Take a device that is stopped off the broker: its status, and its cameras in Home Assistant.

    Example: edge-agent forget --broker mqtt://server.local --device porch-pi
    """
    logs.to_stderr(logging.ERROR)
    name = device or checks.default_device(broker)
    try:
        introduction.check_names(discovery_prefix)
        where = address(broker, password(password_file), Path(ca) if ca else None)
        gone = removal.forget(where, check_device(name), discovery_prefix)
    except (UserError, ValueError) as error:
        _refuse(str(error))
    for topic in gone:
        typer.echo(printable(f"Emptied: {topic}"))
    if not gone:
        typer.echo(f"The broker holds nothing of {name}.")


def _prepare(settings: Settings) -> tuple[Agent, Sink]:
    """Check everything that can be checked before the run begins."""
    each = settings.each()
    if not all(own.source for own in each):
        raise ValueError("no SOURCE; give one, as in: edge-agent run camera:0 --broker mqtt://server.local")
    if not settings.broker and not settings.bundle:
        raise ValueError("nothing to answer with: give --broker mqtt://host, or --bundle (such as cifar10)")
    asks = "cloud" in settings.levels and settings.broker and settings.mode != "offline"
    if "base" not in settings.levels and not asks:
        raise ValueError("--levels leaves nothing that can answer: it takes base, or cloud, a --broker and not offline")
    check_device(settings.device)
    providers(settings.provider)
    for served in filter(None, (settings.metrics, settings.preview)):
        config.endpoint(served)
    for own in each:
        if own.region:
            checks.region(own.region)
    for name in ("memory_budget", "misses_budget", "output_max"):
        if text := getattr(settings, name):
            try:
                checks.parse_size(text)
            except ValueError as error:
                raise ValueError(f"--{name.replace('_', '-')}: {error}") from None
    if (settings.results or settings.home_assistant) and not settings.broker:
        raise ValueError("results and Home Assistant need a broker: give --broker mqtt://host")
    if settings.home_assistant:
        introduction.check_names(settings.discovery_prefix, [settings.device, *(camera.name for camera in settings.camera)])
    bundle = Bundle(zoo.find(settings.bundle)) if settings.bundle else None
    if bundle is not None and settings.base and settings.base not in bundle.manifest.models:
        raise ValueError(f"--base {settings.base}: the bundle has {', '.join(bundle.manifest.models)}")
    where: Address | None = None
    if settings.broker:
        where = address(settings.broker, password(settings.password_file), Path(settings.ca) if settings.ca else None)
    store = Store(Path(settings.store)) if bundle is None else None
    if store is not None:
        store.lock()
    if settings.summary:
        Path(settings.summary).open("a").close()  # find out now, not after a day's run
    trusted = None
    if settings.trusted_key:
        from cachenet.shared.bundle.trust import Key

        trusted = Key(Path(settings.trusted_key))
    with ExitStack() as opened:
        sources = [_open(own, opened) for own in each]
        prepared = Agent(settings, sources, where, store, bundle, trusted), _sink(settings)
        opened.pop_all()
    return prepared


def _sink(settings: Settings) -> Sink:
    return Sink(settings.output, True, checks.parse_size(settings.output_max) if settings.output_max else None)


def _open(settings: Settings, opened: ExitStack) -> Source:
    """One camera's source; closed again if another cannot be opened."""
    try:
        source = open_source(settings.source, settings.fps, settings.frozen)
    except SourceError as error:
        raise SourceError(f"{settings.name}: {error}" if settings.name else str(error)) from None
    opened.callback(source.close)
    if settings.name and isinstance(source, Live):
        source.rename(settings.name)
    if settings.record:
        paced = None if isinstance(source, Live | Pipe) else settings.fps
        source = Recorder(source, Path(settings.record), paced)
    return source


def _unread(agent: Agent) -> list[str]:
    """The sources that have ended by themselves without a frame."""
    if agent.stopped.is_set():
        return []
    return [shown(without_password(camera.settings.source)) for camera in agent.cameras if not camera.tally.frames]


def _table(figures: dict[str, Any], name: str) -> Table:
    title = f"{figures['frames']} frames answered"
    table = Table(title=f"{name}: {title}" if name else title, title_justify="left")
    for column in ("level", "frames", "share"):
        table.add_column(column, justify="left" if column == "level" else "right")
    counts = {**figures["hits"], "full": figures["full"], "cloud": figures["cloud"], "fallback": figures["fallbacks"]}
    for level, count in counts.items():
        table.add_row(level, str(count), f"{count / max(1, figures['frames']):.1%}")
    return table


def _about(figures: dict[str, Any]) -> str:
    """What does not fit into the table."""
    ms, audits = figures["latency_ms"], figures["audits"]
    agreement = report.agreement(audits)
    return (
        f"asked {figures['asked']:.1%} of the frames, {figures['audited']} audits included; "
        f"{figures['overruled']} overruled, {figures['unknown']} unknown\n"
        + (f"{audits['judged']} hits audited: {agreement}\n" if agreement else "")
        + f"latency mean {ms['mean']:.2f}, p50 {ms['p50']:.2f}, p95 {ms['p95']:.2f}, p99 {ms['p99']:.2f} ms"
        + (f"; accuracy {figures['accuracy']:.1%}" if figures["accuracy"] is not None else "")
        + (f"; {figures['scene_changes']} changes of the whole picture" if figures["scene_changes"] else "")
        + (f"; {audits['alarms']} alarms of the audits" if audits is not None and audits["alarms"] else "")
        + (f"; {figures['dropped']} live frames dropped" if figures["dropped"] else "")
        + (f"; {figures['broken']} broken files or frames skipped" if figures["broken"] else "")
        + (f"; the camera was lost {figures['losses']} times" if figures["losses"] else "")
    )


app.command("doctor")(command("edge-agent", run, Settings, doctor.findings, doctor.ABOUT))


def _refuse(why: str) -> NoReturn:
    exit.refuse("edge-agent", why)


def main() -> None:
    exit.run(app)


if __name__ == "__main__":
    main()
