"""The command ``cloud-server provision``: certificates, users and passwords of a broker, a server and its devices.

<out>/.gitignore                     git ignores the directory
<out>/ca.crt, ca.key                 the CA; only this command uses the key
<out>/admin.password                 password of the user that changes users, which is this command
<out>/broker/                        mosquitto's working directory: certificate, key, users, persistent messages
<out>/server/                        credentials of the server: settings, CA, password
<out>/devices/<device>/              credentials of each device, to be copied to /etc/cachenet there
<out>/viewers/<viewer>/              credentials of each viewer
"""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from cachenet.cloud_server.provision import dynsec
from cachenet.shared.command import atomic_files, exit
from cachenet.shared.command.errors import UserError
from cachenet.shared.command.extras import require
from cachenet.shared.transport.mqtt import address
from cachenet.shared.transport.protocol import Malformed, check_device

#: Directory of the credentials on their machine.
TARGET = "/etc/cachenet"
#: Host names in every certificate of the broker: its Docker Compose service, and the machine itself.
_FIXED_HOSTS = ("broker", "localhost", "127.0.0.1")
#: Port of the broker.
_PORT = 8883
#: Suffix of credentials that are not complete.
_PARTIAL = ".part"
#: Kinds of users that ``--remove`` accepts.
_REMOVABLE: tuple[dynsec.Kind, ...] = ("device", "viewer")
#: Largest number of users that an error message lists.
_SHOWN = 5
#: Name of the settings file of each kind of user.
_SETTINGS: dict[dynsec.Kind, str] = {"server": "server.toml", "device": "agent.toml"}


