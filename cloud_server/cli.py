"""The command ``cloud-server``."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, NoReturn

import msgspec
import typer

from cachenet.cloud_server import doctor
from cachenet.cloud_server.broker.embedded import BrokerError, EmbeddedBroker
from cachenet.cloud_server.finetune.fine_tuner import FineTuner, Means, newest
from cachenet.cloud_server.provision.provision import provision
from cachenet.cloud_server.serving.full_model import FullModel
from cachenet.cloud_server.serving.server import Server
from cachenet.cloud_server.serving.worker import Job
from cachenet.cloud_server.settings import EMBEDDED, Settings
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle, BundleError
from cachenet.shared.command import config, exit, logs
from cachenet.shared.command.diagnostics import command
from cachenet.shared.command.errors import UserError
from cachenet.shared.command.options import Version, program
from cachenet.shared.inference.engine import Logits
from cachenet.shared.transport.mqtt import Address, address, password

app = program("cloud-server", Settings)
log = logging.getLogger(__name__)

app.command()(provision)


@app.callback()
def _root(version: Version = False) -> None:
    """Answer with the full model what devices cannot, and hand out the models they cache.

    Example: cloud-server run --bundle cifar10
    """


@app.command()
def run(
    bundle: Annotated[str | None, typer.Option(help=f"Bundle to serve: {zoo.HELP}.")] = None,
    broker: Annotated[
        str | None, typer.Option(help="Broker to use: embedded, or the address mqtt[s]://[user@]host[:port].")
    ] = None,
    listen: Annotated[str | None, typer.Option(help="IPv4 address that the embedded broker listens on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port that the embedded broker listens on.")] = None,
    password_file: Annotated[
        str | None, typer.Option(help="File with the broker's password (default: the variable CACHENET_PASSWORD).")
    ] = None,
    ca: Annotated[
        str | None, typer.Option(help="File of the CA certificate that the broker's is checked with, for mqtts.")
    ] = None,
    provider: Annotated[
        str | None, typer.Option(help="Hardware that the full model runs on: auto, cpu, cuda or tensorrt.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of the full model (default: one for each processor).")
    ] = None,
    queue: Annotated[int | None, typer.Option(help="Number of requests that may wait.")] = None,
    max_batch: Annotated[int | None, typer.Option(help="Number of requests that share a run at most.")] = None,
    layer_caches: Annotated[
        str | None, typer.Option(help="Caches between the full model's layers to answer from: freeze, gati or off.")
    ] = None,
    metrics: Annotated[str | None, typer.Option(help="[host:]port to serve /metrics and /health on.")] = None,
    specialise: Annotated[
        bool | None,
        typer.Option(
            "--specialise", help="Whether submodels are trained for what devices see; needs --data and torch."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Frames to train submodels with, as for model-builder build.")
    ] = None,
    held_out: Annotated[
        str | None, typer.Option(help="Frames to prove submodels with (default: three tenths of --data).")
    ] = None,
    key: Annotated[str | None, typer.Option(help="File of the private key to sign the updated bundle with.")] = None,
    work: Annotated[str | None, typer.Option(help="Directory where updates are kept.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts at the end as JSON.")] = False,
    config_file: Annotated[Path | None, typer.Option("--config", help="TOML file with any of these options.")] = None,
    print_config: Annotated[bool, typer.Option(help="Print the settings in force as TOML and end.")] = False,
) -> None:
    """Serve a bundle until Ctrl-C or SIGTERM.

    Example: cloud-server run --bundle cifar10

    Example: cloud-server run --bundle cifar10 --broker mqtts://server@broker.example --ca ca.pem

    Example: cloud-server run --bundle build/mine --specialise --data frames/ --key keys/bundle.key
    """
    flags = {name: value for name, value in locals().items() if name in Settings.__struct_fields__}
    _log_to_stderr()
    with ExitStack() as stack:
        try:
            settings = config.load(Settings, flags, config_file)
            if print_config:
                typer.echo(config.show(settings), nl=False)
                return
            own, where = _broker(settings)
            if not settings.bundle:
                raise BundleError("nothing to serve: give --bundle (such as cifar10)")
            given = served = Bundle(zoo.find(settings.bundle))
            means = _means(settings, given)
            looked_at = config.endpoint(settings.metrics) if settings.metrics else None
            if means is not None:
                served = newest(given, means)
            if own is not None:
                own.start()
                stack.callback(own.stop)
            way = None if settings.layer_caches == "off" else settings.layer_caches
            full = FullModel(served, settings.provider, settings.threads, way)
            specialiser: FineTuner | None = None

            def saw(job: Job, logits: Logits) -> None:
                if specialiser is not None:
                    specialiser.saw(job.device, job.picture, logits, job.request.recent)

            server = Server(served, full, where, settings.queue, settings.max_batch, saw, probes_broker=own is None)
            if means is not None:
                specialiser = FineTuner(given, served, means, server.update)
                stack.callback(specialiser.stop)

            def ill() -> str:
                return (own.trouble if own is not None else "") or server.ill()

            if looked_at is not None:
                from cachenet.cloud_server.serving.metrics import (
                    MetricsCollector,  # costs a start 30 ms that most do not want
                )
                from cachenet.shared.command import metrics_endpoint

                try:
                    stack.enter_context(metrics_endpoint.serve(MetricsCollector(server, own), ill, *looked_at))
                except OSError as error:
                    raise config.ConfigError(f"--metrics {settings.metrics}: {error.strerror or error}") from None
        except UserError as error:
            _refuse(str(error))
        stopped = _on_signals()
        server.start()
        if specialiser is not None:
            specialiser.start()
        manifest = served.manifest
        log.info("serving %s (%s on %s) to %s:%d", manifest.name, full.name, full.provider, where.host, where.port)
        stopped.get()
        ended = server.stop()
    counts = server.counters.read()
    typer.echo(json.dumps(msgspec.to_builtins(counts)) if as_json else counts.line())
    if not ended:
        # The interpreter would tear ONNX Runtime down under the running model and crash.
        sys.stdout.flush()
        logging.shutdown()
        os._exit(0)


@app.command()
def broker(
    listen: Annotated[str, typer.Option(help="IPv4 address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 1883,
) -> None:
    """Run the embedded broker alone, until Ctrl-C or SIGTERM.

    Example: cloud-server broker --port 1884
    """
    _log_to_stderr()
    try:
        own = EmbeddedBroker(listen, port)
        own.start()
    except BrokerError as error:
        _refuse(str(error))
    _on_signals().get()
    own.stop()


app.command("doctor")(command("cloud-server", run, Settings, doctor.findings, doctor.ABOUT))


def _broker(settings: Settings) -> tuple[EmbeddedBroker | None, Address]:
    """The embedded broker if it is wanted, and where to connect. Raises ``BrokerError`` or ``LinkError``."""
    if settings.broker == EMBEDDED:
        own = EmbeddedBroker(settings.listen, settings.port)
        return own, own.address
    ca = Path(settings.ca) if settings.ca else None
    return None, address(settings.broker, password(settings.password_file), ca)


def _means(settings: Settings, bundle: Bundle) -> Means | None:
    """What to train with, None if nothing is to be. Raises ``ConfigError``."""
    if not settings.specialise:
        return None
    if not settings.data:
        raise config.ConfigError("--specialise needs frames to train with beside what devices send: give --data")
    named = {name: Path(value) for name in ("data", "held_out", "key") if (value := getattr(settings, name))}
    for name, path in named.items():
        if not path.exists():
            raise config.ConfigError(f"--{name.replace('_', '-')} {path}: there is no such file or directory")
    if missing := [name for name in ("torch", "onnx") if find_spec(name) is None]:
        raise config.ConfigError(f"--specialise needs {missing[0]}; install it with: pip install 'cachenet[build]'")
    if bundle.signature and "key" not in named:
        log.warning(
            "%s is signed and updates will not be: devices that trust a key will not take them", bundle.directory
        )
    return Means(named["data"], named.get("held_out"), named.get("key"), Path(settings.work))


def _on_signals() -> SimpleQueue[int]:
    """Where SIGINT and SIGTERM arrive from now on. A handler may come in the middle of anything, and this queue is the
    one thing in the library that it may then safely put into."""
    stopped: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: stopped.put(received))
    return stopped


def _log_to_stderr() -> None:
    logs.to_stderr(logging.INFO)


def _refuse(why: str) -> NoReturn:
    exit.refuse("cloud-server", why)


def main() -> None:
    exit.run(app)
