"""Address and credentials of an MQTT broker."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cachenet.shared.command.errors import UserError
from cachenet.shared.transport.addresses import without_password

#: The comma between two URLs.
_BETWEEN = re.compile(r"\s*,\s*(?=mqtts?:)")


class MqttError(UserError, ValueError):
    """An invalid broker address or credential. The message says what to do."""


@dataclass(frozen=True)
class Address:
    """Address of a broker and credentials of a client.

    Attributes:
        tls: Whether to use TLS.
        ca: File of the CA certificate; None for the system's.
    """

    host: str
    port: int
    tls: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None


def address(url: str, password: str | None = None, ca: Path | None = None) -> Address:
    """Parse ``mqtt[s]://[user@]host[:port]``.

    Args:
        url: The URL. A password in it is refused, because process lists would show it.
        password: Password of the user.
        ca: File of the CA certificate.

    Raises:
        MqttError: The URL is not valid.
    """
    shown = without_password(url)
    if "," in url.rpartition("@")[2]:
        raise MqttError(f"broker {shown!r}: write mqtt:// or mqtts:// before each broker of a list")
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        port = parts.port
    except UnicodeError:
        raise MqttError(f"broker {shown!r}: that is no host name") from None
    except ValueError as error:
        what = "the port is not a number in 1..65535" if "port" in str(error).lower() else "that is no address"
        raise MqttError(f"broker {shown!r}: {what}") from None
    spaced = any(character.isspace() for character in url)
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path.strip("/") or spaced:
        raise MqttError(f"broker {shown!r} is not mqtt://host:port or mqtts://user@host:port")
    if parts.password is not None:
        raise MqttError("a password does not belong in the broker's URL; use --password-file or CACHENET_PASSWORD")
    tls = parts.scheme == "mqtts"
    user = unquote(parts.username) if parts.username else None
    return Address(parts.hostname, port or (8883 if tls else 1883), tls, user, password, ca)


def addresses(urls: str, password: str | None = None, ca: Path | None = None) -> tuple[Address, ...]:
    """Parse a list of URLs, separated by commas: brokers that share the devices. Arguments are those of ``address``.

    Raises:
        MqttError: A URL is not valid, or a broker is listed twice.

    Example:
        >>> [where.host for where in addresses("mqtt://one.local,mqtt://two.local")]
        ['one.local', 'two.local']
    """
    # A comma without a scheme behind it may be part of a password, which no message may show.
    found = tuple(address(url.strip(), password, ca) for url in _BETWEEN.split(urls))
    for number, one in enumerate(found):
        if (one.host, one.port) in ((other.host, other.port) for other in found[:number]):
            raise MqttError(f"broker {one.host}:{one.port} is listed twice; list each broker once")
    return found


def from_options(urls: str, password_file: str, ca: str | None) -> tuple[Address, ...]:
    """The brokers that the options or settings of a program name. Raises ``MqttError``.

    Args:
        urls: See ``addresses``.
        password_file: See ``password``.
        ca: File of the CA certificate; None or empty for the system's.
    """
    return addresses(urls, password(password_file), Path(ca) if ca else None)


def password(file: str) -> str | None:
    """Read the broker's password from ``file``, or from ``CACHENET_PASSWORD`` where that is empty.

    Raises:
        MqttError: The file cannot be read.
    """
    if not file:
        return os.environ.get("CACHENET_PASSWORD")
    try:
        return Path(file).read_text("utf-8").strip()
    except OSError as error:
        raise MqttError(f"password file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise MqttError(f"password file {file}: not text") from None
