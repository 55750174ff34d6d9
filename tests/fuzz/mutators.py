"""Mutations that keep the outer form of an input, so that a decoder does not refuse it at the first byte."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from typing import Any

import msgspec

#: ``mutate(data, max_size)`` of the fuzzer: changes bytes.
Mutate = Callable[[bytes, int], bytes]
#: Values that programs get wrong.
_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**53 + 1, 2**64 - 1, -(2**63), 0.0, -0.5, 1e308, 5e-324),
    *("", "base", "../x", "\u0000", "a" * 65, b"", b"\0" * 40, [], {}, [[]] * 9, {"": {}}),
)
#: Share of inputs whose form is preserved.
_SHARE = 0.7


def structured(
    load: Callable[[bytes], Any], dump: Callable[[Any], bytes], mutate: Mutate
) -> Callable[[bytes, int, int], bytes]:
    """A mutator that replaces, deletes or repeats one value of a message."""

    def changed(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < _SHARE:
            try:
                made = dump(_change(load(data), rng))
            except (msgspec.MsgspecError, ValueError, TypeError, RecursionError, OverflowError):
                made = b""
            if 0 < len(made) <= max_size:
                return made
        return mutate(data, max_size)

    return changed


def _change(value: Any, rng: random.Random) -> Any:
    """The same value with one change somewhere in it."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.1:
            return {name: one for name, one in value.items() if name != key}
        if kind < 0.2:
            return {**value, rng.choice(("x", "full", key * 2 if isinstance(key, str) else "y")): value[key]}
        return {**value, key: _change(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at, kind = rng.randrange(len(value)), rng.random()
        if kind < 0.1:
            return value[:at] + value[at + 1 :]
        if kind < 0.2:
            return value[:at] + [value[at]] * rng.choice((2, 3, 50)) + value[at + 1 :]
        return [*value[:at], _change(value[at], rng), *value[at + 1 :]]
    if isinstance(value, bytes) and value and rng.random() < 0.5:
        at = rng.randrange(len(value))
        return value[:at] + bytes([rng.randrange(256)]) + value[at + 1 :]
    if isinstance(value, int | float) and rng.random() < 0.3:
        return rng.choice((-value, value + 1, value * 2, value / 3))
    return rng.choice(_VALUES)


def with_checksums(mutate: Mutate) -> Callable[[bytes, int, int], bytes]:
    """A mutator that corrects the checksums of the chunks of a PNG after most changes."""

    def changed(data: bytes, max_size: int, seed: int) -> bytes:
        made = mutate(data, max_size)
        return _corrected(made) if random.Random(seed).random() < _SHARE else made

    return changed


def _corrected(data: bytes) -> bytes:
    fixed, at = bytearray(data), 8
    while data[:4] == b"\x89PNG" and at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        fixed[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(fixed)
