"""Access control of the broker: users and roles of mosquitto's dynamic-security plugin.

A device may read its own subtree and the catalogue, and write on the topics that the protocol gives it. A viewer, such
as Home Assistant or the fleet page, may read what devices report, and the catalogue. Only the server may subscribe
under ``$share/``: each member of the server's group receives a part of all requests. The server may also read and write
the topics of all devices, to remove useless retained messages. The plugin of mosquitto 2.0 cannot put a user name into
a topic pattern, so each device has a role of its own. A device's user is bound to one client id, so no device can take
another's connection.

The roles include the topics of version 1 of the protocol: so the server can tell its devices what to update, and a
device of this version recognises a server of version 1.
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
from typing import Any, Literal, get_args

from cachenet.cloud_server.broker import retained
from cachenet.shared.command.errors import UserError
from cachenet.shared.transport import protocol, rollout, version_1
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection

Kind = Literal["admin", "server", "device", "viewer"]
#: Root of Home Assistant's topics; devices publish their discovery messages below it.
_DISCOVERY = "homeassistant"
#: Topic on which Home Assistant announces that it has started.
_HOME_ASSISTANT_STATUS = f"{_DISCOVERY}/status"
#: Topic of the plugin's commands.
_CONTROL = "$CONTROL/dynamic-security/v1"
#: Longest wait for a connection or a response, seconds.
_TIMEOUT_S = 5.0
#: PBKDF2 iterations, mosquitto's default; enough for a password of 192 random bits.
_ITERATIONS = 101

#: Roots of the topics of all versions, and the subscriptions of a server.
_ROOTS = (protocol.ROOT, version_1.ROOT)
_SERVER_TOPICS = (*protocol.SERVER_TOPICS, *version_1.SERVER_TOPICS)
#: Topics that devices write on.
_DEVICE_TOPICS = (*retained.TOPICS, retained.DISCOVERY_TOPICS)

_Json = dict[str, Any]


class AccessError(UserError):
    """The broker's users cannot be changed; the message says what to do."""


@dataclass(frozen=True)
class User:
    """A user of the broker and its kind."""

    name: str
    kind: Kind

    @property
    def role(self) -> str:
        """Name of the user's role; each device has its own, the other kinds have one each."""
        return f"device-{self.name}" if self.kind == "device" else self.kind

    def client(self) -> _Json:
        """The user in the plugin's format, without a password."""
        client_id = {"clientid": f"cachenet-{self.name}"} if self.kind == "device" else {}
        return {"username": self.name, **client_id, "roles": [{"rolename": self.role}]}

    def permissions(self) -> dict[str, tuple[str, ...]]:
        """Topics by access type of the plugin. All other access is denied."""
        if self.kind == "admin":
            return dict.fromkeys(("publishClientSend", "publishClientReceive", "subscribePattern"), (f"{_CONTROL}/#",))
        if self.kind == "server":
            return {
                "subscribeLiteral": (*_SERVER_TOPICS, *_DEVICE_TOPICS, rollout.TOPICS),
                "publishClientReceive": (*_DEVICE_TOPICS, rollout.TOPICS),
                "publishClientSend": (*_DEVICE_TOPICS, *_under_roots("+/answer", "+/blob/+", "catalogue/#")),
            }
        if self.kind == "viewer":
            leaves = ("+/status", "+/stats", "+/result/#", "+/snapshot/#", "catalogue/#")
            readable: tuple[str, ...] = (*_under_roots(*leaves), f"{_DISCOVERY}/#")
            writable: tuple[str, ...] = (_HOME_ASSISTANT_STATUS,)
        else:
            discovery = f"{_DISCOVERY}/device/{self.name}/#"
            writable = (*_under_roots(*(f"{self.name}/{leaf}" for leaf in protocol.DEVICE_LEAVES)), discovery)
            readable = (*_under_roots(f"{self.name}/#", "catalogue/#"), discovery, _HOME_ASSISTANT_STATUS)
        return {"subscribePattern": readable, "publishClientReceive": readable, "publishClientSend": writable}

    def role_definition(self) -> _Json:
        """The user's role in the plugin's format."""
        rights = [(kind, topic) for kind, topics in self.permissions().items() for topic in topics]
        return {
            "rolename": self.role,
            "acls": [{"acltype": kind, "topic": topic, "allow": True} for kind, topic in rights],
        }


