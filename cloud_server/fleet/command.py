"""The command ``cloud-server fleet``."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated

import msgspec
import typer

from cachenet.cloud_server.fleet import text
from cachenet.cloud_server.fleet.fleet import TOPICS, Fleet
from cachenet.cloud_server.fleet.page import page
from cachenet.cloud_server.fleet.reader import BrokerReader
from cachenet.cloud_server.fleet.web import serve
from cachenet.shared.command import atomic_files, config, exit, logs
from cachenet.shared.command.errors import UserError
from cachenet.shared.transport.broker import from_options

log = logging.getLogger(__name__)

Broker = Annotated[
    str, typer.Option(help="Address of the MQTT broker: mqtt[s]://[user@]host[:port]; of several, with commas.")
]
PasswordFile = Annotated[str, typer.Option(help="File with the password for the broker.")]
Ca = Annotated[str, typer.Option(help="File with the CA certificate that verifies the broker, for mqtts.")]


def fleet(
    broker: Broker,
    as_json: Annotated[bool, typer.Option("--json", help="Print all devices as JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="File to write the page to.")] = None,
    listen: Annotated[str, typer.Option(help="[host:]port to serve the page on, until Ctrl-C; it renews itself.")] = "",
    group: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATTERN", help="Group of the devices whose names match, as in yard=cam-1*."),
    ] = None,
    password_file: PasswordFile = "",
    ca: Ca = "",
) -> None:
    """Show all devices, those with most findings first.

    Example: cloud-server fleet --broker mqtt://server.local

    Example: cloud-server fleet --broker mqtt://server.local --listen 8090 --group "yard=cam-1*"
    """
    logs.to_stderr(logging.WARNING if listen else logging.ERROR)
    try:
        where, groups = from_options(broker, password_file, ca), _groups(group or ())
        if listen and (as_json or html is not None):
            raise config.ConfigError("--listen serves the page until Ctrl-C: leave out --json and --html")
        endpoint = config.endpoint(listen) if listen else None
        devices = Fleet(time.monotonic, groups)
        reader = BrokerReader(
            where,
            TOPICS,
            lambda number, message: devices.receive(message.topic, message.payload, number, message.retained),
        )
        with ExitStack() as stack:
            signals: SimpleQueue[int] = SimpleQueue()
            if endpoint is not None:
                try:
                    port = stack.enter_context(serve(lambda: devices.summary(reader.errors), *endpoint))
                except OSError as error:
                    raise config.ConfigError(f"--listen {listen}: {error.strerror or error}") from None
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, lambda received, _frame: signals.put(received))
            stack.enter_context(reader.running())
            if endpoint is not None:
                typer.echo(f"the page is on http://{endpoint[0]}:{port}/")
                signals.get()
                return
            reached = reader.wait()
            summary = devices.summary(reader.errors)
    except UserError as error:
        exit.refuse("cloud-server", str(error))
    if html is not None:
        try:
            atomic_files.write(html, page(summary, live=False).encode())
        except OSError as error:
            exit.refuse("cloud-server", f"--html {html}: {error.strerror}")
    if as_json:
        typer.echo(msgspec.json.encode(summary))
    elif html is None and (reached or summary.devices):
        typer.echo("\n".join(text.lines(summary)))
    if not reached:
        for problem in summary.errors:
            exit.say("cloud-server", problem)
        raise typer.Exit(1)


def _groups(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Names and patterns. Raises ``ConfigError``."""
    found = []
    for text_ in texts:
        name, _, pattern = text_.partition("=")
        if not name or not pattern:
            raise config.ConfigError(f"--group {text_}: write NAME=PATTERN, as in yard=cam-1*")
        found.append((name, pattern))
    return found
