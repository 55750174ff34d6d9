"""Gets models onto the device, off the hot path: has them pulled, checks, loads aside, hands over.

One thread, one job at a time, for all cameras. A hot loop says what it wants and takes what is ready; it never waits. A
model that one camera has is not loaded again for another: both run the same session.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakValueDictionary

import numpy as np

from edge_agent.puller import Puller
from edge_agent.store import Store, StoreError
from shared.bundle import Bundle, BundleError, Layer, Manifest, Model, Way, digest, parse
from shared.engine import EngineError, Logits, Provider, Session, resident_bytes
from shared.image import blank
from shared.layered import Layered, load, runner
from shared.link import Link, Message

if TYPE_CHECKING:
    from shared.signing import Key

log = logging.getLogger(__name__)

_RETRY_S = 1.0
#: No model takes longer to be loaded on any device that could run it.
_LOADING_S = 60.0
#: Runs of a model that has been loaded, to see that it answers and how fast.
_TRIES = 5
#: With so many processors all of them run a model together where that takes at most so much of one's time; with fewer
#: the rest of the machine would wait.
SEVERAL, QUICKER = 4, 0.8


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to run. ``cost``: by how many bytes it made the process grow, at least its file's size.
    ``seconds``: of one run. ``pulled``: whether it came over the network for this. ``first``: it answers in the base
    model's place."""

    manifest: Manifest
    version: str
    name: str
    session: Session | Layered
    cost: int
    seconds: float
    pulled: bool
    first: bool


#: Where a camera finds the models that it has asked for.
Ready: TypeAlias = "queue.SimpleQueue[Loaded]"


