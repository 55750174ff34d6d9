"""Gets models into memory, off the hot path: has them pulled and probed, loads aside, hands over.

One thread, one job at a time, for all cameras. A hot loop says what it wants and takes what is ready; it never waits. A
model that one camera has is not loaded again for another: both run the same session.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias
from weakref import WeakValueDictionary

from cachenet.edge_agent.updates.downloader import Downloader
from cachenet.edge_agent.updates.model_loading import check_scores, open_model, time_run
from cachenet.edge_agent.updates.probe import ProbeAborted, ProbeError, fingerprint, time_limit
from cachenet.edge_agent.updates.store import MismatchError, Store, StoreError
from cachenet.shared.bundle.manifest import Bundle, Layer, Manifest, Model, Way, digest
from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.inference.early_exit import EarlyExitModel
from cachenet.shared.inference.engine import EngineError, Logits, Provider, Session, resident_bytes
from cachenet.shared.inference.image import blank
from cachenet.shared.transport.backoff import Backoff
from cachenet.shared.transport.mqtt import Message

log = logging.getLogger(__name__)

#: Seconds until a model is tried again that could not be had: after the first failure, and at most.
_RETRY_S = (1.0, 60.0)
#: Times that a file may arrive with another digest than the manifest says, or that a probe may be ended by somebody.
MOST_ATTEMPTS = 5
#: How long the end of the program waits for a model that is being loaded, seconds.
_STOP_S = 10.0
#: With so many processors all of them run a model together where that takes at most so much of one's time; with fewer
#: the rest of the machine would wait.
SEVERAL, QUICKER = 4, 0.8


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to run. ``cost``: by how many bytes it made the process grow, at least its file's size.
    ``seconds``: of one run. ``pulled``: whether it came over the network for this. ``first``: it answers in the base
    model's place."""

    manifest: Manifest
    version: str
    name: str
    session: Session | EarlyExitModel
    cost: int
    seconds: float
    pulled: bool
    first: bool


#: Where a camera finds the models that it has asked for.
Ready: TypeAlias = "queue.SimpleQueue[LoadedModel]"


#: Tries models of a manifest, by name, in a process of their own; given the paths, by digest, of the files that they
#: need. Raises ``ProbeError``.
Probe: TypeAlias = Callable[[Manifest, Iterable[str], dict[str, Path]], None]


class _Job(NamedTuple):
    """Load a model of a version, or at least have its file in the store."""

    manifest: Manifest
    version: str
    name: str


