"""The command ``cloud-server provision``: all that a broker, a server and its devices need to trust one another.

<out>/.gitignore                     all of it is ignored by git
<out>/ca.crt, ca.key                 the authority; the key is for this command alone
<out>/admin.password                 of who may change users, which is this command
<out>/broker/                        mosquitto's working directory: certificate, key, users, what it keeps
<out>/server/                        a kit: settings, CA, password
<out>/devices/<device>/              a kit each, to be copied to the device as /etc/cachenet
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import socket
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cachenet.cloud_server.provision import authority, dynsec
from cachenet.shared.command import atomic_files, exit
from cachenet.shared.transport.mqtt import MqttError, address
from cachenet.shared.transport.protocol import Malformed, check_device

#: Where a kit goes on the machine that it is for.
PLACE = "/etc/cachenet"
#: What the broker's certificate is for beside the names that it is given: itself, and Compose's name for it.
_ALWAYS = ("broker", "localhost", "127.0.0.1")
_PORT = 8883
_PARTIAL = ".part"
#: Users that may be removed, and how many of them a message names.
_REMOVABLE: tuple[dynsec.Kind, ...] = ("device", "viewer")
_SHOWN = 5
_SETTINGS: dict[dynsec.Kind, str] = {"server": "server.toml", "device": "agent.toml"}


def provision(
    devices: Annotated[
        list[str] | None, typer.Argument(metavar="[DEVICE]...", help="Names of the devices to let in.")
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or address by which devices reach the broker's machine; may come again (default: as before, or "
            "its name)."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Directory that keys, certificates and the broker's configuration are kept in.")
    ] = Path("deployment"),
    trusted_key: Annotated[
        Path | None,
        typer.Option(help="File of a public key for new devices: they take no model that it has not signed."),
    ] = None,
    viewer: Annotated[
        list[str] | None,
        typer.Option(help="Name of a person or program that may see what all devices answer; may come again."),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(help="Name of a device or viewer to shut out; may come again.")
    ] = None,
    broker: Annotated[
        str, typer.Option(help="Address at which the running broker is reached from here, HOST:PORT.")
    ] = "localhost:8883",
) -> None:
    """Make certificates, users and passwords for DEVICEs; what is there stays as it is.

    Before the broker's first start this writes its users down; later it tells the running broker.

    Example: cloud-server provision cam1 cam2 --host broker.example

    Example: cloud-server provision --remove cam2
    """
    try:
        new = _wanted([*_users(devices, "device"), *_users(viewer, "viewer")], out)
        gone = _unwanted(remove, out)
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        _keep_from_git(out)
        (out / "broker").mkdir(mode=0o700, exist_ok=True)
        certificate = out / "broker/broker.crt"
        hosts = _hosts(host, certificate)
        ca = authority.Authority(out)
        if ca.vouch(certificate, out / "broker/broker.key", hosts):
            typer.echo(f"the broker's certificate is for {', '.join(hosts)}; a running broker takes it with SIGHUP")
        give_to_broker(out)
        users = out / "broker/dynamic-security.json"
        passwords = {user: secrets.token_urlsafe(24) for user in new}
        if not users.exists():
            passwords |= {user: secrets.token_urlsafe(24) for user in (dynsec.ADMIN, dynsec.SERVER)}
            authority.write_secret(out / "admin.password", passwords[dynsec.ADMIN].encode() + b"\n")
            authority.write_secret(users, dynsec.initial(passwords))
            give_to_broker(out)
        elif new or gone:
            admin = (out / "admin.password").read_text("ascii").strip()
            where = address(f"mqtts://{dynsec.ADMIN.name}@{broker}", admin, ca.certificate)
            with dynsec.control(where) as control:
                for user in new:
                    control.put(user, passwords[user])
                for user in gone:
                    control.remove(user)
        for user in gone:
            if _place(user, out).exists():
                shutil.rmtree(_place(user, out))
        # Last: a kit that is there means that the broker knows its user.
        for user, password in passwords.items():
            if user != dynsec.ADMIN:
                _kit(_place(user, out), user, password, hosts[0], ca.certificate, trusted_key)
                typer.echo(f"{user.name}: {_place(user, out)}")
    except (Malformed, MqttError, dynsec.AccessError, ValueError) as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename}: {error.strerror}")


def give_to_broker(out: Path) -> None:
    """Let the broker read its files. A mosquitto that root starts goes on as the user ``mosquitto``, and reads as that
    its files and, at SIGHUP, its configuration."""
    if os.geteuid() != 0:
        return
    try:
        owner = pwd.getpwnam("mosquitto")
    except KeyError:  # mosquitto is not installed here
        return
    place = out / "broker"
    if place.stat().st_uid not in (0, owner.pw_uid):  # it belongs to the containers' user
        return
    out.chmod(0o711)  # to be passed through, not listed; what is secret in it has a mode of its own
    for path in (place, *(place / name for name in ("broker.crt", "broker.key", "dynamic-security.json"))):
        if path.exists():
            os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def _users(names: list[str] | None, kind: dynsec.Kind) -> list[dynsec.User]:
    return [dynsec.User(check_device(name), kind) for name in names or []]


def _wanted(users: list[dynsec.User], out: Path) -> list[dynsec.User]:
    """Those that have no kit yet. Raises ``Malformed``."""
    for user in users:
        others = [dynsec.User(user.name, kind) for kind in ("device", "viewer") if kind != user.kind]
        if user.name in ("admin", "server") or any(other in users or _place(other, out).exists() for other in others):
            raise Malformed(f"{user.name!r} is the name of another user; choose another")
    return [user for user in dict.fromkeys(users) if not _place(user, out).exists()]


def _unwanted(names: list[str] | None, out: Path) -> list[dynsec.User]:
    """The users of these names. Raises ``Malformed`` for a name that no user has."""
    known = _known(out)
    for name in names or []:
        check_device(name)
        if not any(user.name == name for user in known):
            raise Malformed(f"--remove {name}: no such device or viewer; {_named(known, out)}")
    return [user for user in known if user.name in (names or [])]


def _known(out: Path) -> list[dynsec.User]:
    """Devices and viewers that have a kit or that the broker has as users."""
    found = [
        dynsec.User(place.name, kind)
        for kind in _REMOVABLE
        for place in sorted((out / f"{kind}s").glob("*/"))
        if not place.name.endswith(_PARTIAL)
    ]
    with suppress(OSError):  # the broker's own file; it may be run by another user
        found += dynsec.users((out / "broker/dynamic-security.json").read_bytes())
    return [user for user in dict.fromkeys(found) if user.kind in _REMOVABLE]


def _named(users: list[dynsec.User], out: Path) -> str:
    if not users:
        return f"there are none in {out}"
    names = sorted(user.name for user in users)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"known are {', '.join(names[:_SHOWN])}{more}"


def _place(user: dynsec.User, out: Path) -> Path:
    """Where a user's kit is."""
    return out / "server" if user == dynsec.SERVER else out / f"{user.kind}s" / user.name


