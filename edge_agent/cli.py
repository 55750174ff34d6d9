"""The command ``edge-agent``."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.device_cascade import DeploymentError
from cachenet.edge_agent.doctor import doctor
from cachenet.edge_agent.doctor import forget as forget_device
from cachenet.edge_agent.doctor.service import reporting
from cachenet.edge_agent.explain.command import explain
from cachenet.edge_agent.outputs import home_assistant, report
from cachenet.edge_agent.outputs.observers import Writer, attach_observers
from cachenet.edge_agent.outputs.recorder import Recorder
from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.outputs.terminal import TerminalView
from cachenet.edge_agent.preparation import prepare
from cachenet.edge_agent.settings import Settings, default_device, parse_size
from cachenet.edge_agent.sources import Live, Pipe, Source, SourceError, open_source
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.types import LOCAL_LEVELS
from cachenet.shared.command import exit, logs
from cachenet.shared.command.diagnostics import command
from cachenet.shared.command.errors import UserError
from cachenet.shared.command.file_names import shown
from cachenet.shared.command.options import Version, program, with_settings
from cachenet.shared.command.service_manager import ServiceManager
from cachenet.shared.command.supervision import end_process
from cachenet.shared.command.text import printable
from cachenet.shared.transport.addresses import without_password
from cachenet.shared.transport.broker import from_options
from cachenet.shared.transport.mqtt import MqttError
from cachenet.shared.transport.protocol import check_device

#: Advice where no local level may answer.
_OUT_OF_DISTRIBUTION = (
    "The pictures look unlike the footage that the bundle was made from (out of distribution), so the full model is "
    "asked. Build a bundle from footage of this camera: docs/build.md"
)

app = program("edge-agent", Settings)
_stderr = Console(stderr=True)
#: Longest time from a signal to the end of the process, seconds. Files are finished and a model may be loading. If the
#: reader of standard output or of a FIFO has stopped, only the end of the process helps.
STOP_S = 30.0


@app.callback()
def _root(version: Version = False) -> None:
    """Answer camera frames on a small device, and ask a server about those that it is not sure of.

    Example: edge-agent run camera:0 --broker mqtt://server.local
    """


@app.command()
@with_settings(Settings, "edge-agent", argument="source")
def run(
    settings: Settings,
    view: Annotated[
        bool | None,
        typer.Option(help="Whether the terminal shows counts and the last label (default: if standard error is one)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more on standard error.")] = False,
) -> None:
    """Answer every frame of SOURCE.

    Example: edge-agent run camera:0 --broker mqtt://server.local --output answers.jsonl

    Example: edge-agent run clip.mp4 --bundle cifar10 --set levels=frames,base
    """
    try:
        agent, sink = _prepare(settings)
    except (UserError, ValueError) as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename}: {error.strerror}")
    logs.to_stderr(logging.INFO if verbose else logging.WARNING)
    _stop_on_signals(agent)
    try:
        with (
            attach_observers(agent) as writers,
            reporting(agent, manager) if (manager := ServiceManager()).listens else nullcontext(),
            TerminalView(agent, _stderr) if (_stderr.is_terminal if view is None else view) else nullcontext(),
        ):
            agent.run(sink)
    except DeploymentError as error:
        _refuse(str(error))
    finally:
        sink.close()
        for loop in agent.loops:
            if isinstance(loop.source, Recorder):
                loop.source.finish()
    summary = agent.summary()
    failures = _write_failures(agent, sink, writers)
    if settings.summary:
        try:
            Path(settings.summary).write_text(json.dumps(summary, indent=2) + "\n")
        except OSError as error:
            failures.append(f"summary {settings.summary}: {error.strerror}")
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        for name, own in _each(summary):
            _stderr.print(_table(own, name), _details(own), sep="\n", highlight=False)
        for camera in agent.cameras:
            if isinstance(camera.cascade, Cascade) and camera.cascade.out_of_distribution:
                about = f"{camera.title}: " if camera.title else ""
                _stderr.print(f"{about}{_OUT_OF_DISTRIBUTION}", highlight=False)
        _stderr.print(f"up {summary['bytes_up'] / 1e3:.0f} kB, down {summary['bytes_down'] / 1e3:.0f} kB")
        if (outbox := summary["outbox"]) is not None:
            kinds = ", ".join(f"{outbox[kind]} {kind}" for kind in ("stored", "sent", "waiting"))
            _stderr.print(f"outbox: {kinds}, {sum(outbox['dropped'].values())} dropped", highlight=False)
    if failures:
        exit.say("edge-agent", f"not written: {'; '.join(failures)}")
    if unread := _sources_without_frames(agent):
        exit.say("edge-agent", f"no frame could be read from {', '.join(unread)}")
    if agent.loader.hanging_model:  # its thread cannot be ended, and would abort the end of the interpreter
        end_process(f"{agent.loader.hanging_model} hangs while it is being loaded")
    if failures or unread:
        raise typer.Exit(1)


def _stop_on_signals(agent: Agent) -> None:
    """End the run on SIGINT and SIGTERM; a second signal ends the process at once."""

    def stop(*_: Any) -> None:
        if agent.stopped.is_set():
            os._exit(130)
        # In another thread, because the interrupted thread may hold the locks that ``stop`` takes.
        threading.Thread(target=agent.stop, daemon=True).start()
        timer = threading.Timer(STOP_S, end_process, [f"the agent has not ended within {STOP_S:.0f} s of a signal"])
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def _write_failures(agent: Agent, sink: JsonLinesWriter, writers: list[tuple[str, Writer]]) -> list[str]:
    """Outputs that are incomplete, each with its setting and the reason."""
    found = [("--output", sink.failure)]
    found += [("decision_log", camera.decision_log_failure) for camera in agent.cameras]
    found += [("record", loop.source.failure) for loop in agent.loops if isinstance(loop.source, Recorder)]
    found += [(setting, writer.failure) for setting, writer in writers]
    return [f"{setting} {failure}" for setting, failure in found if failure]


@app.command()
def forget(
    broker: Annotated[
        str,
        typer.Option(help="Address of the MQTT broker, mqtt[s]://[user@]host[:port]; commas separate several brokers."),
    ],
    device: Annotated[
        str | None,
        typer.Option(help="Name of the device (default: the user of the broker's URL, or the host's name)."),
    ] = None,
    password_file: Annotated[str, typer.Option(help="File with the password for the broker.")] = "",
    ca: Annotated[
        str | None, typer.Option(help="File with the CA certificate that verifies the broker, for mqtts.")
    ] = None,
    discovery_prefix: Annotated[
        str, typer.Option(help="Prefix of Home Assistant's discovery topics.")
    ] = "homeassistant",
) -> None:
    """Remove a stopped device from the broker: its status, and its cameras in Home Assistant.

    Example: edge-agent forget --broker mqtt://server.local --device porch-pi
    """
    logs.to_stderr(logging.ERROR)
    name = device or default_device(broker)
    try:
        home_assistant.check_names(discovery_prefix)
        where = from_options(broker, password_file, ca)
        check_device(name)
    except (UserError, ValueError) as error:
        _refuse(str(error))
    errors = []
    for one in where:
        place = f"{one.host}:{one.port}: " if len(where) > 1 else ""
        try:
            topics = forget_device.forget(one, name, discovery_prefix)
        except MqttError as error:
            errors.append(str(error) if place.removesuffix(": ") in str(error) else f"{place}{error}")
            continue
        for topic in topics:
            typer.echo(printable(f"{place}Emptied: {topic}"))
        if not topics:
            typer.echo(f"{place}The broker holds nothing of {name}.")
    if errors:
        _refuse("; ".join(errors))


def _prepare(settings: Settings) -> tuple[Agent, JsonLinesWriter]:
    """Check the settings and open all inputs and outputs, so that errors appear before the run begins."""
    cameras = settings.validate()
    if not all(own.source for own in cameras):
        raise ValueError("no SOURCE; give one, as in: edge-agent run camera:0 --broker mqtt://server.local")
    parts = prepare(settings)
    if settings.summary:
        Path(settings.summary).open("a").close()  # an error must appear now, not after a day's run
    with ExitStack() as opened:
        sources = [_open(own, opened) for own in cameras]
        agent = Agent(settings, sources, *parts)
        sink = JsonLinesWriter(settings.output, True, parse_size(settings.output_max) if settings.output_max else None)
        opened.pop_all()
    return agent, sink


def _open(settings: Settings, opened: ExitStack) -> Source:
    """Open the source of one camera; ``opened`` closes the source if a later step fails."""
    try:
        source = open_source(settings.source, settings.fps, settings.frozen)
    except SourceError as error:
        raise SourceError(f"{settings.name}: {error}" if settings.name else str(error)) from None
    opened.callback(source.close)
    if settings.name and isinstance(source, Live):
        source.rename(settings.name)
    if settings.record:
        fps = None if isinstance(source, Live | Pipe) else settings.fps
        source = Recorder(source, Path(settings.record), fps)
    return source


def _sources_without_frames(agent: Agent) -> list[str]:
    """Sources that have ended by themselves without a frame."""
    if agent.stopped.is_set():
        return []
    return [shown(without_password(loop.settings.source)) for loop in agent.loops if not loop.frames]


def _each(summary: dict[str, Any], name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The summary of each camera and zone, with its title."""
    parts = summary.get("cameras") or summary.get("zones")
    if parts is None:
        yield name, summary
        return
    for part, own in parts.items():
        yield from _each(own, f"{name}/{part}" if name else part)


