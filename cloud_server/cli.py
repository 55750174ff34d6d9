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
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from cachenet.cloud_server import doctor
from cachenet.cloud_server.broker.embedded import BrokerError, EmbeddedBroker
from cachenet.cloud_server.finetune.fine_tuner import FineTuner, TrainingConfig, latest_update
from cachenet.cloud_server.fleet.canary import Canary
from cachenet.cloud_server.fleet.command import fleet
from cachenet.cloud_server.fleet.rollout_command import rollout_command as rollout
from cachenet.cloud_server.provision.provision import provision
from cachenet.cloud_server.serving.full_model import load_full
from cachenet.cloud_server.serving.server import Server
from cachenet.cloud_server.serving.v2 import V2Model
from cachenet.cloud_server.settings import EMBEDDED, Settings
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle, BundleError
from cachenet.shared.command import config, exit, logs
from cachenet.shared.command.diagnostics import command
from cachenet.shared.command.errors import UserError
from cachenet.shared.command.extras import require_signing
from cachenet.shared.command.options import Version, program, with_settings
from cachenet.shared.transport.broker import Address, from_options

if TYPE_CHECKING:
    from cachenet.cloud_server.serving.signer import CatalogueSigner

app = program("cloud-server", Settings)
log = logging.getLogger(__name__)

app.command()(provision)
app.command()(fleet)
app.command("rollout")(rollout)


@app.callback()
def _root(version: Version = False) -> None:
    """Answer requests of devices with the full model, and send them the models that they cache.

    Example: cloud-server run --bundle cifar10
    """


@app.command()
@with_settings(Settings, "cloud-server")
def run(
    settings: Settings,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts at the end as JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log debug messages, too.")] = False,
) -> None:
    """Serve a bundle until Ctrl-C or SIGTERM.

    Example: cloud-server run --bundle cifar10

    Example: cloud-server run --bundle cifar10 --broker mqtts://server@broker.example --ca ca.pem

    Example: cloud-server run --bundle cifar10 --broker mqtt://one.example,mqtt://two.example

    Example: cloud-server run --bundle build/mine --fine-tune --key server.key

    Example: cloud-server run --bundle build/mine --canary build/newer --set canary_share=0.1

    Example: cloud-server run --bundle cifar10 --executor v2 --v2-url http://triton.example:8000
    """
    logs.to_stderr(logging.DEBUG if verbose else logging.INFO)
    with ExitStack() as stack:
        try:
            embedded, where = _broker(settings)
            if not settings.bundle:
                raise BundleError("nothing to serve: give --bundle (such as cifar10)")
            served = configured = Bundle(zoo.find(settings.bundle))
            training = _training_config(settings)
            signer, canary = _signer(settings, configured), _canary(settings, configured)
            endpoint = config.endpoint(settings.metrics) if settings.metrics else None
            if training is not None:
                served = latest_update(configured, training)
            remote = _remote(settings, served)
            if embedded is not None:
                embedded.start()
                stack.callback(embedded.stop)
            exit_kind = None if settings.early_exits == "off" else settings.early_exits
            full = load_full(served, settings.provider, settings.threads, exit_kind, remote)
            fine_tuner = None if training is None else FineTuner(configured, served, training)
            server = Server(
                served,
                full,
                where,
                settings.queue,
                settings.max_batch,
                settings.device_share,
                on_full_result=None if fine_tuner is None else fine_tuner.add,
                own_broker=embedded is not None,
                signer=signer,
                canary=canary,
            )
            if endpoint is not None:
                _serve_metrics(server, embedded, remote, endpoint, settings.metrics, stack)
        except UserError as error:
            exit.refuse("cloud-server", str(error))
        stopped = _on_signals()
        server.start()
        if fine_tuner is not None:
            fine_tuner.start(server.update)
            stack.callback(fine_tuner.stop)
        places = ", ".join(f"{one.host}:{one.port}" for one in where)
        log.info("serving %s (%s on %s) to %s", served.manifest.name, full.name, full.provider, places)
        stopped.get()
        ended = server.stop()
    counts = server.counters.read()
    typer.echo(json.dumps(msgspec.to_builtins(counts)) if as_json else counts.line())
    if not ended:
        # A normal exit would destroy ONNX Runtime while the model runs, and crash.
        sys.stdout.flush()
        logging.shutdown()
        os._exit(0)


