"""Devices and servers, as data: how long a model takes there, and what comes around it.

A model's time is estimated from its graph: its multiply-adds at the rate that the machine has shown for networks of its
kind, and a constant for each operator that is dispatched. ``simulator profile`` measures the machine that it runs on.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from cachenet.edge_agent.updates.loader import QUICKER, SEVERAL
from cachenet.models.export.cost import Cost
from cachenet.shared.command.errors import UserError

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Precision = Literal["float32", "int8"]


class UnknownMachine(UserError, ValueError):
    """A name that no profile has, or a file that is none; the text says which there are."""


class Watts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Power: of the ``idle`` device, with one processor ``busy``, and what the radio takes on top, to ``send`` and to
    ``receive``."""

    source: str
    idle: NotNegative
    busy: NotNegative
    send: NotNegative = 0.0
    receive: NotNegative = 0.0


class DeviceProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``rates``: multiply-adds a second, in 1e9, by precision and number of threads. ``operator_us``: a dispatched
    operator's constant, microseconds. ``frame_ms``: what any frame takes besides models; ``decision_ms``: its signature
    and what CacheNet decides and learns; ``encode_ms``: a picture of the full model's size for the wire."""

    title: str
    source: str
    rates: dict[Precision, dict[int, Positive]]
    operator_us: NotNegative
    frame_ms: NotNegative
    decision_ms: NotNegative
    encode_ms: NotNegative
    watts: Watts | None = None

    def __post_init__(self) -> None:
        if not self.rates.get("float32") or not all(self.rates.values()):
            raise ValueError("rates.float32 needs a rate for a number of threads at least")

    def seconds(self, cost: Cost, threads: int = 1) -> float:
        """Of one run of a model on so many threads, or as many as are known of at the most."""
        rates = self.rates["int8" if cost.int8 and "int8" in self.rates else "float32"]
        known = [count for count in rates if count <= threads] or [min(rates)]
        return cost.macs / (rates[max(known)] * 1e9) + cost.operators * self.operator_us / 1e6

    def local_threads(self, cost: Cost) -> int:
        """That a local model is run on, as ``Keeper`` finds it when it tries the base model, whose ``cost`` it is."""
        quicker = self.seconds(cost, self.threads) <= QUICKER * self.seconds(cost)
        return self.threads if self.threads >= SEVERAL and quicker else 1

    @property
    def threads(self) -> int:
        """The most that a rate is known of."""
        return max(count for rates in self.rates.values() for count in rates)


class ServerProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``rate``: multiply-adds a second, in 1e9, of the full model in batches. ``batch_ms``: a batch's constant.
    ``request_ms``: to decode and to answer one request. ``broker_ms``: what a message takes through the broker."""

    title: str
    source: str
    rate: Positive
    batch_ms: NotNegative
    request_ms: NotNegative
    broker_ms: NotNegative

    def seconds(self, cost: Cost, batch: int) -> float:
        """Of one batch, from the first picture's bytes to the last answer."""
        return batch * (cost.macs / (self.rate * 1e9) + self.request_ms / 1e3) + self.batch_ms / 1e3


T = TypeVar("T", DeviceProfile, ServerProfile)


def device(name: str) -> DeviceProfile:
    """The profile called ``name``, or in the TOML file of that name. Raises ``UnknownMachine``."""
    return _load(name, "devices", DeviceProfile)


def server(name: str) -> ServerProfile:
    """See ``device``."""
    return _load(name, "servers", ServerProfile)


def to_toml(profile: DeviceProfile | ServerProfile) -> str:
    """A file that ``device`` or ``server`` reads."""
    lines = []
    for name, value in msgspec.to_builtins(profile, str_keys=True).items():
        if isinstance(value, dict):
            lines += [f"{name}.{key} = {_inline(own)}" for key, own in value.items()]
        elif value is not None:
            lines.append(f"{name} = {_inline(value)}")
    return "\n".join(lines) + "\n"


def _inline(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {own}" for key, own in value.items()) + " }"
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007F")  # JSON's strings are TOML's, but for this


def _load(name: str, kind: str, shape: type[T]) -> T:
    if name.endswith(".toml"):
        try:
            own: T = msgspec.toml.decode(Path(name).read_bytes(), type=shape, strict=False)
        except OSError as error:
            raise UnknownMachine(f"{name}: {error.strerror}") from None
        except (msgspec.DecodeError, ValueError) as error:
            raise UnknownMachine(f"{name}: {error}") from None
        return own
    data = (files("cachenet.simulator") / "profiles" / f"{kind}.toml").read_bytes()
    known: dict[str, T] = msgspec.toml.decode(data, type=dict[str, shape], strict=False)  # type: ignore[valid-type]
    if name not in known:
        raise UnknownMachine(f"no {kind[:-1]} {name!r}; known are {', '.join(known)}, or a file NAME.toml")
    return known[name]
