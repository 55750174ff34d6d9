"""Diagnostics of both programs' ``doctor`` command: broker, clock, disk and model."""

from __future__ import annotations

import ctypes
import functools
import json
import logging
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Generator, Iterator
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
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.engine import EngineError, Network, Provider, Session
from cachenet.shared.inference.image import Picture, crop, preprocessor
from cachenet.shared.transport import mqtt_errors
from cachenet.shared.transport.mqtt import Address

T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R")
Grade = Literal["ok", "warning", "problem"]

#: Longest wait for a connection, seconds.
_TIMEOUT_S = 5.0
#: Remaining validity of a certificate under which there is a warning, days.
_EXPIRY_WARNING_DAYS = 30
#: Result of ``adjtimex`` for a clock that is not synchronised (TIME_ERROR, sys/timex.h).
_UNSYNCHRONISED = 5
#: Least score of an object that every processor finds.
_SURE = 0.5
#: Size of the argument of ``adjtimex``, bytes; more than any C library's struct timex.
_TIMEX_BYTES = 512


class Finding(msgspec.Struct, frozen=True):
    """Result of one check.

    Attributes:
        says: One line; with advice for a warning or a problem.
    """

    what: str
    grade: Grade
    says: str

    def line(self) -> str:
        """The finding as a line of output."""
        return printable(f"{self.grade:8} {self.what:9} {self.says}")


def command(
    program: str, run: Callable[..., None], kind: type[T], examine: Callable[[T], Iterator[Finding]], about: str
) -> Callable[..., None]:
    """Create the ``doctor`` command, with the arguments of ``run``. Its exit code is 1 after a problem.

    Args:
        program: Name of the program, for error messages.
        run: The program's ``run`` command.
        examine: Yields the findings about settings.
    """

    @functools.wraps(run)
    def doctor(**arguments: Any) -> None:
        logging.disable(logging.CRITICAL)  # findings replace the log
        flags = {name: value for name, value in arguments.items() if name in kind.__struct_fields__}
        try:
            settings = config.load(
                kind, flags, arguments["config_file"], assignments=arguments.get("assignments") or ()
            )
        except config.ConfigError as error:
            exit.refuse(program, str(error))
        if arguments["print_config"]:
            typer.echo(config.show(settings), nl=False)
            return
        findings = []
        for finding in examine(settings):
            findings.append(finding)
            if not arguments["as_json"]:
                typer.echo(finding.line())
        ok = all(finding.grade != "problem" for finding in findings)
        if arguments["as_json"]:
            typer.echo(json.dumps({"ok": ok, "findings": msgspec.to_builtins(findings)}))
        raise typer.Exit(0 if ok else 1)

    doctor.__doc__ = about
    return doctor


def clock() -> Finding:
    """Check the clock: it is later than the installation, and synchronised."""
    now = datetime.now(timezone.utc)
    installed = datetime.fromtimestamp(Path(__file__).stat().st_mtime, timezone.utc)
    text = f"{now:%Y-%m-%d %H:%M} UTC"
    if now < installed:
        return Finding(
            "clock", "problem", f"{text} is before this software was installed; set it: timedatectl set-ntp true"
        )
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state == _UNSYNCHRONISED:
        return Finding("clock", "warning", f"{text}, and the clock is not synchronised; run: timedatectl set-ntp true")
    return Finding("clock", "ok", text)


def at(where: Address, checks: Generator[Finding, None, R]) -> Generator[Finding, None, R]:
    """The findings of ``checks`` with the broker that they are about; returns what ``checks`` returns."""
    place = f"{where.host}:{where.port}"
    while True:
        try:
            finding = next(checks)
        except StopIteration as ended:
            found: R = ended.value
            return found
        says = finding.says if place in finding.says else f"{place}: {finding.says}"
        yield Finding(finding.what, finding.grade, says)