class Keeper:
    """Follows the newest catalogue, and hands out its models to whoever wants them."""

    def __init__(
        self,
        store: Store | None,
        link: Link | None,
        device: str,
        provider: Provider,
        threads: int,
        base: str | None,
        trusted: Key | None = None,
        slowdown: float = 1.0,
        way: Way | None = None,
    ) -> None:
        """Without a store, models come from the bundle directory given to ``use``. ``base``: the model to load first,
        "" for the bundle's own base model, None for none at all. ``trusted``: the key without whose signature nothing
        is taken. ``threads``: of a run; 0 for one or all processors, whichever is the quicker for the model that is
        loaded first. ``slowdown``: see ``Session``. ``way``: of the caches between the layers of a full model beside a
        base model, where the bundle has them."""
        #: What stands in the way, for a person; empty while all is well.
        self.trouble = ""
        self._store = store
        self._puller = Puller(store, link, device)
        self._trusted = trusted
        self._provider, self._base, self._slowdown, self._way = provider, base, slowdown, way
        self.threads = threads
        self._bundle: Bundle | None = None
        #: Whether the offer has taken the place of another.
        self._updated = False
        #: The manifest to go by and its version.
        self.offer: tuple[Manifest, str] | None = None
        #: Model, manifest and its version.
        self._jobs: queue.SimpleQueue[tuple[str, Manifest, str] | None] = queue.SimpleQueue()
        #: What is on its way, by version and model, and who wants it loaded; nobody where it is only to be put by.
        self._pending: dict[tuple[str, str], set[Ready]] = {}
        self._lock = threading.Lock()
        #: What is loaded for anybody, by digest; and of whatever was, its role, ``cost`` and ``seconds``.
        self._sessions: WeakValueDictionary[str, Session | Layered] = WeakValueDictionary()
        self._measured: dict[str, tuple[str, int, float]] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a transfer goes on at the next start. A model that is being loaded is waited for: the
        interpreter would end under its runtime's threads, and that aborts the process."""
        self._stopped.set()
        self._jobs.put(None)
        self._puller.stop()
        self._thread.join(_LOADING_S)

    def use(self, bundle: Bundle) -> None:
        """Take models from a bundle directory."""
        self._bundle = bundle
        self.announce(bundle.data, bundle.signature)

    def announce(self, data: bytes, signature: bytes = b"") -> None:
        """Take notice of a manifest, from the catalogue or the store. Raises ``BundleError`` for one that is none, or
        that the trusted key does not vouch for."""
        if digest(data) == self.version:
            return
        manifest = parse(data)
        if self._trusted is not None and not self._trusted.vouches(data, signature):
            what = "another key's signature" if signature else "no signature"
            self._say(f"{manifest.name} is not taken: it has {what}, and --trusted-key is set")
            raise BundleError(self.trouble)
        if self.offer is not None and manifest.name != self.offer[0].name:
            log.info("catalogue offers %s too; this device runs %s", manifest.name, self.offer[0].name)
            return
        if self._store is not None:
            try:
                self._store.remember(data, manifest, signature)
            except StoreError as error:
                self._say(str(error))
        self._updated = self.offer is not None
        self.offer = manifest, digest(data)

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
        with self._lock:
            known = (version, model) in self._pending
            self._pending.setdefault((version, model), set()).update(wanting)
        if not known:
            self._jobs.put((model, manifest, version))

    @property
    def hopeless(self) -> bool:
        """Whether the bundle directory's first model cannot be used: no other will come."""
        return self._bundle is not None and bool(self.trouble)

    def pending(self, model: str, ready: Ready | None = None) -> bool:
        """Whether a model is on its way or cannot be had; with ``ready``, whether ``want`` would change nothing."""
        wanting = self._pending.get((self.version, model))
        return wanting is not None and (ready is None or ready in wanting)

    def receive(self, message: Message, sha256: str) -> None:
        """Take a piece of a file (on the link's thread). Raises ``protocol.Malformed``."""
        self._puller.receive(message, sha256)

    @property
    def bytes_down(self) -> int:
        """Payload bytes of files that have come."""
        return self._puller.bytes_down

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None and not self._stopped.is_set():
            name, manifest, version = job
            try:
                self._deliver(manifest, version, name)
                self.trouble = ""
            except EngineError as error:
                if self._stopped.is_set():
                    return
                self._say(f"{name} cannot be used: {error}")
                continue  # and stays pending: the same bytes would fail again
            except StoreError as error:
                self._say(str(error))
                if not self._stopped.wait(_RETRY_S) and version == self.version:
                    self._jobs.put(job)
                    continue
                with self._lock:
                    del self._pending[version, name]

    def _deliver(self, manifest: Manifest, version: str, name: str) -> None:
        """Get one model, and hand it to all who want it. Keeps no reference to it, so that dropping it elsewhere frees
        its memory."""
        path, pulled = self._obtain(manifest, name)
        with self._lock:
            if not self._pending[version, name]:
                del self._pending[version, name]
                return
        first = name == self._first(manifest)
        session, cost, seconds = self._session(manifest, name, path)
        with self._lock:
            for ready in self._pending.pop((version, name)):
                ready.put(Loaded(manifest, version, name, session, cost, seconds, pulled, first))
        if first and self._updated and self._store is not None and (gone := self._store.collect()):
            log.info("removed %d files of earlier versions from the store", gone)

    def _session(self, manifest: Manifest, name: str, path: Path) -> tuple[Session | Layered, int, float]:
        """A model's session, loaded unless it is; how many bytes it costs, and the seconds of a run."""
        model = manifest.models[name]
        if (session := self._sessions.get(model.sha256)) is None:
            before = resident_bytes()
            session, seconds = self._load(manifest, name, path)
            cost = max(resident_bytes() - before, model.bytes)
            with self._lock:
                self._measured[model.sha256] = model.role, cost, seconds
                self._sessions[model.sha256] = session
        _, cost, seconds = self._measured[model.sha256]
        return session, cost, seconds

    def _first(self, manifest: Manifest) -> str:
        return self._base or manifest.only("base")

    def _load(self, manifest: Manifest, name: str, path: Path) -> tuple[Session | Layered, float]:
        """Load a model aside and try it, so that one that cannot answer never reaches the hot loop; the seconds that
        its median try took."""
        model = manifest.models[name]
        # The full model beside a base model: nothing else runs while it does, so it may have every processor.
        alone = model.role == "full" and name != self._first(manifest)
        image = blank(model.input)

        way = self._way if alone and self._way in manifest.layers and self._slowdown == 1.0 else None

        def opened(threads: int) -> Session | Layered:
            if way is not None:
                draw = random.Random().random
                return load(manifest, way, lambda one: self._file(one)[0], self._provider, threads, draw)
            return Session(path, self._provider, threads, self._slowdown)

        def tried(threads: int) -> tuple[Session | Layered, float, Logits]:
            session = opened(threads)
            run, took = runner(session), []
            for _ in range(_TRIES):
                if self._stopped.is_set():
                    raise EngineError("the program ends")
                begun = time.perf_counter()
                logits = run(image)
                took.append(time.perf_counter() - begun)
            return session, sorted(took)[_TRIES // 2], logits

        processors = len(os.sched_getaffinity(0))
        session, seconds, logits = tried(processors if alone else max(1, self.threads))
        if self.threads == 0 and not alone:
            self.threads = 1
            if processors >= SEVERAL and (other := tried(processors))[1] <= QUICKER * seconds:
                self.threads, (session, seconds, logits) = processors, other
        if logits.shape != (1, len(manifest.labels)) or not np.isfinite(logits).all():
            raise EngineError(f"{name}: gives scores of shape {logits.shape} for {len(manifest.labels)} labels")
        return session, seconds

    def _obtain(self, manifest: Manifest, name: str) -> tuple[Path, bool]:
        """Where a model's file is, and whether it has come over the network for this."""
        if self._bundle is None and self._store is not None and self._store.path(manifest.models[name].sha256) is None:
            log.info("pulling %s, %.1f kB", name, manifest.models[name].bytes / 1000)
        return self._file(manifest.models[name])

    def _file(self, one: Model | Layer) -> tuple[Path, bool]:
        if self._bundle is not None:
            return self._bundle.find(one), False
        assert self._store is not None
        if (path := self._store.path(one.sha256)) is not None:
            return path, False
        return self._puller.pull(one.sha256, one.bytes), True

    def _say(self, trouble: str) -> None:
        if trouble != self.trouble:
            log.warning(trouble)
        self.trouble = trouble