class ModelLoader:
    """Loads models of the set that the device goes by, and hands them to whoever wants them."""

    def __init__(
        self,
        store: Store | None,
        puller: Downloader | None,
        provider: Provider,
        threads: int,
        base: str | None,
        slowdown: float = 1.0,
        way: Way | None = None,
        probe: Probe | None = None,
    ) -> None:
        """Without a store, models come from the bundle directory given to ``use``. ``base``: the model to load first,
        "" for the bundle's own base model, None for none at all. ``threads``: of a run; 0 for one or all processors,
        whichever is the quicker for the model that is loaded first. ``slowdown``: see ``Session``. ``way``: of the
        caches between the layers of a full model beside a base model, where the bundle has them. ``probe``: tries a
        model that came over the network before this process loads it; see ``Updater``."""
        #: What stands in the way, for a person; empty while all is well.
        self.trouble = ""
        #: Are told of a frame that a version has answered, and that a version does not work, and why: whether another
        #: version takes its place. See ``Updater``.
        self.on_answer: Callable[[str], None] = lambda _: None
        self.on_failure: Callable[[str, str], bool] = lambda _version, _reason: False
        self._store, self._puller, self._probe = store, puller, probe
        self._provider, self._base, self._slowdown, self._way = provider, base, slowdown, way
        self.threads = threads
        self._bundle: Bundle | None = None
        #: The manifest to go by and its version.
        self.offer: tuple[Manifest, str] | None = None
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        #: Jobs that are done again, and when.
        self._deferred: list[tuple[float, _Job]] = []
        self._backoffs: dict[tuple[str, str], Backoff] = {}
        self._attempts: Counter[tuple[str, str]] = Counter()
        #: What is on its way, by version and model, and who wants it loaded; nobody where it is only to be put by.
        self._pending: dict[tuple[str, str], set[Ready]] = {}
        #: What cannot be used, by version and model: the same bytes would fail again.
        self._unusable: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        #: What is loaded for anybody, by digest; and of whatever was, its role, ``cost`` and ``seconds``.
        self._sessions: WeakValueDictionary[str, Session | EarlyExitModel] = WeakValueDictionary()
        self._measured: dict[str, tuple[str, int, float]] = {}
        #: The model that is being loaded, and since when; none while the thread waits.
        self._loading: tuple[str, float] | None = None
        self._thread = SupervisedThread("keeper", self._step)
        self._stopped = self._thread.stopping

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a transfer goes on at the next start. A model that is being loaded is waited for: the
        interpreter would end under its runtime's threads, and that aborts the process. Where the wait was in vain
        ``stuck`` says so."""
        self._stopped.set()
        self._jobs.put(None)
        if self._puller is not None:
            self._puller.interrupt()
        self._thread.stop(_STOP_S)

    @property
    def stuck(self) -> str:
        """The model that hangs while it is being loaded; empty if none does."""
        loading = self._loading
        if loading is None:
            return ""
        name, since = loading
        late = time.monotonic() - since > 2 * time_limit(self._provider)
        return name if late or self._stopped.is_set() else ""

    def use(self, bundle: Bundle) -> None:
        """Take models from a bundle directory."""
        self._bundle = bundle
        self.go_by(bundle.manifest, digest(bundle.data))

    def go_by(self, manifest: Manifest | None, version: str) -> None:
        """Go by this set from now on, or by none."""
        self.offer = (manifest, version) if manifest is not None else None

    @property
    def version(self) -> str:
        """Of the offer; empty if there is none yet."""
        return self.offer[1] if self.offer is not None else ""

    def want(self, model: str, ready: Ready) -> None:
        """Have a model put into ``ready``; asking again while it is on its way, or for one that cannot run, changes
        nothing."""
        self._order(model, {ready})

    def want_first(self, ready: Ready) -> None:
        """Ask for the model that a deployment of the offer begins with."""
        if self.offer is not None:
            self._order(self._first(self.offer[0]), {ready})

    def put_by(self, model: str) -> None:
        """Have a model in the store, for when it is wanted."""
        self._order(model, set())

    def has(self, model: str) -> bool:
        """Whether a model of the offer can be had without the network."""
        if self._store is None or self.offer is None:
            return True
        return self._store.holds(self.offer[0].models[model].sha256)

    def loaded(self, model: str) -> bool:
        """Whether a model of the offer is in memory already, for whomever."""
        return self.offer is not None and self.offer[0].models[model].sha256 in self._sessions

    def submodels_cost(self) -> int:
        """Bytes that the submodels cost together that are in memory, each counted once."""
        with self._lock:
            loaded = [self._measured[sha256] for sha256 in self._sessions]
        return sum(cost for role, cost, _ in loaded if role == "submodel")

    def _order(self, model: str, wanting: set[Ready]) -> None:
        if self.offer is None:
            return
        manifest, version = self.offer
        if model not in manifest.models:
            self._say(f"{manifest.name} has no model {model}; it has {', '.join(manifest.models)}")
            return
        if (version, model) in self._unusable:
            return
        with self._lock:
            known = (version, model) in self._pending
            self._pending.setdefault((version, model), set()).update(wanting)
        if not known:
            self._jobs.put(_Job(manifest, version, model))

    @property
    def hopeless(self) -> bool:
        """Whether the bundle directory's first model cannot be used: no other will come."""
        return self._bundle is not None and bool(self.trouble)

    def pending(self, model: str, ready: Ready | None = None) -> bool:
        """Whether a model is on its way or cannot be had; with ``ready``, whether ``want`` would change nothing."""
        if (self.version, model) in self._unusable:
            return True
        wanting = self._pending.get((self.version, model))
        return wanting is not None and (ready is None or ready in wanting)

    def busy(self, ready: Ready) -> bool:
        """Whether a model is on its way to ``ready`` and can be had now."""
        with self._lock:
            wanted = [name for (version, name), wanting in self._pending.items() if ready in wanting]
        there = self._puller is not None and self._puller.connected
        return not ready.empty() or any(there or self.has(name) for name in wanted)

    def receive(self, message: Message, sha256: str) -> None:
        """Take a piece of a file (on the link's thread). Raises ``protocol.Malformed``."""
        if self._puller is not None:
            self._puller.receive(message, sha256)

    @property
    def bytes_down(self) -> int:
        """Payload bytes of files that have come."""
        return self._puller.bytes_down if self._puller is not None else 0

    def _step(self) -> None:
        """Wait for a job, and do it."""
        if (job := self._next()) is None:
            return
        try:
            self._deliver(job)
            self.trouble = ""
        except (StoreError, ProbeAborted) as error:
            self._defer(job, error)
        except (EngineError, ProbeError) as error:
            self._refuse(job, str(error))
        except Exception as error:
            self._refuse(job, f"{type(error).__name__}; see the log")
            raise
        finally:
            self._loading = None

    def _next(self) -> _Job | None:
        """The next job, or None after a while without one."""
        due = min((when for when, _ in self._deferred), default=None)
        wait = None if due is None else max(0.0, due - time.monotonic())
        try:
            return self._jobs.get(timeout=wait)
        except queue.Empty:
            self._deferred.sort(key=lambda deferred: deferred[0])
            return self._deferred.pop(0)[1]

    def _refuse(self, job: _Job, reason: str) -> None:
        """A model cannot be used. The same bytes would fail again, so it is not tried again."""
        if self._stopped.is_set():
            return
        self._say(f"{job.name} cannot be used: {reason}")
        with self._lock:
            self._unusable.add((job.version, job.name))
            self._pending.pop((job.version, job.name), None)
        if job.name == self._first(job.manifest):
            self.on_failure(job.version, f"{job.name}: {reason}")

    def _defer(self, job: _Job, error: StoreError | ProbeAborted) -> None:
        """A model cannot be had now; try again later, if it is wanted still."""
        if self._stopped.is_set():
            return
        if job.version != self.version:
            with self._lock:
                self._pending.pop((job.version, job.name), None)
            return
        key = job.version, job.name
        self._attempts[key] += isinstance(error, MismatchError | ProbeAborted)
        if self._attempts[key] >= MOST_ATTEMPTS:
            self._refuse(job, f"{error} (tried {MOST_ATTEMPTS} times)")
            return
        self._say(str(error))
        wait = self._backoffs.setdefault(key, Backoff(*_RETRY_S)).failed()
        self._deferred.append((time.monotonic() + wait, job))

    def _deliver(self, job: _Job) -> None:
        """Get one model, and hand it to all who want it. Keeps no reference to it, so that dropping it elsewhere frees
        its memory."""
        manifest, version, name = job
        _, pulled = self._file(manifest.models[name])
        with self._lock:
            if not self._pending[version, name]:
                del self._pending[version, name]
                return
        self._loading = name, time.monotonic()
        first = name == self._first(manifest)
        if not first:  # the updater has had that tried, and a device must not wait for a probe to begin to answer
            self._prove(manifest, name)
        session, cost, seconds = self._session(manifest, name)
        with self._lock:
            for ready in self._pending.pop((version, name)):
                ready.put(LoadedModel(manifest, version, name, session, cost, seconds, pulled, first))
        self._backoffs.pop((version, name), None)
        log.info("%s is loaded, %.1f MB", name, cost / 1e6)

    def _prove(self, manifest: Manifest, name: str) -> None:
        """Have a model tried that came over the network, unless it was. Raises ``ProbeError`` and ``StoreError``."""
        sha256 = manifest.models[name].sha256
        if self._store is None or self._probe is None or sha256 in self._sessions:
            return
        if self._store.read_only or self._store.passed(sha256, fingerprint(manifest, name)):
            return
        needed: list[Model | Layer] = [manifest.models[name]]
        if manifest.models[name].role == "full":
            needed += [one for layers in manifest.layers.values() for one in layers.caches]
        files = {one.sha256: self._file(one)[0] for one in needed}
        if manifest.golden is not None and (path := self._store.path(manifest.golden.sha256)) is not None:
            files[manifest.golden.sha256] = path
        self._probe(manifest, [name], files)
        with contextlib.suppress(StoreError):  # on a full disk it is tried again at the next start
            self._store.mark_passed(sha256, fingerprint(manifest, name))

    def _session(self, manifest: Manifest, name: str) -> tuple[Session | EarlyExitModel, int, float]:
        """A model's session, loaded unless it is; how many bytes it costs, and the seconds of a run."""
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

    def _first(self, manifest: Manifest) -> str:
        return self._base or manifest.only("base")

    def _load(self, manifest: Manifest, name: str) -> tuple[Session | EarlyExitModel, float]:
        """Load a model aside and try it, so that one that cannot answer never reaches the hot loop; the seconds that
        its median try took."""
        model = manifest.models[name]
        # The full model beside a base model: nothing else runs while it does, so it may have every processor.
        alone = model.role == "full" and name != self._first(manifest)
        image = blank(model.input)
        way = self._way if alone and self._way in manifest.layers and self._slowdown == 1.0 else None

        def tried(threads: int) -> tuple[Session | EarlyExitModel, float, Logits]:
            opened = open_model(
                manifest, name, lambda one: self._file(one)[0], self._provider, threads, self._slowdown, way
            )
            return opened, *time_run(opened, image, self._stopped.is_set)

        processors = len(os.sched_getaffinity(0))
        session, seconds, logits = tried(processors if alone else max(1, self.threads))
        if self.threads == 0 and not alone:
            self.threads = 1
            if processors >= SEVERAL and (other := tried(processors))[1] <= QUICKER * seconds:
                self.threads, (session, seconds, logits) = processors, other
        check_scores(name, logits, len(manifest.labels))
        return session, seconds

    def _file(self, one: Model | Layer) -> tuple[Path, bool]:
        if self._bundle is not None:
            return self._bundle.find(one), False
        assert self._puller is not None
        if not self._stopped.is_set():
            self._puller.resume()
        return self._puller.obtain(one)

    def _say(self, trouble: str) -> None:
        if trouble != self.trouble:
            log.warning(trouble)
        self.trouble = trouble
