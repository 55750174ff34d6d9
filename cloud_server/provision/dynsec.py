"""Who may do what on the broker: users and roles of mosquitto's dynamic-security plugin.

A device may do all in its own subtree and read the catalogue. A viewer, such as Home Assistant, reads what all devices
answer and how they are, and writes nothing of theirs. Only the server may subscribe under ``$share/``: whoever
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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from cachenet.shared.command.errors import UserError
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection

Kind = Literal["admin", "server", "device", "viewer"]
#: Home Assistant's topics: where devices describe themselves, and where it says that it has started.
_DISCOVERY = "homeassistant"
_BORN = f"{_DISCOVERY}/status"
_CONTROL = "$CONTROL/dynamic-security/v1"
_PATIENCE_S = 5.0
#: mosquitto's own; a password of 192 random bits needs no more.
_ITERATIONS = 101

_Json = dict[str, Any]


class AccessError(UserError):
    """The broker's users cannot be changed; the message says what to do."""


@dataclass(frozen=True)
class User:
    """Who connects, and as what."""

    name: str
    kind: Kind

    @property
    def role(self) -> str:
        """A device's is its own; the others' are their kinds'."""
        return f"device-{self.name}" if self.kind == "device" else self.kind

    def client(self) -> _Json:
        """As the plugin's commands want it, without a password."""
        pinned = {"clientid": f"cachenet-{self.name}"} if self.kind == "device" else {}
        return {"username": self.name, **pinned, "roles": [{"rolename": self.role}]}

    def may(self) -> dict[str, tuple[str, ...]]:
        """Topics by what may be done with them. Whatever is not here may not be done."""
        root, found = protocol.ROOT, f"{_DISCOVERY}/device/{self.name}/#"
        if self.kind == "admin":
            return dict.fromkeys(("publishClientSend", "publishClientReceive", "subscribePattern"), (f"{_CONTROL}/#",))
        if self.kind == "server":
            return {
                "subscribeLiteral": protocol.SERVER_TOPICS,
                "publishClientReceive": tuple(topic.split("/", 2)[2] for topic in protocol.SERVER_TOPICS),
                "publishClientSend": (f"{root}/+/answer", f"{root}/+/blob/+", protocol.CATALOGUE_TOPICS),
            }
        if self.kind == "viewer":
            seen = (f"{root}/+/status", f"{root}/+/result/#", f"{_DISCOVERY}/#")
            return {"subscribePattern": seen, "publishClientReceive": seen, "publishClientSend": (_BORN,)}
        own = protocol.topic(self.name, "#")
        heard = (own, protocol.CATALOGUE_TOPICS, found, _BORN)
        return {"publishClientSend": (own, found), "publishClientReceive": heard, "subscribePattern": heard}

    def permission(self) -> _Json:
        """Its role as the plugin's commands want it."""
        each = [(kind, topic) for kind, topics in self.may().items() for topic in topics]
        return {
            "rolename": self.role,
            "acls": [{"acltype": kind, "topic": topic, "allow": True} for kind, topic in each],
        }


ADMIN, SERVER = User("admin", "admin"), User("server", "server")


def initial(passwords: dict[User, str]) -> bytes:
    """The plugin's file for a broker that has not run yet, with these users and their passwords."""
    users = [{**user.client(), **_hashed(password)} for user, password in passwords.items()]
    roles = {user.role: user.permission() for user in passwords}
    defaults = {"publishClientSend": False, "publishClientReceive": False, "subscribe": False, "unsubscribe": True}
    said = {"clients": users, "roles": list(roles.values()), "defaultACLAccess": defaults}
    return json.dumps(said, indent=1).encode() + b"\n"


def users(file: bytes) -> list[User]:
    """Who is in the plugin's file, the broker's own or that of ``initial``; empty for a file that cannot be read."""
    try:
        clients = json.loads(file)["clients"]
        roles = {each["username"]: [role["rolename"] for role in each["roles"]] for each in clients}
    except (ValueError, KeyError, TypeError):
        return []
    every: tuple[Kind, ...] = ("admin", "server", "device", "viewer")
    found = [User(name, kind) for name in roles for kind in every]
    return [user for user in found if user.role in roles[user.name]]


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

    def __init__(self, link: MqttConnection, said: queue.SimpleQueue[bytes]) -> None:
        self._link, self._said = link, said

    def put(self, user: User, password: str) -> None:
        """Have ``user`` with this password, whether there was one of that name or not. Raises ``AccessError``."""
        self._do({"command": "deleteClient", "username": user.name}, unless="not found")
        self._do({"command": "createRole", **user.permission()}, unless="exists")
        self._do({"command": "modifyRole", **user.permission()})  # what it was made with may be an older version's
        self._do({"command": "createClient", **user.client(), "password": password})

    def remove(self, user: User) -> None:
        """Have no ``user``; who is connected as that loses the connection. Raises ``AccessError``."""
        self._do({"command": "deleteClient", "username": user.name}, unless="not found")
        if user.kind == "device":
            self._do({"command": "deleteRole", "rolename": user.role}, unless="not found")

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

    link = MqttConnection(where, f"provision-{secrets.token_hex(4)}", [(f"{_CONTROL}/response", 1)], receive)
    link.start()
    try:
        if trouble := link.settle(_PATIENCE_S):
            raise AccessError(f"{trouble.removesuffix('; trying again')} (users are kept by the running broker)")
        yield Control(link, said)
    finally:
        link.stop()
