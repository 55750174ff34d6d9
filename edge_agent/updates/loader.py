"""Background loading of models: download, probe, load, and hand over to the cameras.

One thread runs one job at a time for all cameras. A hot loop requests a model and polls its ready queue; it never
waits. Cameras share one session of each model.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakValueDictionary

from cachenet.edge_agent.updates.downloader import Downloader
from cachenet.edge_agent.updates.model_loading import Runnable, check_answer, open_model, time_run
from cachenet.edge_agent.updates.probe import ProbeAborted, ProbeError, fingerprint, time_limit
from cachenet.edge_agent.updates.store import MismatchError, Store, StoreError
from cachenet.shared.bundle.manifest import Bundle, ExitKind, Layer, Manifest, Model, digest
from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.inference.engine import EngineError, Provider, resident_bytes
from cachenet.shared.transport.backoff import Backoff

log = logging.getLogger(__name__)

#: Delay before a retry after a temporary error: first and longest, seconds.
RETRY_S = (1.0, 60.0)
#: Tries of a file that arrives with the wrong digest, and of a probe that is killed.
MAX_ATTEMPTS = 5
#: Time that the end of the program waits for a model that is being loaded, seconds.
_STOP_TIMEOUT_S = 10.0
#: Least number of processors for models to run on all of them; with fewer, other programs would have to wait.
MIN_PROCESSORS_FOR_PARALLEL = 4
#: Largest time of a run on all processors, as a share of the time on one, for models to run on all.
MAX_PARALLEL_TIME_RATIO = 0.8


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to run.

    Attributes:
        cost: Growth of the process by this model, bytes; at least the size of its file.
        seconds: Time of one run.
        downloaded: Whether the file came over the network for this request.
        first: Whether this is the base model of its version, or the model in its place.
    """

    manifest: Manifest
    version: str
    name: str
    session: Runnable
    cost: int
    seconds: float
    downloaded: bool
    first: bool


#: Queue in which a camera receives the models that it has requested.
ReadyQueue: TypeAlias = "queue.SimpleQueue[LoadedModel]"


#: Tests models of a manifest, by name, in another process. The dictionary maps digests of needed files to paths. Raises
#: ``ProbeError``.
Probe: TypeAlias = Callable[[Manifest, Iterable[str], dict[str, Path]], None]


class _Job(NamedTuple):
    """Load one model of one version."""

    manifest: Manifest
    version: str
    name: str

    @property
    def key(self) -> tuple[str, str]:
        return self.version, self.name


