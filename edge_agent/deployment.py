"""The deployment: what this device answers with at present, and how it comes to answer with something else."""

from __future__ import annotations

import contextlib
import logging
import queue
from collections import Counter
from collections.abc import Callable

import msgspec
import numpy as np

from edge_agent import flight
from edge_agent.composition import DeploymentError, compose, gate_of, local
from edge_agent.core.hierarchy import Hierarchy, Tally
from edge_agent.core.submodels import LocalModel
from edge_agent.keeper import Keeper, Loaded, Ready
from edge_agent.report import Sink
from edge_agent.settings import Settings, size
from shared.bundle import Manifest
from shared.cascade.probability import Probabilities
from shared.engine import release_memory, resident_bytes
from shared.names import as_text

log = logging.getLogger(__name__)

#: Without ``--memory-budget`` the submodels may cost this much together.
ROOM = 256 << 20
#: A loaded model's resident size, as a multiple of its float16 file, until one has been measured.
GROWTH = 4
#: Frames between two looks at the resident set.
_CHECK_EVERY = 64
#: Frames in a row that need no cloud before a submodel is fetched that may be wanted next: the link is idle then.
_IDLE = 30


class Deployment:
    """A bundle's hierarchy with the models that are loaded, which change under it while it answers."""

    def __init__(
        self,
        settings: Settings,
        keeper: Keeper,
        tally: Tally,
        asks: bool,
        changed: Callable[[], None],
        log: Sink | None = None,
        cameras: int = 1,
        traffic: Callable[[], int] = lambda: 0,
    ) -> None:
        """``asks``: whether there is a cloud that may be asked. ``changed`` is called when another version answers, or
        models have come or gone. ``log``: where every call into the hierarchy is written down. ``cameras``: how many
        share the room for submodels, each an equal part. ``traffic``: bytes that questions and answers have taken."""
        self.hierarchy: Hierarchy | None = None
        self.manifest: Manifest | None = None
        self.version = ""
        #: Names of the submodels that came over the network to be used.
        self.pulled: list[str] = []
        #: How many submodels had to go, and why: another needed their ``room``, the process outgrew its ``memory``
        #: budget, or a newer ``version`` came.
        self.evicted: Counter[str] = Counter()
        #: Runs of models that have failed, by model.
        self.failures: Counter[str] = Counter()
        self._ready: Ready = queue.SimpleQueue()
        self._cameras, self._traffic = cameras, traffic
        self._settings, self._keeper, self._tally = settings, keeper, tally
        self._asks, self._changed, self._log = asks, changed, log
        self._budget = size(settings.memory_budget) if settings.memory_budget else None
        #: Versions that were found unfit.
        self._unfit: set[str] = set()
        self._submodel_cost = 0
        #: General models of other sizes that have not been asked for yet.
        self._generals: list[str] = []
        #: Why the full model is not to be had on the device, once that is known.
        self._no_full = ""
        #: Questions so far, and the frame of the last one.
        self._questions = self._last_question = 0

    @property
    def submodels(self) -> tuple[str, ...]:
        """Names of the resident ones."""
        cache = self.hierarchy.submodels if self.hierarchy is not None else None
        return cache.names() if cache is not None else ()

    @property
    def resident(self) -> tuple[str, ...]:
        """Names of all models in memory that answer for this camera."""
        if self.hierarchy is None:
            return ()
        others = (self.hierarchy.base, self.hierarchy.full)
        return (*self.submodels, *(model.name for model in others if model is not None))

    def wait(self, seconds: float) -> bool:
        """Take what comes first, if it comes in time; whether there is something to answer with. Raises
        ``DeploymentError`` if there never will be."""
        self._follow()
        if self.hierarchy is None:
            with contextlib.suppress(queue.Empty):
                self._take(self._ready.get(timeout=seconds))
            self._follow()
            if self._keeper.hopeless:
                raise DeploymentError(self._keeper.trouble)
        return self.hierarchy is not None

    def complete(self) -> bool:
        """Go on as ``tend`` does; whether every model is here that may be used and can be had now."""
        self.tend()
        return not self._generals and (bool(self._keeper.trouble) or not self._keeper.busy(self._ready))

    def tend(self) -> None:
        """Between two frames: loaded models in, dropped ones out."""
        assert self.hierarchy is not None
        grown = self._tally.frames % _CHECK_EVERY == 0
        with contextlib.suppress(queue.Empty):
            while True:
                self._drop(self._take(self._ready.get_nowait()), "room")
                grown = True
        self._follow()
        # A newer catalogue's models are of no use before its base model is there.
        if self._keeper.version == self.version:
            self._fetch(self.hierarchy)
            self._fetch_full(self.hierarchy)
        if grown and self._budget is not None and resident_bytes() > self._budget:
            self._drop(self._slim(), "memory")

    def _fetch(self, hierarchy: Hierarchy) -> None:
        """Have what is wanted loaded; or else, if the link is idle, have what may be wanted next put by."""
        if (questions := self._tally.cloud + self._tally.fallbacks) != self._questions:
            self._questions, self._last_question = questions, self._tally.frames
        if (wanted := hierarchy.wanted) is not None:
            if not self._keeper.pending(wanted, self._ready):
                self._drop(self._make_room(wanted), "room")
                self._keeper.want(wanted, self._ready)
        elif self._generals:
            self._fetch_general(hierarchy)
        elif (
            self._settings.prefetch
            and self._tally.frames == self._last_question + _IDLE
            and hierarchy.submodels is not None
            and (next_ := hierarchy.submodels.likely(self._not_here())) is not None
        ):
            self._keeper.put_by(next_)

    def _fetch_general(self, hierarchy: Hierarchy) -> None:
        """Have the next general model loaded, if there is room: nobody recommends it, for it may know no more than the
        base model, but on a small device it may know most of that in less time."""
        assert self.manifest is not None
        cache, name = hierarchy.submodels, self._generals[0]
        need = max(self._submodel_cost, GROWTH * self.manifest.models[name].bytes)
        if cache is not None and cache.cost() + need <= cache.budget:
            self._keeper.want(name, self._ready)
        self._generals.remove(name)

    def _fetch_full(self, hierarchy: Hierarchy) -> None:
        """Have the full model itself loaded, where asking takes longer than it would, or there is nobody to ask."""
        settings, manifest = self._settings, self.manifest
        if "full" not in settings.levels or settings.mode == "async" or hierarchy.full is not None or self._no_full:
            return
        assert manifest is not None
        name, base = manifest.only("full"), hierarchy.base
        if base is None or base.name == name or self._keeper.pending(name, self._ready):
            return
        full, own = manifest.models[name], manifest.models[base.name]
        if self._asks and not hierarchy.routes.slow(base.seconds * full.milliseconds / max(own.milliseconds, 1e-3)):
            return
        if self._asks and not self._keeper.has(name) and self._traffic() < full.bytes:
            return  # so that it never costs a link more than twice what it must
        more = 0 if self._keeper.loaded(name) else GROWTH * full.bytes
        if self._budget is not None and resident_bytes() + more > self._budget:
            self._no_full = "there is no room for it"
            log.info("%s stays on the server: %s", name, self._no_full)
            return
        self._keeper.want(name, self._ready)

    def _not_here(self) -> dict[str, Probabilities]:
        """The coverage of the submodels that would have to come over the network, and that there would be room for."""
        assert self.manifest is not None and self.hierarchy is not None and self.hierarchy.submodels is not None
        room = self.hierarchy.submodels.budget
        names = [
            name
            for name in self.manifest.submodels()
            if not self._keeper.has(name) and GROWTH * self.manifest.models[name].bytes <= room
        ]
        return {name: np.array(self.manifest.models[name].coverage) for name in names}

    def _take(self, loaded: Loaded) -> list[str]:
        """Put a loaded model to use; return the names of those that had to go for it."""
        model = loaded.manifest.models[loaded.name]
        if loaded.first and (loaded.version == self.version or loaded.version in self._unfit):
            return []  # asked for once more, while it was on its way
        if loaded.pulled and model.role == "submodel":
            self.pulled.append(loaded.name)
        version = loaded.version

        def failed(reason: str) -> None:
            self.failures[loaded.name] += 1
            self._keeper.on_failure(version, reason)

        own = local(loaded.manifest, loaded.name, loaded.session, loaded.cost, loaded.seconds, loaded.first, failed)
        if loaded.first:
            self._deploy(loaded.manifest, loaded.version, own)
        elif self.hierarchy is not None and loaded.version == self.version:
            if model.role == "submodel":
                self._submodel_cost = max(self._submodel_cost, loaded.cost)
            gone = self.hierarchy.install(own)
            self._changed()
            return gone
        return []

    def _follow(self) -> None:
        """Go by the newest catalogue: at once where no model is to be loaded first, or else when it is."""
        offer = self._keeper.offer
        if offer is None or offer[1] == self.version or offer[1] in self._unfit:
            return
        if self._settings.local:
            self._keeper.want_first(self._ready)
        else:
            self._deploy(*offer, None)

    def _deploy(self, manifest: Manifest, version: str, base: LocalModel | None) -> None:
        """Begin to answer with this bundle, in the place of any before. Raises ``DeploymentError`` for a first one that
        cannot be used; an update that cannot be leaves all as it is."""
        try:
            self._replace(manifest, version, base)
        except DeploymentError as error:
            self._unfit.add(version)
            if self._keeper.on_failure(version, str(error)):
                return
            if self.hierarchy is None:
                raise
            log.error("going on with version %s: %s", self.version[:12], error)

    def _replace(self, manifest: Manifest, version: str, base: LocalModel | None) -> None:
        gate_of(self._settings, manifest)
        if self._budget is not None and (floor := self._floor()) > self._budget:
            raise DeploymentError(
                f"memory budget {self._settings.memory_budget} is under the {floor / 1e6:.0f} MB that this process "
                f"needs with {manifest.name}'s base model alone; give more"
            )
        if self.hierarchy is not None:  # nothing can go wrong any more
            self._drop(self.hierarchy.shrink(0), "version")
        room = ROOM if self._budget is None else max(0, self._budget - self._floor())
        self.hierarchy = self._compose(manifest, version, base, room // self._cameras)
        self.manifest, self.version = manifest, version
        self._generals = manifest.generals()
        self._changed()
        log.info("answering with %s, version %s", manifest.name, version[:12])

    def _floor(self) -> int:
        """Bytes of this process without any submodel."""
        return resident_bytes() - self._keeper.submodels_cost()

    def _compose(self, manifest: Manifest, version: str, base: LocalModel | None, room: int) -> Hierarchy:
        if self._log is None:
            return compose(self._settings, manifest, base, self._asks, room, self._tally)
        loaded = flight.loaded(base) if base is not None else None
        found = msgspec.structs.replace(self._settings, threads=max(1, self._keeper.threads))
        told = msgspec.convert(as_text(msgspec.to_builtins(found)), type(found))
        self._log.write(flight.Begun(told, version, loaded, self._asks, room))
        logged = compose(self._settings, manifest, base, self._asks, room, self._tally, flight.Logged)
        assert isinstance(logged, flight.Logged)
        logged.log = self._log
        return logged

    def _make_room(self, name: str) -> list[str]:
        """Let go of submodels before another is loaded, so that the two are never resident together over the
        budget; return their names."""
        assert self.hierarchy is not None and self.manifest is not None
        if self.hierarchy.submodels is None or name not in self.manifest.models:
            return []
        need = max(self._submodel_cost, GROWTH * self.manifest.models[name].bytes)
        return self.hierarchy.shrink(max(0, self.hierarchy.submodels.budget - need))

    def _slim(self) -> list[str]:
        """Let go of the full model, or else of the submodel used longest ago: the process has outgrown its budget,
        whatever the sum says."""
        assert self.hierarchy is not None
        if (full := self.hierarchy.full) is not None:  # the largest, and the server has it too
            self._no_full = "the process outgrew its budget"
            self.hierarchy.forgo()
            return [full.name]
        submodels = self.hierarchy.submodels
        if submodels is None or not submodels.names():
            release_memory()
            return []
        return self.hierarchy.shrink(submodels.cost() - 1)

    def _drop(self, names: list[str], reason: str) -> None:
        """Give back the memory of models that nothing refers to any more."""
        if names:
            self.evicted[reason] += len(names)
            log.info("dropped %s: %s", ", ".join(names), reason)
            release_memory()
            self._changed()
