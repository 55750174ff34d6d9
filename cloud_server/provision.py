"""The command ``cloud-server provision``: all that a broker, a server and its devices need to trust one another.

<out>/ca.crt, ca.key                 the authority; the key is for this command alone
<out>/admin.password                 of who may change users, which is this command
<out>/broker/                        mosquitto's working directory: certificate, key, users, what it keeps
<out>/server/                        a kit: settings, CA, password
<out>/devices/<device>/              a kit each, to be copied to the device as /etc/cachenet
"""

from __future__ import annotations

import json
import secrets
import shutil
import socket
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cloud_server import authority, dynsec
from shared.link import LinkError, address
from shared.protocol import Malformed, check_device

#: Where a kit goes on the machine that it is for.
PLACE = "/etc/cachenet"
#: What the broker's certificate is for beside the names that it is given: itself, and Compose's name for it.
_ALWAYS = ("broker", "localhost", "127.0.0.1")
_PORT = 8883
SETTINGS = {dynsec.SERVER: "server.toml"}


def provision(
    devices: Annotated[list[str] | None, typer.Argument(metavar="[DEVICE]...", help="Names of devices.")] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(help="What devices call the broker's machine; may come again. Default: as before, or its name."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where all is kept.")] = Path("deployment"),
    trusted_key: Annotated[
        Path | None, typer.Option(help="Public key for new devices: they take no model that it has not signed.")
    ] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Shut this device out; may come again.")] = None,
    broker: Annotated[str, typer.Option(help="Where the running broker is reached from here.")] = "localhost:8883",
) -> None:
    """Make certificates, users and passwords for DEVICEs; what is there stays as it is.

    Before the broker's first start this writes its users down; later it tells the running broker.

    Example: cloud-server provision cam1 cam2 --host broker.example

    Example: cloud-server provision --remove cam2
    """
    try:
        new = _wanted(devices or [], out)
        gone = [check_device(device) for device in remove or []]
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        (out / "broker").mkdir(mode=0o700, exist_ok=True)
        certificate = out / "broker/broker.crt"
        hosts = _hosts(host, certificate)
        ca = authority.Authority(out)
        if ca.vouch(certificate, out / "broker/broker.key", hosts):
            typer.echo(f"the broker's certificate is for {', '.join(hosts)}; a running broker takes it with SIGHUP")
        users = out / "broker/dynamic-security.json"
        passwords = {user: secrets.token_urlsafe(24) for user in new}
        if not users.exists():
            passwords |= {user: secrets.token_urlsafe(24) for user in (dynsec.ADMIN, dynsec.SERVER)}
            authority.write_secret(out / "admin.password", passwords[dynsec.ADMIN].encode() + b"\n")
            authority.write_secret(users, dynsec.initial(passwords))
        elif new or gone:
            admin = (out / "admin.password").read_text("ascii").strip()
            with dynsec.control(address(f"mqtts://{dynsec.ADMIN}@{broker}", admin, ca.certificate)) as control:
                for user in new:
                    control.put(user, passwords[user])
                for user in gone:
                    control.remove(user)
        for device in gone:
            shutil.rmtree(out / "devices" / device, ignore_errors=True)
        # Last: a kit that is there means that the broker knows its user.
        for user, password in passwords.items():
            if user != dynsec.ADMIN:
                kit = out / "server" if user == dynsec.SERVER else out / "devices" / user
                _kit(kit, user, password, hosts[0], ca.certificate, trusted_key if user in new else None)
                typer.echo(f"{user}: {kit}")
    except (Malformed, LinkError, dynsec.AccessError, ValueError) as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename}: {error.strerror}")


def _wanted(devices: list[str], out: Path) -> list[str]:
    """Those that have no kit yet. Raises ``Malformed``."""
    for device in devices:
        if check_device(device) in (dynsec.ADMIN, dynsec.SERVER):
            raise Malformed(f"{device!r} is the name of another user; call the device something else")
    return [device for device in dict.fromkeys(devices) if not (out / "devices" / device).exists()]


def _hosts(given: list[str] | None, certificate: Path) -> list[str]:
    if not given:
        given = authority.hosts_of(certificate) if certificate.exists() else [socket.getfqdn()]
    return list(dict.fromkeys((*given, *_ALWAYS)))


def _kit(directory: Path, user: str, password: str, host: str, ca: Path, trusted_key: Path | None) -> None:
    """All that ``user`` needs to connect, under names that its settings say."""
    partial = directory.with_name(directory.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700, parents=True)
    bare = f"[{host}]" if ":" in host else host
    said = {
        "broker": f"mqtts://{user}@{bare}:{_PORT}",
        "ca": f"{PLACE}/ca.crt",
        "password_file": f"{PLACE}/password",
    }
    if user != dynsec.SERVER:
        said["device"] = user
    if trusted_key is not None:
        said["trusted_key"] = f"{PLACE}/bundle.pub"
        shutil.copyfile(trusted_key, partial / "bundle.pub")
    settings = "".join(f"{name} = {json.dumps(value)}\n" for name, value in said.items())
    (partial / SETTINGS.get(user, "agent.toml")).write_text(settings, "utf-8")
    shutil.copyfile(ca, partial / "ca.crt")
    authority.write_secret(partial / "password", password.encode() + b"\n")
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)


def _refuse(why: str) -> NoReturn:
    typer.echo(f"cloud-server: {why}", err=True)
    raise typer.Exit(2)