class ModelLoader:
    """Loads models of the target set, and delivers each to every camera that has requested it."""

    def __init__(
        self,
        store: Store | None,
        downloader: Downloader | None,
        provider: Provider,
        threads: int,
        base: str | None,
        slowdown: float = 1.0,
        exit_kind: ExitKind | None = None,
        probe: Probe | None = None,
    ) -> None:
        """
        Args:
            store: Directory of downloaded models; None: models come from the bundle directory given to ``use``.
            threads: Threads of a run; 0: one or all processors, whichever is faster for the first model.
            base: Name of the model to load first; "": the bundle's base model; None: no model runs on the device.
            slowdown: See ``Session``.
            exit_kind: Kind of early exits of a full model beside a base model, if the bundle has them.
            probe: Tests a downloaded model before this process loads it; see ``Updater``.
        """
        #: Why a model is not available; empty after a success.
        self.error = ""
        #: Called with the version of each answered frame.
        self.on_answer: Callable[[str], None] = lambda _: None
        #: Called with a version that does not work and the reason. Returns whether another version replaces it.
        self.on_failure: Callable[[str, str], bool] = lambda _version, _reason: False
        self._store, self._downloader, self._probe = store, downloader, probe
        self._provider, self._base, self._slowdown, self._exit_kind = provider, base, slowdown, exit_kind
        self.threads = threads
        self._bundle: Bundle | None = None
        #: The set in use or to be used next: manifest and version.
        self.target: tuple[Manifest, str] | None = None
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        #: Jobs to retry, with their time on the monotonic clock.
        self._deferred: list[tuple[float, _Job]] = []
        self._backoffs: dict[tuple[str, str], Backoff] = {}
        self._attempts: Counter[tuple[str, str]] = Counter()
        #: Queues that wait for a model, by version and name.
        self._pending: dict[tuple[str, str], set[ReadyQueue]] = {}
        #: Models that failed, by version and name; a retry of the same bytes would fail again.
        self._unusable: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        #: Sessions in memory, by digest of the model file.
        self._sessions: WeakValueDictionary[str, Runnable] = WeakValueDictionary()
        #: Role, cost and seconds of each model loaded so far, by digest.
        self._measured: dict[str, tuple[str, int, float]] = {}
        #: Name of the model that is being loaded, and the time when loading began.
        self._loading: tuple[str, float] | None = None
        self._thread = SupervisedThread("loader", self._step)
        self._stopped = self._thread.stopping

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after the model that is being loaded: the interpreter must not end under runtime threads.

        A transfer resumes at the next start. If the wait times out, ``hanging_model`` names the model.
        """
        self._stopped.set()
        self._jobs.put(None)
        if self._downloader is not None:
            self._downloader.interrupt()
        self._thread.stop(_STOP_TIMEOUT_S)

    @property
    def hanging_model(self) -> str:
        """Name of the model whose loading hangs; empty if none does."""
        if self._loading is None:
            return ""
        name, since = self._loading
        late = time.monotonic() - since > 2 * time_limit(self._provider)
        return name if late or self._stopped.is_set() else ""

    def use(self, bundle: Bundle) -> None:
        """Load models from a bundle directory."""
        self._bundle = bundle
        self.set_target(bundle.manifest, digest(bundle.data))

    def set_target(self, manifest: Manifest | None, version: str) -> None:
        """Set the version to load models of; None for no version."""
        self.target = (manifest, version) if manifest is not None else None

    @property
    def version(self) -> str:
        """Version of the target; empty without a target."""
        return self.target[1] if self.target is not None else ""

    @property
    def is_fatal(self) -> bool:
        """Whether the first model of a bundle directory is unusable, so that no frame can ever be answered."""
        return self._bundle is not None and bool(self.error)

    def request(self, model: str, ready: ReadyQueue) -> None:
        """Load a model and put it into ``ready``. Repeated requests and requests for unusable models do nothing."""
        if self.target is None:
            return
        job = _Job(*self.target, model)
        if model not in job.manifest.models:
            self._set_error(f"{job.manifest.name} has no model {model}; it has {', '.join(job.manifest.models)}")
            return
        if job.key in self._unusable:
            return
        with self._lock:
            known = job.key in self._pending
            self._pending.setdefault(job.key, set()).add(ready)
        if not known:
            self._jobs.put(job)

    def request_first(self, ready: ReadyQueue) -> None:
        """Request the first model of the target: the base model or the model in its place."""
        if self.target is not None:
            self.request(self._first_model(self.target[0]), ready)

    def is_local(self, model: str) -> bool:
        """Whether a model of the target can be loaded without the network."""
        if self._store is None or self.target is None:
            return True
        return self._store.has_file(self.target[0].models[model].sha256)

    def is_loaded(self, model: str) -> bool:
        """Whether a model of the target is in memory, for any camera."""
        return self.target is not None and self.target[0].models[model].sha256 in self._sessions

    def is_pending(self, model: str, ready: ReadyQueue | None = None) -> bool:
        """Whether a model of the target is unusable or on its way; with ``ready``: on its way to that queue."""
        if (self.version, model) in self._unusable:
            return True
        queues = self._pending.get((self.version, model))
        return queues is not None and (ready is None or ready in queues)

    def is_busy(self, ready: ReadyQueue) -> bool:
        """Whether ``ready`` holds a model, or will receive one that is available now."""
        with self._lock:
            requested = [name for (version, name), queues in self._pending.items() if ready in queues]
        connected = self._downloader is not None and self._downloader.connected
        return not ready.empty() or any(connected or self.is_local(name) for name in requested)

    def submodels_cost(self) -> int:
        """Bytes of all submodels in memory, each counted once."""
        with self._lock:
            loaded = [self._measured[sha256] for sha256 in self._sessions]
        return sum(cost for role, cost, _ in loaded if role == "submodel")

    def _step(self) -> None:
        """Wait for a job, and run it."""
        if (job := self._next_job()) is None:
            return
        try:
            self._run(job)
            self.error = ""
        except (StoreError, ProbeAborted) as error:
            self._defer(job, error)
        except (EngineError, ProbeError) as error:
            self._reject(job, str(error))
        except Exception as error:
            self._reject(job, f"{type(error).__name__}; see the log")
            raise
        finally:
            self._loading = None

    def _next_job(self) -> _Job | None:
        """The next new or deferred job; None when the loader stops."""
        due = min((when for when, _ in self._deferred), default=None)
        wait = None if due is None else max(0.0, due - time.monotonic())
        try:
            return self._jobs.get(timeout=wait)
        except queue.Empty:
            self._deferred.sort(key=lambda deferred: deferred[0])
            return self._deferred.pop(0)[1]

    def _reject(self, job: _Job, reason: str) -> None:
        """Mark a model as unusable: a retry of the same bytes would fail again."""
        if self._stopped.is_set():
            return
        self._set_error(f"{job.name} cannot be used: {reason}")
        with self._lock:
            self._unusable.add(job.key)
            self._pending.pop(job.key, None)
        if job.name == self._first_model(job.manifest):
            self.on_failure(job.version, f"{job.name}: {reason}")

    def _defer(self, job: _Job, error: StoreError | ProbeAborted) -> None:
        """Retry a job after a temporary error, unless its version is no longer the target."""
        if self._stopped.is_set():
            return
        if job.version != self.version:
            with self._lock:
                self._pending.pop(job.key, None)
            return
        self._attempts[job.key] += isinstance(error, MismatchError | ProbeAborted)
        if self._attempts[job.key] >= MAX_ATTEMPTS:
            self._reject(job, f"{error} (tried {MAX_ATTEMPTS} times)")
            return
        self._set_error(str(error))
        wait = self._backoffs.setdefault(job.key, Backoff(*RETRY_S)).failed()
        self._deferred.append((time.monotonic() + wait, job))

    def _run(self, job: _Job) -> None:
        """Load one model and deliver it. Keeps no reference, so that dropping the model elsewhere frees its memory."""
        manifest, version, name = job
        _, downloaded = self._file(manifest.models[name])
        self._loading = name, time.monotonic()
        first = name == self._first_model(manifest)
        if not first:  # the updater has probed the first model, and a start must not wait for a probe
            self._ensure_probed(manifest, name)
        session, cost, seconds = self._session(manifest, name)
        with self._lock:
            for ready in self._pending.pop(job.key):
                ready.put(LoadedModel(manifest, version, name, session, cost, seconds, downloaded, first))
        self._backoffs.pop(job.key, None)
        log.info("%s is loaded, %.1f MB", name, cost / 1e6)

    def _ensure_probed(self, manifest: Manifest, name: str) -> None:
        """Probe a downloaded model, unless it has passed before. Raises ``ProbeError`` and ``StoreError``."""
        sha256 = manifest.models[name].sha256
        if self._store is None or self._probe is None or sha256 in self._sessions:
            return
        if self._store.read_only or self._store.is_probed(sha256, fingerprint(manifest, name)):
            return
        files = {one.sha256: self._file(one)[0] for one in required_files(manifest, [name])}
        if manifest.golden is not None and (path := self._store.path(manifest.golden.sha256)) is not None:
            files[manifest.golden.sha256] = path
        self._probe(manifest, [name], files)
        with contextlib.suppress(StoreError):  # on a full disk the probe runs again at the next start
            self._store.mark_probed(sha256, fingerprint(manifest, name))

    def _session(self, manifest: Manifest, name: str) -> tuple[Runnable, int, float]:
        """Session of a model, loaded if necessary; its cost in bytes; seconds of one run."""
        model = manifest.models[name]
        if (session := self._sessions.get(model.sha256)) is None:
            before = resident_bytes()
            session, seconds = self._load(manifest, name)
            cost = max(resident_bytes() - before, model.bytes)
            with self._lock:
                self._measured[model.sha256] = model.role, cost, seconds
                self._sessions[model.sha256] = session
        _, cost, seconds = self._measured[model.sha256]
        return session, cost, seconds

    def _first_model(self, manifest: Manifest) -> str:
        return self._base or manifest.only("base")

    def _load(self, manifest: Manifest, name: str) -> tuple[Runnable, float]:
        """Load a model and check its answer to a blank picture. Returns the session and seconds of the median run."""
        model = manifest.models[name]
        # A full model beside a base model runs alone, so it may use all processors.
        alone = model.role == "full" and name != self._first_model(manifest)
        exits = alone and self._exit_kind in manifest.layers and self._slowdown == 1.0
        exit_kind = self._exit_kind if exits else None

        def load(threads: int) -> tuple[Runnable, float, Any]:
            opened = open_model(
                manifest, name, lambda one: self._file(one)[0], self._provider, threads, self._slowdown, exit_kind
            )
            return opened, *time_run(opened, model.input, self._stopped.is_set)

        processors = len(os.sched_getaffinity(0))
        session, seconds, answer = load(processors if alone else max(1, self.threads))
        if self.threads == 0 and not alone:
            self.threads = 1
            if (
                processors >= MIN_PROCESSORS_FOR_PARALLEL
                and (parallel := load(processors))[1] <= MAX_PARALLEL_TIME_RATIO * seconds
            ):
                self.threads, (session, seconds, answer) = processors, parallel
        check_answer(name, answer, len(manifest.labels))
        return session, seconds

    def _file(self, one: Model | Layer) -> tuple[Path, bool]:
        """Path of a file, and whether it was downloaded for this call."""
        if self._bundle is not None:
            return self._bundle.find(one), False
        assert self._downloader is not None
        if not self._stopped.is_set():
            self._downloader.resume()
        return self._downloader.get(one)

    def _set_error(self, error: str) -> None:
        if error != self.error:
            log.warning(error)
        self.error = error


def required_files(manifest: Manifest, names: Sequence[str]) -> list[Model | Layer]:
    """Files that these models need to run: their own, and the early exits of a full model."""
    files: list[Model | Layer] = [manifest.models[name] for name in names]
    if any(manifest.models[name].role == "full" for name in names):
        files += [one for layers in manifest.layers.values() for one in layers.caches]
    return files
