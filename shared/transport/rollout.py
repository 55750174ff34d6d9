"""The rollout of a newer version of a bundle: the message that tells some devices to take it. Pure.

The message is retained beside the catalogue. Each device decides by itself whether it is one of the *canaries*: by its
name, so that no list of devices is kept anywhere.
"""

from __future__ import annotations

import hashlib
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from cachenet.shared.transport import protocol
from cachenet.shared.transport.fleet import Share
from cachenet.shared.transport.protocol import MAX_FILES, MAX_SIGNED, Malformed, decode

#: ``running``: canaries take the newer version. ``paused``: those that have it stay with it, and no other takes it.
#: ``promoted``: it is the version of the catalogue now. ``undone``: all devices take the version of the catalogue.
State = Literal["running", "paused", "promoted", "undone"]
#: States by the order in which they win where two have the same revision: to undo is safe.
_ORDER: tuple[State, ...] = ("running", "paused", "promoted", "undone")
#: Topics of all rollouts.
TOPICS = f"{protocol.ROOT}/catalogue/+/rollout"
_Version = Annotated[str, Meta(min_length=1, max_length=128)]


class Rollout(msgspec.Struct, frozen=True):
    """A rollout, as MessagePack.

    Attributes:
        bundle: Name of the bundle.
        stable: Version in the catalogue.
        canary: The newer version.
        revision: Number of changes since the start of the rollout.
        share: Share of the ``devices`` that are canaries.
        devices: Pattern (``*`` and ``?``) of the names of devices that may be canaries.
        reason: Why it is in this state, in one line.
        files: The manifest of the newer version, and all that proves it; see ``SignedCatalogue``.
    """

    bundle: str
    stable: _Version
    canary: _Version
    state: State
    revision: Annotated[int, Meta(ge=0)]
    share: Share
    devices: Annotated[str, Meta(max_length=256)] = "*"
    reason: Annotated[str, Meta(max_length=1000)] = ""
    files: dict[str, bytes] = {}

    def has_canary(self, device: str) -> bool:
        """Whether this device is a canary. With a larger share, all canaries of a smaller one remain canaries."""
        drawn = hashlib.sha256(f"{self.canary}\0{device}".encode()).digest()
        return fnmatchcase(device, self.devices) and int.from_bytes(drawn[:8], "big") < self.share * 2**64

    def supersedes(self, other: Rollout | None) -> bool:
        """Whether this is a later state than ``other``. Servers that hear each other so agree on one."""
        if other is None or (self.stable, self.canary) != (other.stable, other.canary):
            return True
        return (self.revision, _ORDER.index(self.state)) > (other.revision, _ORDER.index(other.state))

    @property
    def line(self) -> str:
        """State and reason as one line."""
        return f"{self.state} ({self.reason})" if self.reason else self.state

    def with_files(self, files: dict[str, bytes]) -> Rollout:
        """The same state with other files."""
        return msgspec.structs.replace(self, files=files)

    def changed(self, state: State, reason: str, share: float | None = None) -> Rollout:
        """The next revision."""
        share = self.share if share is None else share
        return msgspec.structs.replace(self, state=state, reason=reason[:1000], share=share, revision=self.revision + 1)


def topic(bundle: str) -> str:
    """Topic of a bundle's rollout."""
    return f"{protocol.catalogue(bundle)}/rollout"


def read(payload: bytes) -> Rollout:
    """Decode a rollout. Raises ``Malformed``."""
    rollout = decode(payload, Rollout, MAX_SIGNED)
    protocol.check_device(rollout.bundle)
    if len(rollout.files) > MAX_FILES or any(len(name) > 128 for name in rollout.files):
        raise Malformed("too many files, or names of files that are too long")
    return rollout
