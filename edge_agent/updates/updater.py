"""Updates that never harm: a newer set of models takes over only when it has shown that it can, and the one before
comes back by itself when the newer one fails.

The store holds the *current* set and a *candidate*. A candidate becomes current by one rename, after all that answers
now is here of it, has its digest, has answered golden frames in the probe process, is loaded, and has answered a frame.
The set before stays as the *previous* one until the new one has answered ``COMMIT_AFTER`` frames: that is the trial.
Whatever fails until then brings the previous set back, at the next start too.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from cachenet.edge_agent.composition import DeploymentError
from cachenet.edge_agent.updates.downloader import Downloader
from cachenet.edge_agent.updates.loader import MOST_ATTEMPTS, ModelLoader, Probe
from cachenet.edge_agent.updates.probe import SOFTWARE, ProbeAborted, ProbeError, fingerprint
from cachenet.edge_agent.updates.store import MismatchError, Store, StoreError
from cachenet.edge_agent.updates.update_record import UpdateRecord
from cachenet.shared.bundle.manifest import (
    BundleError,
    Golden,
    Layer,
    Manifest,
    Model,
    digest,
    parse,
)
from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.transport.backoff import Backoff

if TYPE_CHECKING:
    from cachenet.shared.bundle.trust import Key

log = logging.getLogger(__name__)

State = Literal["", "pending", "probing", "trial", "committed", "failed"]

#: Frames that a new set must answer before the one before it is forgotten.
COMMIT_AFTER = 1000
#: Seconds until something is tried again that may succeed by itself: after the first failure, and at most.
_RETRY_S = (1.0, 60.0)


class ModelSet(NamedTuple):
    """A version of a bundle, as the catalogue or the store has it."""

    manifest: Manifest
    version: str
    data: bytes
    signature: bytes


@dataclass(frozen=True)
class _Announced:
    """There is a newer set."""

    newer: ModelSet


@dataclass(frozen=True)
class _Answered:
    """A set has answered ``count`` frames since it was deployed."""

    version: str
    count: int


@dataclass(frozen=True)
class _Failed:
    """A set that is being used has failed."""

    version: str
    reason: str


class Updater:
    """Takes newer sets from the catalogue, and decides which set the device answers with."""

    def __init__(
        self,
        store: Store,
        keeper: ModelLoader,
        puller: Downloader,
        probe: Probe,
        trusted: Key | None = None,
        needs: Callable[[Manifest], set[str]] = lambda _: set(),
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            keeper: Is told which set to go by; says which set has answered or failed.
            probe: Tries models before this process loads them.
            trusted: The key without whose signature nothing is taken.
            needs: Names of the models that a set must have before it takes over. Raises ``DeploymentError``.
            changed: Is called when ``status`` has changed.
        """
        #: What stands in the way of an update, for a person; empty while nothing does.
        self.trouble = ""
        self.state: State = ""
        self.reason = ""
        self._store, self._keeper, self._puller, self._probe = store, keeper, puller, probe
        self._trusted, self._needs, self._changed = trusted, needs, changed
        self._current: ModelSet | None = None
        self._candidate: ModelSet | None = None
        #: The candidate, once cameras are to answer with it.
        self._deployed: ModelSet | None = None
        #: Version of the current set while it is on trial; empty otherwise.
        self._on_trial = ""
        #: Answers of this version are counted.
        self._watched, self._count = "", 0
        self._events: queue.SimpleQueue[_Announced | _Answered | _Failed | None] = queue.SimpleQueue()
        self._backoff, self._attempts, self._not_before = Backoff(*_RETRY_S), 0, 0.0
        self._lock = threading.Lock()
        self._thread = SupervisedThread("updater", self._step)
        keeper.on_answer, keeper.on_failure = self.answered, self.failed

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """End the thread. What is on its way goes on at the next start, and a trial that was stopped in good order does
        not count as one that has ended the process."""
        self._thread.stopping.set()
        self._put(None)
        self._thread.stop(seconds)
        if self._name:
            kept = self._store.record(self._name)
            self._keep(kept.stopped(bool(self._on_trial), self._deployed is not None))

    @property
    def status(self) -> str:
        """How the newest update stands, as the device's status says it."""
        return f"{self.state} ({self.reason})" if self.reason else self.state

    def restore(self, name: str = "") -> None:
        """Go by what the store holds of bundle ``name``, or of the one used last. Call it before ``start``."""
        if self._store.read_only:
            self._say(f"the store cannot be written ({self._store.read_only}): there will be no updates")
        if (data := self._store.recall(name)) is not None and (known := self._known(data)) is not None:
            self._current = known
            self._resume_trial(known)
        self._replace_damaged(name or self._name)
        if self._current is not None:
            self._keeper.go_by(self._current.manifest, self._current.version)
            self._try_to(lambda _: self._store.collect())
        if (data := self._store.candidate(name or self._name)) is not None and (newer := self._known(data)):
            self._events.put(_Announced(newer))

    def announce(self, data: bytes, signature: bytes = b"") -> None:
        """Take notice of a manifest of the catalogue; from any thread. Raises ``BundleError`` for one that is none, or
        that the trusted key does not vouch for."""
        version = digest(data)
        newest = self._candidate or self._deployed or self._current
        back = newest is self._current and self.state == "failed"  # the catalogue no longer offers what has failed
        if newest is not None and version == newest.version and not back:
            return
        manifest = parse(data)
        if self._trusted is not None and not self._trusted.vouches(data, signature):
            self._say(untrusted(manifest.name, signature))
            raise BundleError(self.trouble)
        if newest is not None and manifest.name != newest.manifest.name:
            log.info("catalogue offers %s too; this device runs %s", manifest.name, newest.manifest.name)
            return
        self._put(_Announced(ModelSet(manifest, version, data, signature)))

    def answered(self, version: str) -> None:
        """Count a frame that was answered with a set; from any thread."""
        if version == self._watched:
            self._count += 1
            if self._count in (1, COMMIT_AFTER):
                self._put(_Answered(version, self._count))

    def failed(self, version: str, reason: str) -> bool:
        """Take notice that a set which cameras use does not work; from any thread. Whether another set comes back for
        it, which is so until it has proven itself."""
        current = self._current
        on_trial = current is not None and version == current.version == self._on_trial
        deployed = self._deployed is not None and version == self._deployed.version
        if on_trial or deployed:
            self._put(_Failed(version, reason))
        return on_trial or (deployed and current is not None)

    def abandon(self, reason: str) -> None:
        """Bring the set before back at the next start, where one is being tried: this process is about to end."""
        with self._lock:
            if self._deployed is not None:
                self._record_failure(self._deployed, reason)
            elif self._on_trial:
                self._try_to(lambda name: self._store.roll_back(name, reason, SOFTWARE))

    @property
    def _name(self) -> str:
        return self._current.manifest.name if self._current is not None else ""

    def _known(self, data: bytes) -> ModelSet | None:
        """A manifest of the store; None for one that is not trusted."""
        signature = self._store.signature(data)
        if self._trusted is not None and not self._trusted.vouches(data, signature):
            return None  # kept from before a key was trusted: wait for a better one
        return ModelSet(parse(data), digest(data), data, signature)

    def _resume_trial(self, known: ModelSet) -> None:
        """Find out how the current set stands after a restart, and bring the previous one back where it must be."""
        name, record = known.manifest.name, self._store.record(known.manifest.name)
        self.state, self.reason = "committed", ""
        if record.failed and record.failed != known.version:
            self.state, self.reason = "failed", record.reason
        if (data := self._store.previous(name)) is None or (previous := self._known(data)) is None:
            return
        if not (reason := record.verdict(known.version)):
            if record.trial == known.version:
                self._on_trial = known.version
                self._watch(known.version)
                self._set("trial")
                self._keep(record.started())
            return
        self._try_to(lambda _: self._store.roll_back(name, reason, SOFTWARE))
        self._current = previous
        self._set("failed", reason)

    def _replace_damaged(self, name: str) -> None:
        """Go by the previous set where the current one cannot be loaded and that one can. It has not failed: when the
        catalogue offers it again, its files are fetched again."""
        data = self._store.previous(name)
        if data is None or self._is_whole(self._current):
            return
        previous = self._known(data)
        if previous is not None and self._is_whole(previous):
            self._current, self._on_trial = previous, ""
            self._try_to(lambda name: self._store.roll_back(name, "", SOFTWARE))
            log.error("going back to version %s: the files of the current one are damaged", previous.version[:12])
            self._watch("")
            self._set("committed")

    def _is_whole(self, known: ModelSet | None) -> bool:
        """Whether a set can be begun with: what it needs is in the store."""
        if known is None:
            return False
        try:
            return all(self._store.path(known.manifest.models[name].sha256) for name in self._needs(known.manifest))
        except (StoreError, DeploymentError):
            return False

    def _step(self) -> None:
        """Wait for something to do, and do it."""
        event = None
        with contextlib.suppress(queue.Empty):
            event = self._events.get(timeout=self._wait_s())
        try:
            if event is not None:
                self._handle(event)
            elif not self._thread.stopping.is_set():
                self._advance()
        except Exception as error:
            if self._candidate is not None:
                self._give_up(f"{type(error).__name__}; see the log")
            raise

    def _wait_s(self) -> float | None:
        """Seconds until there is something to do even if nothing happens; None for never."""
        if self._candidate is None or self._deployed is self._candidate:
            return None
        return max(0.0, self._not_before - time.monotonic())

    def _handle(self, event: _Announced | _Answered | _Failed) -> None:
        if isinstance(event, _Announced):
            self._begin(event.newer)
        elif isinstance(event, _Answered):
            self._prove(event)
        else:
            self._revert(event)

    def _begin(self, newer: ModelSet) -> None:
        """Make a set the candidate, unless it is known to fail."""
        record = self._store.record(newer.manifest.name)
        self._candidate = newer
        self._backoff, self._attempts, self._not_before = Backoff(*_RETRY_S), 0, 0.0
        if self._current is not None and newer.version == self._current.version:
            self._candidate = None
            self._try_to(self._store.unstage)
            self._try_to(lambda _: self._store.collect())
            if self._deployed is not None:
                self._return_to(self._current)
            self._say("")
            self._set("trial" if self._on_trial else "committed")
        elif reason := record.refusal(newer.version, SOFTWARE):
            self._give_up(reason)
        else:
            self._set("pending")

    def _advance(self) -> None:
        """Bring the candidate as far as it goes now."""
        newer = self._candidate
        if newer is None or newer is self._deployed:
            return
        self._puller.resume()
        if not self._events.empty():
            return
        try:
            if self._store.candidate(newer.manifest.name) != newer.data:
                self._store.stage(newer.data, newer.manifest, newer.signature)
                self._store.collect()  # what a candidate before it has left behind takes room that this one needs
            names = sorted(self._needs(newer.manifest))
            files = {one.sha256: self._puller.obtain(one)[0] for one in _files(newer.manifest, names)}
            if unproven := [name for name in names if not self._store.passed(*_proof(newer.manifest, name))]:
                self._set("probing")
                self._probe(newer.manifest, unproven, files)
                for name in unproven:
                    self._store.mark_passed(*_proof(newer.manifest, name))
        except (MismatchError, ProbeAborted) as error:
            if self._thread.stopping.is_set():
                return
            self._attempts += 1
            if self._attempts >= MOST_ATTEMPTS:
                self._give_up(f"{error} (tried {self._attempts} times)")
            else:
                self._postpone(str(error))
        except StoreError as error:
            if self._events.empty() and not self._thread.stopping.is_set():
                self._postpone(str(error))
        except (ProbeError, DeploymentError) as error:
            if not self._thread.stopping.is_set():
                self._give_up(str(error))
        else:
            self._say("")
            self._keep(self._store.record(newer.manifest.name).deployed(newer.version))
            self._deployed = newer
            self._watch(newer.version)
            self._set("trial")
            self._keeper.go_by(newer.manifest, newer.version)

    def _prove(self, event: _Answered) -> None:
        """A set has answered its first frame, and becomes current; or so many that it has proven itself."""
        if self._deployed is not None and event.version == self._deployed.version:
            newer = self._deployed
            if newer is not self._candidate:
                return  # a newer one is on its way already
            try:
                with self._lock:
                    on_trial = self._store.promote(newer.manifest.name, newer.version)
            except StoreError as error:
                if self._current is not None:
                    self._return_to(self._current)
                    self._postpone(str(error))
                    return
                on_trial = False  # there is no other to answer with
                self._say(str(error))
            self._current, self._candidate, self._deployed = newer, None, None
            self._on_trial = newer.version if on_trial else ""
            log.info("version %s is current", newer.version[:12])
            if not on_trial:
                self._commit()
        elif event.count == COMMIT_AFTER and event.version == self._on_trial:
            self._commit()

    def _commit(self) -> None:
        """The current set has proven itself."""
        with self._lock:
            self._try_to(self._store.commit)
            self._try_to(lambda _: self._store.collect())
        self._on_trial = ""
        if self.state == "trial":
            self._set("committed")

    def _revert(self, event: _Failed) -> None:
        """Bring the set before back."""
        if self._deployed is not None and event.version == self._deployed.version:
            self._give_up(event.reason)
            return
        if self._current is None or event.version != self._on_trial:
            return
        data = self._store.previous(self._name)
        if data is None or (previous := self._known(data)) is None:
            return
        with self._lock:
            self._try_to(lambda name: self._store.roll_back(name, event.reason, SOFTWARE))
            self._try_to(lambda _: self._store.collect())
        log.error("going back to version %s: %s", previous.version[:12], event.reason)
        self._on_trial, self._current = "", previous
        self._return_to(previous)
        self._set("failed", event.reason)

    def _return_to(self, current: ModelSet) -> None:
        """Answer with the current set again."""
        if self._deployed is not None:
            self._keep(self._store.record(self._name).stopped(on_trial=False, deployed=True))
        self._deployed = None
        self._watch(self._on_trial)
        self._keeper.go_by(current.manifest, current.version)

    def _give_up(self, reason: str) -> None:
        """The candidate is not tried again until the catalogue or this software has changed."""
        newer = self._candidate
        assert newer is not None
        with self._lock:
            self._record_failure(newer, reason)
            self._try_to(lambda _: self._store.unstage(newer.manifest.name))
            self._try_to(lambda _: self._store.collect())
        self._candidate = None
        if self._current is not None:
            log.error("going on with version %s: %s", self._current.version[:12], reason)
            if self._deployed is not None:
                self._return_to(self._current)
        else:
            log.error("version %s cannot be used: %s", newer.version[:12], reason)
            self._deployed = None
            self._keeper.go_by(None, "")
            self._say(reason)
        self._set("failed", reason)

    def _record_failure(self, newer: ModelSet, reason: str) -> None:
        self._keep(self._store.record(newer.manifest.name).failure(newer.version, reason, SOFTWARE))

    def _postpone(self, reason: str) -> None:
        """Try again later what may succeed by itself."""
        self._not_before = time.monotonic() + self._backoff.failed()
        self._say(reason)
        self._set("pending", reason)

    def _watch(self, version: str) -> None:
        """Count the answers of this version, or of none."""
        self._watched, self._count = version, 0

    def _set(self, state: State, reason: str = "") -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            log.info("update: %s", self.status)
            self._changed()

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.warning(trouble)
        self.trouble = trouble

    def _put(self, event: _Announced | _Answered | _Failed | None) -> None:
        self._events.put(event)
        self._puller.interrupt()

    def _keep(self, record: UpdateRecord) -> None:
        self._try_to(lambda name: self._store.keep(name, record))

    def _try_to(self, change: Callable[[str], object]) -> None:
        """Change the store if that can be done: the device goes on all the same, and a restart finds a whole set."""
        newest = self._current or self._candidate
        if newest is None or self._store.read_only:
            return
        try:
            change(newest.manifest.name)
        except StoreError as error:
            log.warning("%s", error)


def untrusted(name: str, signature: bytes) -> str:
    """Why a bundle that the trusted key does not vouch for is not taken, for a person."""
    what = "another key's signature" if signature else "no signature"
    return f"{name} is not taken: it has {what}, and --trusted-key is set"


def _files(manifest: Manifest, names: Iterable[str]) -> list[Model | Layer | Golden]:
    """All files that these models need, and the golden frames."""
    needed: list[Model | Layer | Golden] = [manifest.models[name] for name in names]
    if any(manifest.models[name].role == "full" for name in names):
        needed += [one for layers in manifest.layers.values() for one in layers.caches]
    if needed and manifest.golden is not None:
        needed.append(manifest.golden)
    return needed


def _proof(manifest: Manifest, name: str) -> tuple[str, str]:
    """What the store keeps of a model that has passed the probe."""
    return manifest.models[name].sha256, fingerprint(manifest, name)
