"""What the doctors of both programs share: findings, and what there is to find out about a broker, a clock, a disk and
a model."""

from __future__ import annotations

import ctypes
import functools
import json
import logging
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, TypeVar

import cv2
import msgspec
import numpy as np
import typer

from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.command import config, exit
from cachenet.shared.command.text import printable
from cachenet.shared.inference.engine import EngineError, Provider, Session
from cachenet.shared.inference.image import Picture, crop, preprocessor
from cachenet.shared.transport import mqtt_errors
from cachenet.shared.transport.mqtt import Address

T = TypeVar("T", bound=msgspec.Struct)
Grade = Literal["ok", "warning", "problem"]

_PATIENCE_S = 5.0
#: A certificate that ends so soon is worth a word.
_SOON_DAYS = 30
#: What the C library's adjtimex says of a clock that nothing keeps right, and the bytes that its argument may need.
_UNSYNCHRONISED, _TIMEX = 5, 512


class Finding(msgspec.Struct, frozen=True):
    """``says`` is one line; of a warning or a problem it tells what to do, too."""

    what: str
    grade: Grade
    says: str

    def line(self) -> str:
        return printable(f"{self.grade:8} {self.what:9} {self.says}")


def command(
    program: str, run: Callable[..., None], kind: type[T], examine: Callable[[T], Iterator[Finding]], about: str
) -> Callable[..., None]:
    """A command with ``run``'s own arguments, so that one word changed in a command line has it checked before it runs.
    It exits with 1 if a problem was found. ``about``: its help."""

    @functools.wraps(run)
    def doctor(**given: Any) -> None:
        logging.disable(logging.CRITICAL)  # what a link would say is in the findings
        flags = {name: value for name, value in given.items() if name in kind.__struct_fields__}
        try:
            settings = config.load(kind, flags, given["config_file"], assignments=given.get("assignments") or ())
        except config.ConfigError as error:
            exit.refuse(program, str(error))
        if given["print_config"]:
            typer.echo(config.show(settings), nl=False)
            return
        findings = []
        for finding in examine(settings):
            findings.append(finding)
            if not given["as_json"]:
                typer.echo(finding.line())
        well = all(finding.grade != "problem" for finding in findings)
        if given["as_json"]:
            typer.echo(json.dumps({"ok": well, "findings": msgspec.to_builtins(findings)}))
        raise typer.Exit(0 if well else 1)

    doctor.__doc__ = about
    return doctor


def clock() -> Finding:
    """Whether it can be right, and whether something keeps it so."""
    now = datetime.now(timezone.utc)
    installed = datetime.fromtimestamp(Path(__file__).stat().st_mtime, timezone.utc)
    said = f"{now:%Y-%m-%d %H:%M} UTC"
    if now < installed:
        return Finding(
            "clock", "problem", f"{said} is before this software was installed; set it: timedatectl set-ntp true"
        )
    kept = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX))
    if kept == _UNSYNCHRONISED:
        return Finding(
            "clock", "warning", f"{said}, and nothing keeps it right; have it kept: timedatectl set-ntp true"
        )
    return Finding("clock", "ok", said)


def reach(where: Address) -> Iterator[Finding]:
    """Whether something listens there, and can be trusted. A problem is the last."""
    what = "broker"
    try:
        begun = time.monotonic()
        with socket.create_connection((where.host, where.port), _PATIENCE_S) as bare:
            took = (time.monotonic() - begun) * 1000
            yield Finding(what, "ok", f"{where.host}:{where.port} takes connections, after {took:.0f} ms")
            if where.tls:
                what = "tls"
                with ssl.create_default_context(cafile=where.ca).wrap_socket(bare, server_hostname=where.host) as safe:
                    yield _lasts(safe.getpeercert() or {})
            elif not where.host.startswith("127.") and where.host != "localhost":
                warned = "pictures and the password travel in the clear; use mqtts:// (docs/deploy.md)"
                yield Finding("tls", "warning", warned)
    except OSError as error:
        yield Finding(
            "tls" if isinstance(error, ssl.SSLError) else what, "problem", mqtt_errors.unreachable(where, error)
        )


def _lasts(certificate: dict[str, Any]) -> Finding:
    ends = ssl.cert_time_to_seconds(certificate["notAfter"])
    days = (ends - time.time()) / 86400
    until = f"the broker's certificate is valid until {datetime.fromtimestamp(ends, timezone.utc):%Y-%m-%d}"
    if days < _SOON_DAYS:
        return Finding("tls", "warning", f"{until}; renew it: cloud-server provision")
    return Finding("tls", "ok", until)


def room(what: str, directory: Path, need: int, advice: str) -> Finding:
    """Whether the disk of ``directory`` has ``need`` bytes left."""
    free = shutil.disk_usage(directory).free
    said = f"{directory} has {free / 1e6:.0f} MB left"
    if free < need:
        return Finding(what, "problem", f"{said} and {need / 1e6:.0f} MB are needed; {advice}")
    return Finding(what, "ok", said)


def golden() -> Picture:
    """A picture that is always the same, 640x480."""
    blocks = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(cv2.resize(blocks, (640, 480), interpolation=cv2.INTER_CUBIC), np.uint8)


def model(
    name: str, path: Path, manifest: Manifest, provider: Provider, threads: int
) -> tuple[Finding, Session | None]:
    """Whether a model of the bundle runs: the golden picture's scores are all there and finite, and where it is not the
    processor that computes them, they lead to the label that the processor comes to."""
    spec, what = manifest.models[name].input, "model"
    try:
        begun = time.monotonic()
        session = Session(path, provider, threads)
        took = time.monotonic() - begun
        tensor = preprocessor(spec)(crop(golden(), spec))
        scores = session.run(tensor)
        if scores.shape != (1, len(manifest.labels)) or not np.isfinite(scores).all():
            return Finding(
                what, "problem", f"{name} gives no scores for the golden picture; fetch or build it anew"
            ), None
        label = manifest.labels[int(scores.argmax())]
        if session.provider != "CPUExecutionProvider":
            other = manifest.labels[int(Session(path, "cpu").run(tensor).argmax())]
            if other != label:
                said = f"{name}: {session.provider} calls the golden picture {label}, the processor {other}"
                return Finding(what, "problem", f"{said}; use --provider cpu, and look after the driver"), None
    except EngineError as error:
        return Finding(what, "problem", f"{error}"), None
    said = f"{name} loads in {took:.1f} s on {session.provider.removesuffix('ExecutionProvider')}"
    return Finding(what, "ok", f"{said} and calls the golden picture {label}"), session
