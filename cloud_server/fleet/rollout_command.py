"""The command ``cloud-server rollout``."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from enum import Enum
from typing import Annotated

import msgspec
import typer

from cachenet.cloud_server.fleet.command import Broker, Ca, PasswordFile
from cachenet.cloud_server.fleet.fleet import TOPICS, Fleet, Summary, Version
from cachenet.cloud_server.fleet.reader import BrokerReader
from cachenet.shared.command import exit, logs
from cachenet.shared.command.errors import UserError
from cachenet.shared.command.text import printable
from cachenet.shared.transport import protocol, rollout
from cachenet.shared.transport.broker import from_options
from cachenet.shared.transport.mqtt import Message, MqttConnection
from cachenet.shared.transport.rollout import Rollout, State

#: Time to wait until a broker has taken a message, seconds.
_PUBLISH_S = 5.0


class Action(str, Enum):
    """What to do with a rollout."""

    STATUS = "status"
    PAUSE = "pause"
    RESUME = "resume"
    PROMOTE = "promote"
    UNDO = "undo"


#: States in which an action is possible, and the state after it.
_CHANGES: dict[Action, tuple[tuple[State, ...], State]] = {
    Action.PAUSE: (("running",), "paused"),
    Action.RESUME: (("running", "paused", "undone"), "running"),
    Action.PROMOTE: (("running", "paused"), "promoted"),
    Action.UNDO: (("running", "paused"), "undone"),
}


class RolloutError(UserError):
    """The rollout cannot be changed so."""


def rollout_command(
    broker: Broker,
    action: Annotated[Action, typer.Argument(help="What to do.")] = Action.STATUS,
    bundle: Annotated[str, typer.Option(help="Name of the bundle (default: the only one with a rollout).")] = "",
    share: Annotated[
        float | None, typer.Option(help="With resume: another share of the devices.", min=0.0, max=1.0)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rollouts and the versions as JSON.")] = False,
    password_file: PasswordFile = "",
    ca: Ca = "",
) -> None:
    """Show or change the rollout of a newer version, which 'cloud-server run --canary' has begun.

    Example: cloud-server rollout --broker mqtt://server.local

    Example: cloud-server rollout promote --broker mqtt://server.local

    Example: cloud-server rollout resume --share 0.5 --broker mqtt://server.local
    """
    logs.to_stderr(logging.ERROR)
    problems: list[str] = []
    try:
        if share is not None and action != Action.RESUME:
            raise RolloutError("--share is for resume")
        fleet, echoes = Fleet(time.monotonic), _Echoes()

        def receive(number: int, message: Message) -> None:
            fleet.receive(message.topic, message.payload, number, message.retained)
            echoes.receive(number, message)

        reader = BrokerReader(from_options(broker, password_file, ca), TOPICS, receive)
        with reader.running():
            reader.wait()
            problems = reader.errors
            if len(problems) < len(reader.links) and action != Action.STATUS:
                problems += echoes.publish(change(_chosen(fleet.summary(), bundle), action, share), reader.links)
        summary = fleet.summary()
    except UserError as error:
        _say(problems)
        exit.say("cloud-server", str(error))
        raise typer.Exit(1 if problems else 2) from None
    if len(problems) < len(reader.links):
        if as_json:
            typer.echo(msgspec.json.encode({"rollouts": summary.rollouts, "versions": summary.versions}))
        else:
            typer.echo("\n".join(lines(summary)))
    if problems:
        _say(problems)
        changed, of = len(reader.links) - len(problems), len(reader.links)
        if changed and action != Action.STATUS:
            exit.say("cloud-server", f"changed on {changed} of {of} brokers; a running server changes the others later")
        raise typer.Exit(1)


def _say(problems: Sequence[str]) -> None:
    for problem in problems:
        exit.say("cloud-server", problem)


class _Echoes:
    """Publishes a change, and knows which brokers have sent it to their subscribers, of which this program is one."""

    def __init__(self) -> None:
        self._payload: bytes | None = None
        self._brokers: set[int] = set()

    def receive(self, number: int, message: Message) -> None:
        """Take a message of a broker."""
        if message.payload == self._payload:
            self._brokers.add(number)

    def publish(self, changed: Rollout, links: Sequence[MqttConnection]) -> list[str]:
        """Publish on all brokers that are connected. Returns a line for each of these that does not take it."""
        self._payload = protocol.encode(changed)
        asked = {number: link for number, link in enumerate(links) if link.connected.is_set()}
        for link in asked.values():
            link.publish(rollout.topic(changed.bundle), self._payload, qos=1, retain=True)
        end = time.monotonic() + _PUBLISH_S
        while not self._brokers >= set(asked) and time.monotonic() < end:
            time.sleep(0.05)
        missing = [link.address for number, link in asked.items() if number not in self._brokers]
        advice = "has not taken the change; may this user write the catalogue?"
        return [f"broker {where.host}:{where.port} {advice}" for where in missing]


def change(present: Rollout, action: Action, share: float | None = None) -> Rollout:
    """The next state of a rollout. Raises ``RolloutError`` if it is not possible."""
    possible, state = _CHANGES[action]
    if present.state not in possible:
        more = "; to go back, serve the former version with --bundle" if present.state == "promoted" else ""
        raise RolloutError(f"the rollout of {present.bundle} is {present.state}; {action.value} is not possible{more}")
    return present.changed(state, "by hand", share)


def _chosen(summary: Summary, bundle: str) -> Rollout:
    """The rollout of a bundle, or the only one. Raises ``RolloutError``."""
    found = [own for own in summary.rollouts if bundle in ("", own.bundle)]
    if not found:
        raise RolloutError("there is no such rollout; 'cloud-server run --canary' begins one")
    if len(found) > 1:
        raise RolloutError(f"there are rollouts of {', '.join(own.bundle for own in found)}; choose one with --bundle")
    return found[0]


def lines(summary: Summary) -> list[str]:
    """The rollouts, each with its two versions."""
    versions = {version.version: version for version in summary.versions}
    found = []
    for own in summary.rollouts:
        found.append(printable(f"{own.bundle}: {own.line}, {own.share:.0%} of the devices {own.devices}"))
        found.append("version   devices  failed updates  audits  wrong   frames  errors")
        found += [_line(versions.get(version, Version(version))) for version in (own.canary, own.stable)]
    return found or ["no rollout; 'cloud-server run --canary' begins one"]


def _line(own: Version) -> str:
    wrong = f"{own.wrong / own.audits:.1%}" if own.audits else ""
    name = printable(own.version[:8])
    return (
        f"{name:<8}  {own.devices:>7}  {own.failed:>14}  {own.audits:>6}  {wrong:>5}  {own.frames:>7}  {own.errors:>6}"
    )