def _table(summary: dict[str, Any], name: str) -> Table:
    title = f"{summary['frames']} frames answered"
    table = Table(title=f"{name}: {title}" if name else title, title_justify="left")
    for column in ("level", "frames", "share"):
        table.add_column(column, justify="left" if column == "level" else "right")
    hits: dict[str, int] = {level: summary["hits"][level] for level in LOCAL_LEVELS if level in summary["hits"]}
    counts = {**hits, "full": summary["full"], "cloud": summary["cloud"], "fallback": summary["fallbacks"]}
    for level, count in counts.items():
        table.add_row(level, str(count), f"{count / max(1, summary['frames']):.1%}")
    return table


def _details(summary: dict[str, Any]) -> str:
    """Lines below the table of a camera."""
    ms, audits = summary["latency_ms"], summary["audits"]
    agreement = report.agreement(audits)
    detector = "objects" in summary
    return (
        (report.objects_text(summary["objects"]) + "\n" if detector else "")
        + f"{summary['asked']:.1%} of the frames needed the full model, {summary['audited']} audits included"
        + ("\n" if detector else f"; {summary['overruled']} overruled, {summary['unknown']} unknown\n")
        + (f"{audits['judged']} hits audited: {agreement}\n" if agreement else "")
        + f"latency mean {ms['mean']:.2f}, p50 {ms['p50']:.2f}, p95 {ms['p95']:.2f}, p99 {ms['p99']:.2f} ms"
        + (f"; accuracy {summary['accuracy']:.1%}" if summary["accuracy"] is not None else "")
        + (f"; {summary['scene_changes']} changes of the whole picture" if summary["scene_changes"] else "")
        + (f"; {audits['alarms']} alarms of the audits" if audits is not None and audits["alarms"] else "")
        + (f"; {summary['dropped']} live frames dropped" if summary["dropped"] else "")
        + (f"; {summary['broken']} broken files or frames skipped" if summary["broken"] else "")
        + (f"; the camera was lost {summary['losses']} times" if summary["losses"] else "")
    )


app.command()(explain)
app.command("doctor")(command("edge-agent", run, Settings, doctor.findings, doctor.ABOUT))


def _refuse(reason: str) -> NoReturn:
    exit.refuse("edge-agent", reason)


def main() -> None:
    exit.run(app)


if __name__ == "__main__":
    main()
