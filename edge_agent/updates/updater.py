"""Model updates with rollback.

The store holds the *current* set of models and at most one *candidate*. A candidate becomes current by one rename,
after four checks: all files that answer now are here with the right digest, the probe process has passed them, the
models are loaded, and they have answered one frame. The *previous* set stays until the new one has answered
``COMMIT_AFTER`` frames (the trial). Any failure before that restores the previous set, also after a restart.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from cachenet.edge_agent.device_cascade import DeploymentError
from cachenet.edge_agent.updates.downloader import Downloader
from cachenet.edge_agent.updates.loader import MAX_ATTEMPTS, RETRY_S, ModelLoader, Probe, required_files
from cachenet.edge_agent.updates.probe import SOFTWARE, ProbeAborted, ProbeError, fingerprint
from cachenet.edge_agent.updates.store import MismatchError, Store, StoreError
from cachenet.edge_agent.updates.update_record import UpdateRecord
from cachenet.shared.bundle.manifest import Golden, Layer, Manifest, Model, digest, parse
from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.transport.backoff import Backoff

log = logging.getLogger(__name__)

State = Literal["", "pending", "probing", "trial", "committed", "failed"]

#: Frames that a new set must answer before the previous set is deleted. At 30 frames per second, half a minute.
COMMIT_AFTER = 1000
#: Time that a set has to stand in the catalogue before it replaces another, seconds. After each connection the
#: catalogue and a rollout arrive one after the other; a canary would leave its set for a moment otherwise.
SETTLE_S = 1.0


class ModelSet(NamedTuple):
    """One version of a bundle: its manifest, digest and bytes."""

    manifest: Manifest
    version: str
    data: bytes


@dataclass(frozen=True)
class _Announced:
    """Event: the catalogue or the store has a newer set."""

    newer: ModelSet


@dataclass(frozen=True)
class _Answered:
    """Event: a set has answered ``count`` frames since its deployment."""

    version: str
    count: int


@dataclass(frozen=True)
class _Failed:
    """Event: a set in use has failed."""

    version: str
    reason: str


class Updater:
    """Installs newer sets from the catalogue, and decides which set the device answers with."""

    def __init__(
        self,
        store: Store,
        loader: ModelLoader,
        downloader: Downloader,
        probe: Probe,
        root: str = "",
        required_models: Callable[[Manifest], set[str]] = lambda _: set(),
        on_change: Callable[[], None] = lambda: None,
        settle_s: float = 0.0,
    ) -> None:
        """
        Args:
            loader: Loads the models of the set in use. Reports answered frames and failures to this updater.
            probe: Tests models in another process before this process loads them.
            root: Digest of the trusted root that vouches for all that is announced. Stored sets that it does not vouch
                for are not used; empty: all are.
            required_models: Names of the models that a set needs before it replaces another. Raises
                ``DeploymentError``.
            on_change: Called after each change of ``status``.
            settle_s: Time that a set has to stand before it replaces another, seconds.
        """
        #: Why an update cannot proceed; empty if nothing blocks it.
        self.error = ""
        self.state: State = ""
        self.reason = ""
        self._store, self._loader, self._downloader, self._probe = store, loader, downloader, probe
        self._root, self._required_models, self._on_change = root, required_models, on_change
        self._settle_s = settle_s
        self._current: ModelSet | None = None
        self._candidate: ModelSet | None = None
        #: The candidate after it was handed to the cameras.
        self._deployed: ModelSet | None = None
        #: Version of the current set during its trial; empty otherwise.
        self._on_trial = ""
        #: Version whose answered frames are counted, and their number.
        self._counted_version, self._count = "", 0
        #: Names of other bundles in the catalogue.
        self._other_names: set[str] = set()
        self._events: queue.SimpleQueue[_Announced | _Answered | _Failed | None] = queue.SimpleQueue()
        self._backoff, self._attempts, self._not_before = Backoff(*RETRY_S), 0, 0.0
        self._lock = threading.Lock()
        self._thread = SupervisedThread("updater", self._step)
        loader.on_answer, loader.on_failure = self.on_answer, self.on_failure

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """End the thread. A transfer resumes at the next start. An orderly stop is no crash of the trial."""
        self._thread.stopping.set()
        self._post(None)
        self._thread.stop(seconds)
        if self._name:
            record = self._store.record(self._name)
            self._save_record(record.stopped(bool(self._on_trial), self._deployed is not None))

    @property
    def status(self) -> str:
        """State of the newest update, as in the device's status message."""
        return f"{self.state} ({self.reason})" if self.reason else self.state

    def restore(self, name: str = "") -> None:
        """Use the stored set of bundle ``name`` (default: the bundle used last). Call before ``start``."""
        if self._store.read_only:
            self._set_error(f"the store cannot be written ({self._store.read_only}): there will be no updates")
        if (data := self._store.current(name)) is not None and (stored := self._trusted_set(data)) is not None:
            self._current = stored
            if name:
                self._update_store(self._store.mark_used)
            self._resume_trial(stored)
        self._replace_damaged(name or self._name)
        if self._current is not None:
            self._loader.set_target(self._current.manifest, self._current.version)
            self._collect_garbage()
        if (data := self._store.candidate(name or self._name)) is not None and (newer := self._trusted_set(data)):
            self._events.put(_Announced(newer))

    def announce(self, data: bytes) -> None:
        """Receive a manifest of the catalogue; thread-safe. Raises ``BundleError`` if ``data`` is no manifest."""
        version = digest(data)
        newest = self._newest
        withdrawn = newest is self._current and self.state == "failed"  # the catalogue dropped the failed version
        if newest is not None and version == newest.version and not withdrawn:
            return
        manifest = parse(data)
        if newest is not None and manifest.name != newest.manifest.name:
            if manifest.name not in self._other_names:
                self._other_names.add(manifest.name)
                log.warning(
                    "the catalogue offers %s too, and this device goes on with %s; to choose, start again with "
                    "--set catalogue=%s or --set catalogue=%s",
                    *(manifest.name, newest.manifest.name) * 2,
                )
            return
        self._post(_Announced(ModelSet(manifest, version, data)))

    def on_answer(self, version: str) -> None:
        """Count one frame answered by ``version``; thread-safe."""
        if version == self._counted_version:
            self._count += 1
            if self._count in (1, COMMIT_AFTER):
                self._post(_Answered(version, self._count))

    def on_failure(self, version: str, reason: str) -> bool:
        """Report that a set in use does not work; thread-safe.

        Returns:
            Whether another set replaces it: true until the set is committed.
        """
        current = self._current
        on_trial = current is not None and version == current.version == self._on_trial
        deployed = self._deployed is not None and version == self._deployed.version
        if on_trial or deployed:
            self._post(_Failed(version, reason))
        return on_trial or (deployed and current is not None)

    def abandon(self, reason: str) -> None:
        """Restore the previous set at the next start, if a newer one is on trial. Call before the process is killed."""
        with self._lock:
            if self._deployed is not None:
                self._record_failure(self._deployed, reason)
            elif self._on_trial:
                self._update_store(lambda name: self._store.roll_back(name, reason, SOFTWARE))

    @property
    def name(self) -> str:
        """Name of the bundle that this device follows; empty while there is none."""
        newest = self._newest
        return newest.manifest.name if newest is not None else ""

    @property
    def version(self) -> str:
        """Version of the current set; empty while there is none."""
        return self._current.version if self._current is not None else ""

    @property
    def _newest(self) -> ModelSet | None:
        return self._candidate or self._deployed or self._current

    @property
    def _name(self) -> str:
        return self._current.manifest.name if self._current is not None else ""

    def _trusted_set(self, data: bytes) -> ModelSet | None:
        """The set of a stored manifest; None if the trusted root does not vouch for it (stored before it was set)."""
        if self._root and self._store.root_of(data) != self._root:
            return None
        return ModelSet(parse(data), digest(data), data)

    def _resume_trial(self, stored: ModelSet) -> None:
        """After a restart: continue the trial of the current set, or roll back to the previous set."""
        name, record = stored.manifest.name, self._store.record(stored.manifest.name)
        self.state, self.reason = "committed", ""
        if record.failed and record.failed != stored.version:
            self.state, self.reason = "failed", record.reason
        if (data := self._store.previous(name)) is None or (previous := self._trusted_set(data)) is None:
            return
        if not (reason := record.rollback_reason(stored.version)):
            if record.trial == stored.version:
                self._on_trial = stored.version
                self._count_answers_of(stored.version)
                self._set_state("trial")
                self._save_record(record.started())
            return
        self._update_store(lambda _: self._store.roll_back(name, reason, SOFTWARE))
        self._current = previous
        self._set_state("failed", reason)

    def _replace_damaged(self, name: str) -> None:
        """Use the previous set if files of the current set are damaged and those of the previous one are not.

        The current set is not marked as failed: when the catalogue offers it again, its files are downloaded again.
        """
        data = self._store.previous(name)
        if data is None or self._is_complete(self._current):
            return
        previous = self._trusted_set(data)
        if previous is not None and self._is_complete(previous):
            self._current, self._on_trial = previous, ""
            self._update_store(lambda name: self._store.roll_back(name, "", SOFTWARE))
            log.error("going back to version %s: the files of the current one are damaged", previous.version[:12])
            self._count_answers_of("")
            self._set_state("committed")

    def _is_complete(self, stored: ModelSet | None) -> bool:
        """Whether the store holds every model that this set needs to answer."""
        if stored is None:
            return False
        manifest = stored.manifest
        try:
            return all(self._store.path(manifest.models[name].sha256) for name in self._required_models(manifest))
        except (StoreError, DeploymentError):
            return False

    def _step(self) -> None:
        """Wait for an event or the next retry, and handle it."""
        event = None
        with contextlib.suppress(queue.Empty):
            event = self._events.get(timeout=self._wait_s())
        try:
            if isinstance(event, _Announced):
                self._on_announced(event.newer)
            elif isinstance(event, _Answered):
                self._on_answered(event)
            elif isinstance(event, _Failed):
                self._on_failed(event)
            elif not self._thread.stopping.is_set():
                self._advance()
        except Exception as error:
            if self._candidate is not None:
                self._reject_candidate(f"{type(error).__name__}; see the log")
            raise

    def _wait_s(self) -> float | None:
        """Seconds until the next retry; None to wait for an event."""
        if self._candidate is None or self._deployed is self._candidate:
            return None
        return max(0.0, self._not_before - time.monotonic())

    def _on_announced(self, newer: ModelSet) -> None:
        """Make a set the candidate, unless it is current or has failed before."""
        record = self._store.record(newer.manifest.name)
        self._candidate = newer
        settled = 0.0 if self._current is None else time.monotonic() + self._settle_s
        self._backoff, self._attempts, self._not_before = Backoff(*RETRY_S), 0, settled
        if self._current is not None and newer.version == self._current.version:
            self._candidate = None
            self._update_store(self._store.unstage)
            self._collect_garbage()
            if self._deployed is not None:
                self._return_to(self._current)
            self._set_error("")
            self._set_state("trial" if self._on_trial else "committed")
        elif reason := record.rejection_reason(newer.version, SOFTWARE):
            self._reject_candidate(reason)
        else:
            self._set_state("pending")

    def _advance(self) -> None:
        """Stage, download, probe and deploy the candidate, as far as possible now."""
        newer = self._candidate
        if newer is None or newer is self._deployed:
            return
        self._downloader.resume()
        if not self._events.empty():
            return
        manifest = newer.manifest
        try:
            vouched = self._root in ("", self._store.root_of(newer.data))  # not if an earlier run has stored it
            if self._store.candidate(manifest.name) != newer.data or not vouched:
                self._store.stage(newer.data, manifest, self._root)
                self._store.collect_garbage()  # files of an earlier candidate use space that this one needs
            names = sorted(self._required_models(manifest))
            files = {one.sha256: self._downloader.get(one)[0] for one in _files(manifest, names)}
            if unprobed := [name for name in names if not self._store.is_probed(*_probe_key(manifest, name))]:
                self._set_state("probing")
                self._probe(manifest, unprobed, files)
                for name in unprobed:
                    self._store.mark_probed(*_probe_key(manifest, name))
        except (MismatchError, ProbeAborted) as error:
            if self._thread.stopping.is_set():
                return
            self._attempts += 1
            if self._attempts >= MAX_ATTEMPTS:
                self._reject_candidate(f"{error} (tried {self._attempts} times)")
            else:
                self._retry_later(str(error))
        except StoreError as error:
            if self._events.empty() and not self._thread.stopping.is_set():
                self._retry_later(str(error))
        except (ProbeError, DeploymentError) as error:
            if not self._thread.stopping.is_set():
                self._reject_candidate(str(error))
        else:
            self._set_error("")
            self._save_record(self._store.record(manifest.name).deployed(newer.version))
            self._deployed = newer
            self._count_answers_of(newer.version)
            self._set_state("trial")
            self._loader.set_target(manifest, newer.version)

    def _on_answered(self, event: _Answered) -> None:
        """Promote a deployed set after its first frame; commit the current set after ``COMMIT_AFTER`` frames."""
        if self._deployed is not None and event.version == self._deployed.version:
            newer = self._deployed
            if newer is not self._candidate:
                return  # replaced by a newer candidate
            try:
                with self._lock:
                    on_trial = self._store.promote(newer.manifest.name, newer.version)
            except StoreError as error:
                if self._current is not None:
                    self._return_to(self._current)
                    self._retry_later(str(error))
                    return
                on_trial = False  # no other set exists
                self._set_error(str(error))
            self._current, self._candidate, self._deployed = newer, None, None
            self._on_trial = newer.version if on_trial else ""
            log.info("version %s is current", newer.version[:12])
            if not on_trial:
                self._commit()
        elif event.count == COMMIT_AFTER and event.version == self._on_trial:
            self._commit()

    def _commit(self) -> None:
        """End the trial of the current set: delete the previous one."""
        with self._lock:
            self._update_store(self._store.commit)
            self._collect_garbage()
        self._on_trial = ""
        if self.state == "trial":
            self._set_state("committed")

    def _on_failed(self, event: _Failed) -> None:
        """Restore the set that answered before the failed one."""
        if self._deployed is not None and event.version == self._deployed.version:
            self._reject_candidate(event.reason)
            return
        if self._current is None or event.version != self._on_trial:
            return
        data = self._store.previous(self._name)
        if data is None or (previous := self._trusted_set(data)) is None:
            return
        with self._lock:
            self._update_store(lambda name: self._store.roll_back(name, event.reason, SOFTWARE))
            self._collect_garbage()
        log.error("going back to version %s: %s", previous.version[:12], event.reason)
        self._on_trial, self._current = "", previous
        self._return_to(previous)
        self._set_state("failed", event.reason)

    def _return_to(self, current: ModelSet) -> None:
        """Answer with the current set instead of the deployed candidate."""
        if self._deployed is not None:
            self._save_record(self._store.record(self._name).stopped(on_trial=False, deployed=True))
        self._deployed = None
        self._count_answers_of(self._on_trial)
        self._loader.set_target(current.manifest, current.version)

    def _reject_candidate(self, reason: str) -> None:
        """Drop the candidate. The next try needs another version in the catalogue, or of this software."""
        newer = self._candidate
        assert newer is not None
        with self._lock:
            self._record_failure(newer, reason)
            self._update_store(lambda _: self._store.unstage(newer.manifest.name))
            self._collect_garbage()
        self._candidate = None
        if self._current is not None:
            log.error("going on with version %s: %s", self._current.version[:12], reason)
            if self._deployed is not None:
                self._return_to(self._current)
        else:
            log.error("version %s cannot be used: %s", newer.version[:12], reason)
            self._deployed = None
            self._loader.set_target(None, "")
            self._set_error(reason)
        self._set_state("failed", reason)

    def _record_failure(self, newer: ModelSet, reason: str) -> None:
        self._save_record(self._store.record(newer.manifest.name).failure(newer.version, reason, SOFTWARE))

    def _retry_later(self, reason: str) -> None:
        """Schedule another try after a temporary error."""
        self._not_before = time.monotonic() + self._backoff.failed()
        self._set_error(reason)
        self._set_state("pending", reason)

    def _count_answers_of(self, version: str) -> None:
        self._counted_version, self._count = version, 0

    def _set_state(self, state: State, reason: str = "") -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            log.info("update: %s", self.status)
            self._on_change()

    def _set_error(self, error: str) -> None:
        if error and error != self.error:
            log.warning(error)
        self.error = error

    def _post(self, event: _Announced | _Answered | _Failed | None) -> None:
        self._events.put(event)
        self._downloader.interrupt()

    def _save_record(self, record: UpdateRecord) -> None:
        self._update_store(lambda name: self._store.save_record(name, record))

    def _collect_garbage(self) -> None:
        self._update_store(lambda _: self._store.collect_garbage())

    def _update_store(self, change: Callable[[str], object]) -> None:
        """Change the store; log a failure. The device continues, and a restart finds a complete set."""
        newest = self._current or self._candidate
        if newest is None or self._store.read_only:
            return
        try:
            change(newest.manifest.name)
        except StoreError as error:
            log.warning("%s", error)


def _files(manifest: Manifest, names: Sequence[str]) -> list[Model | Layer | Golden]:
    """All files that these models need, and the golden frames."""
    files: list[Model | Layer | Golden] = list(required_files(manifest, names))
    return [*files, manifest.golden] if files and manifest.golden is not None else files


def _probe_key(manifest: Manifest, name: str) -> tuple[str, str]:
    """Key under which the store records that a model has passed the probe."""
    return manifest.models[name].sha256, fingerprint(manifest, name)