def _keep_from_git(out: Path) -> None:
    """Have git ignore ``out``, unless it holds something besides what this command makes."""
    ours = {"ca.crt", "ca.key", "admin.password", "broker", "server", "devices", "viewers", "store"}
    if {path.name for path in out.iterdir()} <= ours:
        atomic_files.keep_from_git(out)


def _hosts(given: list[str] | None, certificate: Path) -> list[str]:
    if not given:
        given = authority.hosts_of(certificate) if certificate.exists() else [socket.getfqdn()]
    return list(dict.fromkeys((*given, *_ALWAYS)))


def _kit(directory: Path, user: dynsec.User, password: str, host: str, ca: Path, trusted_key: Path | None) -> None:
    """All that ``user`` needs to connect, under names that its settings say."""
    partial = directory.with_name(directory.name + _PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700, parents=True)
    bare = f"[{host}]" if ":" in host else host
    said = {
        "broker": f"mqtts://{user.name}@{bare}:{_PORT}",
        "ca": f"{PLACE}/ca.crt",
        "password_file": f"{PLACE}/password",
    }
    if user.kind == "device":
        said["device"] = user.name
        if trusted_key is not None:
            said["trusted_key"] = f"{PLACE}/bundle.pub"
            shutil.copyfile(trusted_key, partial / "bundle.pub")
    if user.kind in _SETTINGS:
        settings = "".join(f"{name} = {json.dumps(value)}\n" for name, value in said.items())
        (partial / _SETTINGS[user.kind]).write_text(settings, "utf-8")
    shutil.copyfile(ca, partial / "ca.crt")
    authority.write_secret(partial / "password", password.encode() + b"\n")
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)


def _refuse(why: str) -> NoReturn:
    exit.refuse("cloud-server", why)
