"""Error messages about a broker: one line each, with advice."""

from __future__ import annotations

import os
import socket
import ssl
from datetime import datetime, timezone

from cachenet.shared.transport.broker import Address

#: OpenSSL's error codes of a certificate (X509_V_ERR_*, x509_vfy.h).
_NOT_YET_VALID, _EXPIRED = 9, 10
_UNKNOWN_CA = {2, 18, 19, 20, 21}
_WRONG_NAME = {62, 64}
#: MQTT 5 reason codes of CONNACK and DISCONNECT (section 2.4).
_BAD_PASSWORD, _NOT_AUTHORISED, _TAKEN_OVER = 134, 135, 142


def unreachable(where: Address, error: BaseException | None) -> str:
    """Message about a failed TCP or TLS connection."""
    place = f"{where.host}:{where.port}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{place} is not trusted: {_certificate(where, error)}"
    if isinstance(error, ssl.SSLError):
        return f"{place} does not answer in TLS; is it the port for mqtts://, 8883 as a rule?"
    if isinstance(error, socket.gaierror):
        return f"no broker at {place}: nothing is known by that name; check --broker and this machine's network"
    if isinstance(error, ConnectionRefusedError):
        return f"no broker at {place}: nothing listens there; is it running, and is that its port?"
    if isinstance(error, TimeoutError):
        return f"no broker at {place}: no answer; is that machine on, and does a firewall let the port through?"
    why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error or "no answer")
    return f"no broker at {place}: {why}; check --broker and this machine's network"


def _certificate(where: Address, error: ssl.SSLCertVerificationError) -> str:
    # The date without the time: a message is logged again when its text changes.
    clock = f"this machine's clock says {datetime.now(timezone.utc):%Y-%m-%d}"
    if error.verify_code == _EXPIRED:
        return f"its certificate has expired; have it renewed, or set the clock if that is wrong ({clock})"
    if error.verify_code == _NOT_YET_VALID:
        return f"its certificate is not valid yet; set the clock if that is wrong ({clock})"
    if error.verify_code in _UNKNOWN_CA:
        if where.ca is None:
            return "no CA of this machine's has signed its certificate; give the broker's own with --ca"
        return f"the CA in {where.ca} has not signed its certificate; get this broker's CA certificate"
    if error.verify_code in _WRONG_NAME:
        return f"its certificate is not for {where.host}; name it in --broker as its certificate does"
    return str(error.verify_message)


def refused(where: Address, code: int, reason: str) -> str:
    """Message about a refused connection, with the reason code of CONNACK."""
    if code not in (_BAD_PASSWORD, _NOT_AUTHORISED):
        return f"the broker refused the connection: {reason}"
    if where.user is None:
        return "the broker wants a user and a password: write --broker mqtts://USER@... and give --password-file"
    if where.password is None:
        return f"the broker wants a password for {where.user}: give --password-file or CACHENET_PASSWORD"
    return f"the broker does not take {where.user}'s password ({reason}); check it, the user's name and --device"


def hung_up(where: Address) -> str:
    """Message about a connection that was closed before any MQTT packet."""
    place = f"{where.host}:{where.port}"
    if where.tls:
        return f"{place} hung up at once; is it an MQTT 5 broker?"
    return f"{place} hung up at once; is it an MQTT 5 broker, and does it want mqtts:// rather than mqtt://?"


def lost(code: int, reason: str) -> str:
    """Message about a lost connection, with the reason code of DISCONNECT."""
    if taken_over(code):
        return "another has taken this connection over; give each device a --device name of its own"
    return f"connection lost ({reason})"


def taken_over(code: int) -> bool:
    """Whether the reason code of DISCONNECT means that another client with the same id has connected."""
    return code == _TAKEN_OVER


def conflict(client_id: str, certain: bool) -> str:
    """Message about another client with this id; ``certain``: whether the broker gave this reason."""
    name = client_id.removeprefix("cachenet-")
    verb = "is" if certain else "seems to be"
    return (
        f"another device called {name} {verb} connected to this broker, and each ends the other's connection; "
        "give each device a --device name of its own"
    )
