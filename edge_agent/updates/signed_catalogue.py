"""Signed catalogues: verification of what arrives, and how fresh it is.

A thread of its own verifies, so neither the connection nor a camera waits. Of each bundle only the newest message waits
to be verified. Nothing is asked for: a catalogue that is late or missing only gets older, and is reported.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from cachenet.edge_agent.updates.store import Store, StoreError
from cachenet.shared.bundle.signing import Files, utc
from cachenet.shared.bundle.trust import Known, TrustedRoot, UntrustedError
from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.transport import protocol
from cachenet.shared.transport.protocol import Malformed

log = logging.getLogger(__name__)

#: Time between two checks of the freshness, seconds.
_CHECK_S = 1.0
#: Time that a signed catalogue may come after an unsigned one, seconds. Retained messages arrive within a round trip.
_UNSIGNED_S = 3.0
#: End of the name under which the signed catalogue of a rollout is stored; no name of a bundle has this character.
_CANARY = "+canary"
#: Most bundles whose messages wait, and most different reasons in the log.
_MAX_WAITING, _MAX_REASONS = 8, 100


class _Taken(NamedTuple):
    """A verified catalogue: its metadata, time of signing and end, and the start of its age by the monotonic clock."""

    files: Files
    signed_at: float
    expires: float
    begun: float


class SignedCatalogue:
    """Passes on the manifests that a trusted root vouches for.

    Example:
        catalogue = SignedCatalogue(root, store, updater.announce, lambda: updater.name)
        catalogue.start()
        catalogue.receive("cifar10", payload)
    """

    def __init__(
        self,
        root: TrustedRoot,
        store: Store,
        announce: Callable[[bytes], None],
        followed: Callable[[], str],
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        announce_canary: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        """
        Args:
            store: Keeps the last catalogue that was taken, so that an older one is refused after a restart, too.
            announce: Takes a verified manifest.
            followed: Returns the name of the bundle that this device follows; empty while there is none.
            on_change: Called when ``stale`` has changed.
            clock: Seconds since the epoch; may be wrong.
            monotonic: Seconds since any time.
            announce_canary: Takes a verified manifest of a rollout.
        """
        #: Why the newest catalogue is not taken; empty if it is.
        self.error = ""
        #: Since when no fresh metadata has arrived, as one line; empty while it is fresh.
        self.stale = ""
        self._root, self._store, self._announce, self._announce_canary = root, store, announce, announce_canary
        self._followed, self._on_change, self._clock, self._monotonic = followed, on_change, clock, monotonic
        self._taken: dict[str, _Taken] = {}
        self._received: dict[str, bytes] = {}
        #: When an unsigned catalogue arrived, by the name of its bundle; None once it is reported.
        self._unsigned: dict[str, float | None] = {}
        self._logged: set[str] = set()
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._thread = SupervisedThread("signed-catalogue", self._step)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """End the thread."""
        self._thread.stopping.set()
        self._wake.set()
        self._thread.stop(seconds)

    def receive(self, name: str, payload: bytes, canary: bool = False) -> None:
        """Take the message of a signed catalogue, or that of a rollout (``canary``); thread-safe.

        A rollout has versions of its own: a device takes the older version again when it is undone.
        """
        slot = name + _CANARY * canary
        with self._lock:
            if slot in self._received or name == self._followed() or len(self._received) < _MAX_WAITING:
                self._received[slot] = payload
        self._wake.set()

    def receive_unsigned(self, name: str) -> None:
        """Note that the bundle ``name`` has a catalogue without signatures; thread-safe."""
        with self._lock:
            if len(self._unsigned) < _MAX_WAITING:
                self._unsigned.setdefault(name, self._monotonic())

    def work(self) -> None:
        """Verify what has arrived, and check the freshness."""
        with self._lock:
            received, self._received = self._received, {}
        for slot, payload in received.items():
            self._verify(slot, payload)
        self._report_unsigned()
        self._check_freshness()

    def _step(self) -> None:
        self._wake.wait(_CHECK_S)
        self._wake.clear()
        if not self._thread.stopping.is_set():
            self.work()

    def _verify(self, slot: str, payload: bytes) -> None:
        name, known = slot.removesuffix(_CANARY), self._last(slot)
        before = None if known is None else Known(known.files, self._monotonic() - known.begun)
        try:
            files = protocol.decode(payload, protocol.SignedCatalogue, protocol.MAX_SIGNED).files
            verified = self._root.verify(name, files, self._clock(), before)
            if self._followed() in ("", name) and not self._store.read_only:
                self._store.save_signed(slot, protocol.encode(protocol.SignedCatalogue(verified.files)))
        except Malformed:
            self._refuse(f"{name} is not taken: its signed catalogue is malformed")
        except (UntrustedError, StoreError) as error:
            self._refuse(str(error))
        except OSError as error:
            self._refuse(f"{name} is not taken: it cannot be verified: {error.strerror}")
        else:
            begun = self._monotonic() - verified.age  # the same timestamp again does not make it younger
            self._taken[slot] = _Taken(verified.files, verified.signed_at, verified.expires, begun)
            self.error = ""
            if verified.remark:
                self._log_once(f"submodels that the server of {name} has trained are left out: {verified.remark}")
            (self._announce if slot == name else self._announce_canary)(verified.manifest)

    def _last(self, name: str) -> _Taken | None:
        """The last catalogue of ``name`` that was taken, also by an earlier process."""
        if name not in self._taken and (payload := self._store.signed(name)) is not None:
            try:
                files = protocol.decode(payload, protocol.SignedCatalogue, protocol.MAX_SIGNED).files
                self._taken[name] = _Taken(files, *self._root.validity(files), self._monotonic())
            except (Malformed, UntrustedError):
                self._log_once(
                    f"the stored catalogue of {name} is damaged, or of another root; the next one is taken without it"
                )
        return self._taken.get(name)

    def _report_unsigned(self) -> None:
        with self._lock:
            waiting = [(name, since) for name, since in self._unsigned.items() if since is not None]
        for name, since in waiting:
            if self._monotonic() - since > _UNSIGNED_S:
                self._unsigned[name] = None
                if self._last(name) is None:
                    self._refuse(f"{name} is not taken: the server does not sign it, and --trusted-root is set")

    def _check_freshness(self) -> None:
        known = self._last(name) if (name := self._followed()) else None
        if known is None:
            return
        now = max(self._clock(), known.signed_at + self._monotonic() - known.begun)
        stale = ""
        if now >= known.expires:
            since = utc(known.signed_at).strftime("%Y-%m-%d %H:%M UTC")
            stale = f"no fresh metadata since {since}; updates may be withheld"
        if stale != self.stale:
            self.stale = stale
            log.log(logging.WARNING if stale else logging.INFO, "%s", stale or f"the metadata of {name} is fresh again")
            self._on_change()

    def _refuse(self, reason: str) -> None:
        self.error = reason
        self._log_once(reason)

    def _log_once(self, text: str) -> None:
        if text not in self._logged and len(self._logged) < _MAX_REASONS:
            self._logged.add(text)
            log.warning("%s", text)
