"""Who may do what on the broker: users and roles of mosquitto's dynamic-security plugin.

A device may do all in its own subtree and read the catalogue. Only the server may subscribe under ``$share/``: whoever
joins its group there is handed a share of everybody's requests. The plugin of mosquitto 2.0 puts no user's name into
a topic, so that every device has a role of its own; and it pins a device's client id, or one device could take the
connection of another.
"""

from __future__ import annotations

import base64
import hashlib
import json
import queue
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from shared import protocol
from shared.link import Address, Link, Message

ADMIN, SERVER = "admin", "server"
_CONTROL = "$CONTROL/dynamic-security/v1"
_PATIENCE_S = 5.0
#: mosquitto's own; a password of 192 random bits needs no more.
_ITERATIONS = 101

_Json = dict[str, Any]


class AccessError(Exception):
    """The broker's users cannot be changed; the message says what to do."""


def client(user: str) -> _Json:
    """A user as the plugin's commands want it, without a password."""
    role = user if user in (ADMIN, SERVER) else _role_name(user)
    pinned = {} if user in (ADMIN, SERVER) else {"clientid": f"cachenet-{user}"}
    return {"username": user, **pinned, "roles": [{"rolename": role}]}


def role(user: str) -> _Json:
    """What ``user`` may do."""
    root = protocol.ROOT
    if user == ADMIN:
        may = {kind: [f"{_CONTROL}/#"] for kind in ("publishClientSend", "publishClientReceive", "subscribePattern")}
        return _role(ADMIN, may)
    if user == SERVER:
        asked = [topic.split("/", 2)[2] for topic in protocol.SERVER_TOPICS]
        return _role(
            SERVER,
            {
                "subscribeLiteral": protocol.SERVER_TOPICS,
                "publishClientReceive": asked,
                "publishClientSend": [f"{root}/+/answer", f"{root}/+/blob/+", protocol.CATALOGUE_TOPICS],
            },
        )
    own = protocol.topic(user, "#")
    heard = [own, protocol.CATALOGUE_TOPICS]
    return _role(
        _role_name(user),
        {"publishClientSend": [own], "publishClientReceive": heard, "subscribePattern": heard},
    )


def initial(passwords: dict[str, str]) -> bytes:
    """The plugin's file for a broker that has not run yet, with these users and their passwords."""
    users = [{**client(user), **_hashed(password)} for user, password in passwords.items()]
    defaults = {"publishClientSend": False, "publishClientReceive": False, "subscribe": False, "unsubscribe": True}
    roles = [role(user) for user in passwords]
    return json.dumps({"clients": users, "roles": roles, "defaultACLAccess": defaults}, indent=1).encode() + b"\n"


def _role_name(device: str) -> str:
    return f"device-{device}"


def _role(name: str, may: Mapping[str, Sequence[str]]) -> _Json:
    acls = [{"acltype": kind, "topic": topic, "allow": True} for kind, topics in may.items() for topic in topics]
    return {"rolename": name, "acls": acls}


def _hashed(password: str) -> _Json:
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    return {
        "password": base64.b64encode(digest).decode(),
        "salt": base64.b64encode(salt).decode(),
        "iterations": _ITERATIONS,
    }


class Control:
    """A running broker's users, changed at once and for good."""

    def __init__(self, link: Link, said: queue.SimpleQueue[bytes]) -> None:
        self._link, self._said = link, said

    def put(self, user: str, password: str) -> None:
        """Have ``user`` with this password, whether there was one of that name or not. Raises ``AccessError``."""
        self.remove(user)
        self._do({"command": "createRole", **role(user)})
        self._do({"command": "createClient", **client(user), "password": password})

    def remove(self, user: str) -> None:
        """Have no ``user``; who is connected as that loses the connection. Raises ``AccessError``."""
        self._do({"command": "deleteClient", "username": user}, unless="not found")
        self._do({"command": "deleteRole", "rolename": role(user)["rolename"]}, unless="not found")

    def _do(self, command: _Json, unless: str = "") -> None:
        if not self._link.publish(_CONTROL, json.dumps({"commands": [command]}).encode(), qos=1):
            raise AccessError(self._link.trouble)
        try:
            said = self._said.get(timeout=_PATIENCE_S)
        except queue.Empty:
            raise AccessError("the broker says nothing; is its dynamic-security plugin loaded?") from None
        (response,) = json.loads(said)["responses"]
        error = response.get("error", "")
        if error and not (unless and unless in error.lower()):
            raise AccessError(f"the broker refuses {command['command']}: {error}")


@contextmanager
def control(where: Address) -> Iterator[Control]:
    """The users of the broker at ``where``, for its admin. Raises ``AccessError``."""
    said: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def receive(message: Message) -> None:
        said.put(message.payload)

    link = Link(where, f"provision-{secrets.token_hex(4)}", [(f"{_CONTROL}/response", 1)], receive)
    link.start()
    try:
        if trouble := link.settle(_PATIENCE_S):
            raise AccessError(f"{trouble.removesuffix('; trying again')} (users are kept by the running broker)")
        yield Control(link, said)
    finally:
        link.stop()