def _under_roots(*leaves: str) -> tuple[str, ...]:
    """These topics of all versions of the protocol."""
    return tuple(f"{root}/{leaf}" for root in _ROOTS for leaf in leaves)


ADMIN, SERVER = User("admin", "admin"), User("server", "server")


def initial_configuration(passwords: dict[User, str]) -> bytes:
    """Content of the plugin's file for a broker that has not run yet, with these users and their passwords."""
    users = [{**user.client(), **_hashed(password)} for user, password in passwords.items()]
    roles = {user.role: user.role_definition() for user in passwords}
    defaults = {"publishClientSend": False, "publishClientReceive": False, "subscribe": False, "unsubscribe": True}
    configuration = {"clients": users, "roles": list(roles.values()), "defaultACLAccess": defaults}
    return json.dumps(configuration, indent=1).encode() + b"\n"


def users(file: bytes) -> list[User]:
    """The users in the plugin's file; empty if the file is invalid."""
    try:
        clients = json.loads(file)["clients"]
        roles = {one["username"]: [role["rolename"] for role in one["roles"]] for one in clients}
    except (ValueError, KeyError, TypeError):
        return []
    possible = [User(name, kind) for name in roles for kind in get_args(Kind)]
    return [user for user in possible if user.role in roles[user.name]]


def outdated(file: bytes) -> list[User]:
    """Users in the plugin's file, one for each role, whose role lacks rights that this version gives it."""
    try:
        roles = {role["rolename"]: _rights(role) for role in json.loads(file)["roles"]}
    except (ValueError, KeyError, TypeError):
        return []
    lacking = {
        user.role: user for user in users(file) if not _rights(user.role_definition()) <= roles.get(user.role, set())
    }
    return list(lacking.values())


def _rights(role: _Json) -> set[tuple[str, str, bool]]:
    return {(acl["acltype"], acl["topic"], acl["allow"]) for acl in role["acls"]}


def _hashed(password: str) -> _Json:
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    return {
        "password": base64.b64encode(digest).decode(),
        "salt": base64.b64encode(salt).decode(),
        "iterations": _ITERATIONS,
    }


class Control:
    """Changes the users of a running broker."""

    def __init__(self, link: MqttConnection, responses: queue.SimpleQueue[bytes]) -> None:
        self._link, self._responses = link, responses

    def set_user(self, user: User, password: str) -> None:
        """Create or replace ``user`` with this password. Raises ``AccessError``."""
        self._run({"command": "deleteClient", "username": user.name}, ignored="not found")
        self._run({"command": "createRole", **user.role_definition()}, ignored="exists")
        self.set_role(user)  # the present role may be of an older version
        self._run({"command": "createClient", **user.client(), "password": password})

    def set_role(self, user: User) -> None:
        """Give the role of ``user`` the rights of this version. Raises ``AccessError``."""
        self._run({"command": "modifyRole", **user.role_definition()})

    def remove_user(self, user: User) -> None:
        """Remove ``user`` and close its connection. Raises ``AccessError``."""
        self._run({"command": "deleteClient", "username": user.name}, ignored="not found")
        if user.kind == "device":
            self._run({"command": "deleteRole", "rolename": user.role}, ignored="not found")

    def _run(self, command: _Json, ignored: str = "") -> None:
        """Run a command of the plugin. An error with the text ``ignored`` is no error. Raises ``AccessError``."""
        if not self._link.publish(_CONTROL, json.dumps({"commands": [command]}).encode(), qos=1):
            raise AccessError(self._link.error)
        try:
            response_data = self._responses.get(timeout=_TIMEOUT_S)
        except queue.Empty:
            raise AccessError("the broker does not respond; is its dynamic-security plugin loaded?") from None
        (response,) = json.loads(response_data)["responses"]
        error = response.get("error", "")
        if error and not (ignored and ignored in error.lower()):
            raise AccessError(f"the broker refuses {command['command']}: {error}")


@contextmanager
def control(where: Address) -> Iterator[Control]:
    """Connect to the broker at ``where`` as its admin. Raises ``AccessError``."""
    responses: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def receive(message: Message) -> None:
        responses.put(message.payload)

    link = MqttConnection(where, f"provision-{secrets.token_hex(4)}", [(f"{_CONTROL}/response", 1)], receive)
    link.start()
    try:
        if error := link.settle(_TIMEOUT_S):
            raise AccessError(f"{error.removesuffix('; trying again')} (the running broker has the users)")
        yield Control(link, responses)
    finally:
        link.stop()
