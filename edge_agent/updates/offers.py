"""Chooses between the version of the catalogue and the newer one of a rollout. No I/O.

The catalogue, a rollout and its manifest arrive as separate messages, in any order and also again after each
connection.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from cachenet.shared.bundle.manifest import digest, parse
from cachenet.shared.transport.rollout import Rollout

#: Largest number of bundles; further ones are passed on without their rollouts.
_MAX_BUNDLES = 64


class Offers:
    """Passes on the manifest that this device has to take; thread-safe.

    Example:
        offers = Offers("cam1", updater.announce, lambda: updater.version)
        offers.on_manifest(manifest_of_the_catalogue)
        offers.on_rollout(rollout)
        offers.on_canary(manifest_of_the_rollout)  # announced if cam1 is a canary
    """

    def __init__(self, device: str, announce: Callable[[bytes], None], current: Callable[[], str]) -> None:
        """
        Args:
            announce: Takes a manifest.
            current: Returns the version that the device answers with.
        """
        self._device, self._announce, self._current = device, announce, current
        self._stable: dict[str, bytes] = {}
        self._rollouts: dict[str, Rollout] = {}
        self._canaries: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def on_manifest(self, data: bytes) -> None:
        """Take the manifest of the catalogue. Raises ``BundleError`` if it is none."""
        name = parse(data).name
        with self._lock:
            if name not in self._stable and len(self._stable) >= _MAX_BUNDLES:
                self._announce(data)
                return
            self._stable[name] = data
            self._offer(name)

    def on_rollout(self, rollout: Rollout) -> None:
        """Take the state of a rollout."""
        name = rollout.bundle
        with self._lock:
            if name in self._rollouts or len(self._rollouts) < _MAX_BUNDLES:
                self._rollouts[name] = rollout
                self._offer(name)

    def on_canary(self, data: bytes) -> None:
        """Take the manifest of a rollout. Raises ``BundleError`` if it is none."""
        name = parse(data).name
        with self._lock:
            if name in self._canaries or len(self._canaries) < _MAX_BUNDLES:
                self._canaries[name] = data
                self._offer(name)

    def _offer(self, name: str) -> None:
        if (stable := self._stable.get(name)) is None:
            return
        canary = self._canaries.get(name)
        takes = canary is not None and self._takes(name, digest(stable), digest(canary))
        self._announce(canary if takes and canary is not None else stable)

    def _takes(self, name: str, stable: str, canary: str) -> bool:
        """Whether this device has to take the rollout's version."""
        rollout = self._rollouts.get(name)
        if rollout is None or (rollout.stable, rollout.canary) != (stable, canary):
            return False
        if rollout.state in ("paused", "promoted"):  # after a promotion the catalogue follows
            return self._current() == canary
        return rollout.state == "running" and rollout.has_canary(self._device)
