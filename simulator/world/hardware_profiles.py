"""Profiles of devices and servers: run times of models and of the work around them.

A model's run time is estimated from its graph: multiply-adds at the machine's measured rate, and a constant for each
operator. ``simulator profile`` measures the machine that it runs on.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from cachenet.edge_agent.updates.loader import MAX_PARALLEL_TIME_RATIO, MIN_PROCESSORS_FOR_PARALLEL
from cachenet.models.export.cost import Cost
from cachenet.shared.command.errors import UserError

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Precision = Literal["float32", "int8"]


class UnknownMachine(UserError, ValueError):
    """No profile has the name, or the file is no profile. The message lists the names or describes the error."""


class Watts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Power, watts: of the ``idle`` device, with one processor ``busy``, and the radio's share to ``send`` and to
    ``receive``."""

    source: str
    idle: NotNegative
    busy: NotNegative
    send: NotNegative = 0.0
    receive: NotNegative = 0.0


class DeviceProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device.

    Attributes:
        title, source: Name of the machine, and source of the values.
        rates: Multiply-adds per second, in 1e9, by precision and number of threads.
        operator_us: Constant time of an operator, microseconds.
        frame_ms: Time of a frame without models, milliseconds.
        decision_ms: Time of a frame's signature and of CacheNet's decision, milliseconds.
        encode_ms: Time to encode a picture for a request, milliseconds.
        watts: Power; None: unknown.
    """

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
        """Run time of a model on ``threads`` threads, or on the next smaller number with a known rate, seconds."""
        rates = self.rates["int8" if cost.int8 and "int8" in self.rates else "float32"]
        known = [count for count in rates if count <= threads] or [min(rates)]
        return cost.macs / (rates[max(known)] * 1e9) + cost.operators * self.operator_us / 1e6

    def local_threads(self, cost: Cost) -> int:
        """Threads of local models, as ``ModelLoader`` finds them with the base model, whose cost is ``cost``."""
        quicker = self.seconds(cost, self.threads) <= MAX_PARALLEL_TIME_RATIO * self.seconds(cost)
        return self.threads if self.threads >= MIN_PROCESSORS_FOR_PARALLEL and quicker else 1

    @property
    def threads(self) -> int:
        """Largest number of threads with a known rate."""
        return max(count for rates in self.rates.values() for count in rates)


class ServerProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A server.

    Attributes:
        title, source: Name of the machine, and source of the values.
        rate: Multiply-adds per second, in 1e9, of the full model in batches.
        batch_ms: Constant time of a batch, milliseconds.
        request_ms: Time to decode and answer a request, milliseconds.
        broker_ms: Time of a message through the broker, milliseconds.
    """

    title: str
    source: str
    rate: Positive
    batch_ms: NotNegative
    request_ms: NotNegative
    broker_ms: NotNegative

    def seconds(self, cost: Cost, batch: int) -> float:
        """Time of one batch, from the first picture's bytes to the last answer, seconds."""
        return batch * (cost.macs / (self.rate * 1e9) + self.request_ms / 1e3) + self.batch_ms / 1e3


T = TypeVar("T", DeviceProfile, ServerProfile)


def device(name: str) -> DeviceProfile:
    """The device profile ``name``, or the profile in the TOML file ``name``. Raises ``UnknownMachine``.

    Example:
        >>> full = Cost(macs=10**9, operators=10, int8=False)
        >>> f"{1e3 * device('rpi4').seconds(full, threads=4):.0f} ms"
        '68 ms'
    """
    return _load(name, "devices", DeviceProfile)


def server(name: str) -> ServerProfile:
    """The server profile ``name``; see ``device``."""
    return _load(name, "servers", ServerProfile)


def to_toml(profile: DeviceProfile | ServerProfile) -> str:
    """The profile as a TOML file that ``device`` or ``server`` reads."""
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
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007F")  # TOML strings, but for this, are JSON's


def _load(name: str, kind: str, shape: type[T]) -> T:
    if name.endswith(".toml"):
        try:
            profile: T = msgspec.toml.decode(Path(name).read_bytes(), type=shape, strict=False)
        except OSError as error:
            raise UnknownMachine(f"{name}: {error.strerror}") from None
        except (msgspec.DecodeError, ValueError) as error:
            raise UnknownMachine(f"{name}: {error}") from None
        return profile
    data = (files("cachenet.simulator") / "profiles" / f"{kind}.toml").read_bytes()
    known: dict[str, T] = msgspec.toml.decode(data, type=dict[str, shape], strict=False)  # type: ignore[valid-type]
    if name not in known:
        raise UnknownMachine(f"no {kind[:-1]} {name!r}; known are {', '.join(known)}, or a file NAME.toml")
    return known[name]