def reach(where: Address) -> Iterator[Finding]:
    """Check the connection to a broker and its certificate. A problem is the last finding."""
    what = "broker"
    try:
        started = time.monotonic()
        with socket.create_connection((where.host, where.port), _TIMEOUT_S) as plain:
            took = (time.monotonic() - started) * 1000
            yield Finding(what, "ok", f"{where.host}:{where.port} takes connections, after {took:.0f} ms")
            if where.tls:
                what = "tls"
                with ssl.create_default_context(cafile=where.ca).wrap_socket(
                    plain, server_hostname=where.host
                ) as secure:
                    yield _validity(secure.getpeercert() or {})
            elif not where.host.startswith("127.") and where.host != "localhost":
                warning = "pictures and the password travel in the clear; use mqtts:// (docs/deploy.md)"
                yield Finding("tls", "warning", warning)
    except OSError as error:
        yield Finding(
            "tls" if isinstance(error, ssl.SSLError) else what, "problem", mqtt_errors.unreachable(where, error)
        )


def _validity(certificate: dict[str, Any]) -> Finding:
    ends = ssl.cert_time_to_seconds(certificate["notAfter"])
    days = (ends - time.time()) / 86400
    until = f"the broker's certificate is valid until {datetime.fromtimestamp(ends, timezone.utc):%Y-%m-%d}"
    if days < _EXPIRY_WARNING_DAYS:
        return Finding("tls", "warning", f"{until}; renew it: cloud-server provision")
    return Finding("tls", "ok", until)


def room(what: str, directory: Path, need: int, advice: str) -> Finding:
    """Check that the disk of ``directory`` has ``need`` bytes left; ``what``, ``advice``: texts of the finding."""
    free = shutil.disk_usage(directory).free
    text = f"{directory} has {free / 1e6:.0f} MB left"
    if free < need:
        return Finding(what, "problem", f"{text} and {need / 1e6:.0f} MB are needed; {advice}")
    return Finding(what, "ok", text)


def golden() -> Picture:
    """A constant test picture, 640x480."""
    blocks = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(cv2.resize(blocks, (640, 480), interpolation=cv2.INTER_CUBIC), np.uint8)


def model(
    name: str, path: Path, manifest: Manifest, provider: Provider, threads: int
) -> tuple[Finding, Session | None]:
    """Check that a model runs on the test picture: finite scores, and the same label or objects as on the CPU.

    Args:
        threads: Threads of a run.

    Returns:
        The finding, and the session; None for the session after a problem.
    """
    what = "model"
    try:
        started = time.monotonic()
        session = Session(path, provider, threads)
        took = time.monotonic() - started
        says = golden_answer(name, session, manifest)
        if session.provider != "CPUExecutionProvider":
            other = golden_answer(name, Session(path, "cpu"), manifest)
            if other != says:
                text = f"{name}: {session.provider} {says}, the processor {other}"
                return Finding(what, "problem", f"{text}; use --provider cpu, and look after the driver"), None
    except EngineError as error:
        return Finding(what, "problem", f"{error}"), None
    text = f"{name} loads in {took:.1f} s on {session.provider.removesuffix('ExecutionProvider')}"
    return Finding(what, "ok", f"{text}{',' if says.startswith('runs') else ' and'} {says}"), session


def golden_answer(name: str, session: Network, manifest: Manifest) -> str:
    """What a model of a bundle says of the test picture. Raises ``EngineError``."""
    model = manifest.models[name]
    if model.decoder is not None:
        found = Detector(session.run_all, model.input, model.decoder)(golden())
        # Those of high score: rounding moves others over the detector's threshold or under it.
        return objects_text(int((found.scores >= _SURE).sum()))
    scores = session.run(preprocessor(model.input)(crop(golden(), model.input)))
    if scores.shape != (1, len(manifest.labels)) or not np.isfinite(scores).all():
        raise EngineError(f"{name} gives no scores for the golden picture; fetch or build it anew")
    return f"calls the golden picture {manifest.labels[int(scores.argmax())]}"


def objects_text(count: int) -> str:
    """What a detector says of the test picture, in which there need not be any object that it knows."""
    return f"runs and finds {count or 'no'} object{'s' * (count != 1)} in the golden picture"