@app.command()
def broker(
    listen: Annotated[str, typer.Option(help="IPv4 address that the broker listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port that the broker listens on.", min=1, max=65535)] = 1883,
) -> None:
    """Run the embedded broker alone, until Ctrl-C or SIGTERM.

    Example: cloud-server broker --port 1884
    """
    logs.to_stderr(logging.INFO)
    try:
        embedded = EmbeddedBroker(listen, port)
        embedded.start()
    except BrokerError as error:
        exit.refuse("cloud-server", str(error))
    _on_signals().get()
    embedded.stop()


app.command("doctor")(command("cloud-server", run, Settings, doctor.findings, doctor.ABOUT))


def _broker(settings: Settings) -> tuple[EmbeddedBroker | None, tuple[Address, ...]]:
    """The embedded broker, if the settings select it, and the addresses to connect to.

    Raises:
        BrokerError: The embedded broker cannot have this address.
        MqttError: The address or the password of another broker is invalid.
    """
    if settings.broker == EMBEDDED:
        embedded = EmbeddedBroker(settings.listen, settings.port)
        return embedded, (embedded.address,)
    return None, from_options(settings.broker, settings.password_file, settings.ca)


def _remote(settings: Settings, bundle: Bundle) -> V2Model | None:
    """The full model on a V2 server, if the settings select one. Raises ``UserError``."""
    if settings.executor == "v2":
        if settings.early_exits != "off":
            raise config.ConfigError(
                "early exits run in this process only; use --executor local, or --set early_exits=off"
            )
        return V2Model(settings.v2_url, bundle)
    if settings.v2_url:
        raise config.ConfigError("--v2-url is used with --executor v2 only; add that, or leave the address out")
    return None


def _serve_metrics(
    server: Server,
    embedded: EmbeddedBroker | None,
    remote: V2Model | None,
    endpoint: tuple[str, int],
    shown: str,
    stack: ExitStack,
) -> None:
    """Serve /metrics and /health on ``endpoint`` until ``stack`` is closed. Raises ``ConfigError``."""
    from cachenet.cloud_server.serving.metrics import MetricsCollector  # 30 ms, which a server without metrics saves
    from cachenet.shared.command import metrics_endpoint

    def unhealthy_reason() -> str:
        broken = (embedded.error if embedded is not None else "") or server.unhealthy_reason()
        return broken or (remote.not_ready() if remote is not None else "")

    try:
        stack.enter_context(metrics_endpoint.serve(MetricsCollector(server, embedded), unhealthy_reason, *endpoint))
    except OSError as error:
        raise config.ConfigError(f"--metrics {shown}: {error.strerror or error}") from None


def _training_config(settings: Settings) -> TrainingConfig | None:
    """The paths of fine-tuning; None without ``--fine-tune``. Raises ``ConfigError``."""
    if not settings.fine_tune:
        return None
    if missing := [name for name in ("torch", "onnx") if find_spec(name) is None]:
        raise config.ConfigError(f"--fine-tune needs {missing[0]}; install it with: pip install 'cachenet[build]'")
    return TrainingConfig(Path(settings.work))


def _signer(settings: Settings, bundle: Bundle) -> CatalogueSigner | None:
    """What signs the catalogue; None without ``--key``. Raises ``UserError``."""
    if settings.key:
        require_signing()
        from cachenet.cloud_server.serving.signer import CatalogueSigner

        return CatalogueSigner(bundle, Path(settings.key))
    if bundle.signed:
        log.warning(
            "%s is signed, and there is no --key to publish that with: devices with a trusted root refuse it",
            bundle.directory,
        )
    return None


def _canary(settings: Settings, bundle: Bundle) -> Canary | None:
    """The version to roll out; None without ``--canary``. Raises ``UserError``."""
    if not settings.canary:
        return None
    if settings.fine_tune:
        raise config.ConfigError("--canary and --fine-tune change the models of devices both; give one of them")
    newer = Bundle(zoo.find(settings.canary))
    canary = Canary(newer, settings.canary_share, settings.canary_devices, _signer(settings, newer))
    canary.check(bundle)
    return canary


def _on_signals() -> SimpleQueue[int]:
    """A queue that receives SIGINT and SIGTERM from now on.

    A signal handler may interrupt any code. ``SimpleQueue.put`` is the library's only operation that is safe then.
    """
    signals: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: signals.put(received))
    return signals


def main() -> None:
    exit.run(app)