def provision(
    devices: Annotated[
        list[str] | None, typer.Argument(metavar="[DEVICE]...", help="Names of the devices to add.")
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(
            help="Host name or address of the broker's machine; repeatable (default: that of the present certificate, "
            "or this machine's name)."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory of keys, certificates and the broker's users.")] = Path(
        "deployment"
    ),
    trusted_root: Annotated[
        Path | None,
        typer.Option(help="File of a root of trust for new devices; they accept only models that its keys signed."),
    ] = None,
    viewer: Annotated[
        list[str] | None,
        typer.Option(help="Name of a user that may read the results of all devices; repeatable."),
    ] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Name of a device or viewer to remove; repeatable.")] = None,
    broker: Annotated[
        str, typer.Option(help="Address of the running broker, HOST:PORT; commas separate several brokers.")
    ] = "localhost:8883",
    shards: Annotated[
        bool,
        typer.Option("--shards", help="Each --host is a broker of its own: new credentials list all of them."),
    ] = False,
) -> None:
    """Create certificates, users and passwords for DEVICEs; existing ones stay unchanged.

    Before the broker's first start the users go to its file; later they go to the running broker. After an update of
    this software, run it again: it gives all users the rights of the new version.

    Example: cloud-server provision cam1 cam2 --host broker.example

    Example: cloud-server provision cam1 cam2 --shards --host one.example --host two.example

    Example: cloud-server provision --remove cam2
    """
    try:
        require("cloud", "cryptography")
        from cachenet.cloud_server.provision import authority  # 60 ms, which other commands save

        added = _users_to_add([*_users(devices, "device"), *_users(viewer, "viewer")], out)
        removed = _users_to_remove(remove, out)
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        _ignore_in_git(out)
        (out / "broker").mkdir(mode=0o700, exist_ok=True)
        certificate = out / "broker/broker.crt"
        hosts = _hosts(host, certificate)
        ca = authority.Authority(out)
        if ca.issue(certificate, out / "broker/broker.key", hosts):
            typer.echo(f"the broker's certificate is for {', '.join(hosts)}; a running broker reads it at SIGHUP")
        give_to_broker(out)
        users = out / "broker/dynamic-security.json"
        outdated = [user for user in _outdated(users) if user not in (*added, *removed)]
        passwords = {user: secrets.token_urlsafe(24) for user in added}
        if not users.exists():
            passwords |= {user: secrets.token_urlsafe(24) for user in (dynsec.ADMIN, dynsec.SERVER)}
            authority.write_secret(out / "admin.password", passwords[dynsec.ADMIN].encode() + b"\n")
            authority.write_secret(users, dynsec.initial_configuration(passwords))
            give_to_broker(out)
        elif added or removed or outdated:
            admin = (out / "admin.password").read_text("ascii").strip()
            if outdated:
                typer.echo(f"giving the rights of this version to {_shortened(user.role for user in outdated)}")
            for one in broker.split(","):
                where = address(f"mqtts://{dynsec.ADMIN.name}@{one.strip()}", admin, ca.certificate)
                with dynsec.control(where) as control:
                    for user in added:
                        control.set_user(user, passwords[user])
                    for user in removed:
                        control.remove_user(user)
                    for user in outdated:
                        control.set_role(user)
        for user in removed:
            if _directory(user, out).exists():
                shutil.rmtree(_directory(user, out))
        # Last: credentials of a user exist only if the broker has the user.
        brokers = [name for name in hosts if shards and name not in _FIXED_HOSTS] or hosts[:1]
        for user, password in passwords.items():
            if user != dynsec.ADMIN:
                _write_credentials(_directory(user, out), user, password, brokers, ca.certificate, trusted_root)
                typer.echo(f"{user.name}: {_directory(user, out)}")
    except (Malformed, UserError, ValueError) as error:
        exit.refuse("cloud-server", str(error))
    except OSError as error:
        exit.refuse("cloud-server", f"{error.filename}: {error.strerror}")


def give_to_broker(out: Path) -> None:
    """Give the broker's files to its user.

    A mosquitto that root starts changes to the user ``mosquitto``. This user reads the files and, at SIGHUP, the
    configuration.
    """
    if os.geteuid() != 0:
        return
    try:
        owner = pwd.getpwnam("mosquitto")
    except KeyError:  # mosquitto is not installed here
        return
    directory = out / "broker"
    if directory.stat().st_uid not in (0, owner.pw_uid):  # the containers' user owns it
        return
    out.chmod(0o711)  # others may enter it, and not list it; secret files have their own mode
    for path in (directory, *(directory / name for name in ("broker.crt", "broker.key", "dynamic-security.json"))):
        if path.exists():
            os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def _users(names: list[str] | None, kind: dynsec.Kind) -> list[dynsec.User]:
    return [dynsec.User(check_device(name), kind) for name in names or []]


def _users_to_add(users: list[dynsec.User], out: Path) -> list[dynsec.User]:
    """The users without credentials. Raises ``Malformed`` for the name of another user."""
    for user in users:
        others = [dynsec.User(user.name, kind) for kind in ("device", "viewer") if kind != user.kind]
        if user.name in ("admin", "server") or any(
            other in users or _directory(other, out).exists() for other in others
        ):
            raise Malformed(f"{user.name!r} is the name of another user; choose another")
    return [user for user in dict.fromkeys(users) if not _directory(user, out).exists()]


def _users_to_remove(names: list[str] | None, out: Path) -> list[dynsec.User]:
    """The users of these names. Raises ``Malformed`` for an unknown name."""
    known = _known(out)
    for name in names or []:
        check_device(name)
        if not any(user.name == name for user in known):
            raise Malformed(f"--remove {name}: no such device or viewer; {_summary(known, out)}")
    return [user for user in known if user.name in (names or [])]


def _known(out: Path) -> list[dynsec.User]:
    """Devices and viewers that have credentials or are users of the broker."""
    found = [
        dynsec.User(directory.name, kind)
        for kind in _REMOVABLE
        for directory in sorted((out / f"{kind}s").glob("*/"))
        if not directory.name.endswith(_PARTIAL)
    ]
    with suppress(OSError):  # the broker owns the file and may run as another user
        found += dynsec.users((out / "broker/dynamic-security.json").read_bytes())
    return [user for user in dict.fromkeys(found) if user.kind in _REMOVABLE]


def _outdated(users: Path) -> list[dynsec.User]:
    """Users whose role in the broker's file lacks rights; none if there is no file that this process may read."""
    with suppress(OSError):
        return dynsec.outdated(users.read_bytes())
    return []


def _summary(users: list[dynsec.User], out: Path) -> str:
    if not users:
        return f"there are none in {out}"
    return f"known are {_shortened(user.name for user in users)}"


def _shortened(names: Iterable[str]) -> str:
    """The first ``_SHOWN`` names and the number of the others."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return f"{', '.join(ordered[:_SHOWN])}{more}"


def _directory(user: dynsec.User, out: Path) -> Path:
    """Directory of a user's credentials."""
    return out / "server" if user == dynsec.SERVER else out / f"{user.kind}s" / user.name


def _ignore_in_git(out: Path) -> None:
    """Make git ignore ``out``, unless it has other files than those of this command."""
    own = {"ca.crt", "ca.key", "admin.password", "broker", "server", "devices", "viewers", "store"}
    if {path.name for path in out.iterdir()} <= own:
        atomic_files.keep_from_git(out)


def _hosts(hosts: list[str] | None, certificate: Path) -> list[str]:
    if not hosts:
        from cachenet.cloud_server.provision import authority

        hosts = authority.hosts_of(certificate) if certificate.exists() else [socket.getfqdn()]
    return list(dict.fromkeys((*hosts, *_FIXED_HOSTS)))


def _write_credentials(
    directory: Path, user: dynsec.User, password: str, hosts: list[str], ca: Path, trusted_root: Path | None
) -> None:
    """Write settings, CA and password of ``user``, atomically."""
    from cachenet.cloud_server.provision import authority

    partial = directory.with_name(directory.name + _PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700, parents=True)
    named = (f"[{host}]" if ":" in host else host for host in hosts)
    settings = {
        "broker": ",".join(f"mqtts://{user.name}@{host}:{_PORT}" for host in named),
        "ca": f"{TARGET}/ca.crt",
        "password_file": f"{TARGET}/password",
    }
    if user.kind == "device":
        settings["device"] = user.name
        if trusted_root is not None:
            settings["trusted_root"] = f"{TARGET}/root.json"
            shutil.copyfile(trusted_root, partial / "root.json")
    if user.kind in _SETTINGS:
        text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
        (partial / _SETTINGS[user.kind]).write_text(text, "utf-8")
    shutil.copyfile(ca, partial / "ca.crt")
    authority.write_secret(partial / "password", password.encode() + b"\n")
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
