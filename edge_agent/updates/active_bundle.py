"""The deployment: what this device answers with at present, and how it comes to answer with something else."""

from __future__ import annotations

import contextlib
import logging
import queue
from collections import Counter
from collections.abc import Callable

import msgspec
import numpy as np

from cachenet.edge_agent import learner_file
from cachenet.edge_agent.composition import DeploymentError, build_device_cascade, local
from cachenet.edge_agent.learner_file import LearnerFile
from cachenet.edge_agent.outputs import decision_log
from cachenet.edge_agent.outputs.report import Sink
from cachenet.edge_agent.settings import Settings, size
from cachenet.edge_agent.updates.loader import LoadedModel, ModelLoader, Ready
from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.cascade import Cascade, Tally
from cachenet.shared.cascade.model_cache import LocalModel
from cachenet.shared.cascade.probability import Probabilities
from cachenet.shared.command.file_names import as_text
from cachenet.shared.inference.engine import release_memory, resident_bytes

log = logging.getLogger(__name__)

#: Without ``--memory-budget`` the submodels may cost this much together.
ROOM = 256 << 20
#: A loaded model's resident size, as a multiple of its float16 file, until one has been measured.
GROWTH = 4
#: Frames between two looks at the resident set.
_CHECK_EVERY = 64
#: Frames in a row that need no cloud before a submodel is fetched that may be wanted next: the link is idle then.
_IDLE = 30


class ActiveBundle:
    """A bundle's cascade with the models that are loaded, which change under it while it answers."""

    def __init__(
        self,
        settings: Settings,
        keeper: ModelLoader,
        tally: Tally,
        asks: bool,
        changed: Callable[[], None],
        log: Sink | None = None,
        cameras: int = 1,
        traffic: Callable[[], int] = lambda: 0,
        learner: LearnerFile | None = None,
    ) -> None:
        """``asks``: whether there is a cloud that may be asked. ``changed`` is called when another version answers, or
        models have come or gone. ``log``: where every call into the cascade is written down. ``cameras``: how many
        share the room for submodels, each an equal part. ``traffic``: bytes that questions and answers have taken.
        ``learner``: where what was learned is kept across restarts; None for nowhere."""
        self.cascade: Cascade | None = None
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
        self._cameras, self._traffic, self._learner = cameras, traffic, learner
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
        cache = self.cascade.submodels if self.cascade is not None else None
        return cache.names() if cache is not None else ()

    @property
    def resident(self) -> tuple[str, ...]:
        """Names of all models in memory that answer for this camera."""
        if self.cascade is None:
            return ()
        others = (self.cascade.base, self.cascade.full)
        return (*self.submodels, *(model.name for model in others if model is not None))

    def wait(self, seconds: float) -> bool:
        """Take what comes first, if it comes in time; whether there is something to answer with. Raises
        ``DeploymentError`` if there never will be."""
        self._follow()
        if self.cascade is None:
            with contextlib.suppress(queue.Empty):
                self._take(self._ready.get(timeout=seconds))
            self._follow()
            if self._keeper.hopeless:
                raise DeploymentError(self._keeper.trouble)
        return self.cascade is not None

    def complete(self) -> bool:
        """Go on as ``tend`` does; whether every model is here that may be used and can be had now."""
        self.tend()
        return not self._generals and (bool(self._keeper.trouble) or not self._keeper.busy(self._ready))

    def tend(self) -> None:
        """Between two frames: loaded models in, dropped ones out."""
        assert self.cascade is not None
        grown = self._tally.frames % _CHECK_EVERY == 0
        with contextlib.suppress(queue.Empty):
            while True:
                self._drop(self._take(self._ready.get_nowait()), "room")
                grown = True
        self._follow()
        # A newer catalogue's models are of no use before its base model is there.
        if self._keeper.version == self.version:
            self._fetch(self.cascade)
            self._fetch_full(self.cascade)
        if grown and self._budget is not None and resident_bytes() > self._budget:
            self._drop(self._slim(), "memory")

    def _fetch(self, cascade: Cascade) -> None:
        """Have the recommended submodel loaded; or else, if the link is idle, have the next likely one put by."""
        if (questions := self._tally.cloud + self._tally.fallbacks) != self._questions:
            self._questions, self._last_question = questions, self._tally.frames
        if (pending_fetch := cascade.pending_fetch) is not None:
            if not self._keeper.pending(pending_fetch, self._ready):
                self._drop(self._make_room(pending_fetch), "room")
                self._keeper.want(pending_fetch, self._ready)
        elif self._generals:
            self._fetch_general(cascade)
        elif (
            self._settings.prefetch
            and self._tally.frames == self._last_question + _IDLE
            and cascade.submodels is not None
            and (next_ := cascade.submodels.recommend(self._not_here())) is not None
        ):
            self._keeper.put_by(next_)

    def _fetch_general(self, cascade: Cascade) -> None:
        """Have the next general model loaded, if there is room: nobody recommends it, for it may know no more than the
        base model, but on a small device it may know most of that in less time."""
        assert self.manifest is not None
        cache, name = cascade.submodels, self._generals[0]
        need = max(self._submodel_cost, GROWTH * self.manifest.models[name].bytes)
        if cache is not None and cache.cost() + need <= cache.budget:
            self._keeper.want(name, self._ready)
        self._generals.remove(name)

    def _fetch_full(self, cascade: Cascade) -> None:
        """Have the full model itself loaded, where asking takes longer than it would, or there is nobody to ask."""
        settings, manifest = self._settings, self.manifest
        if "full" not in settings.levels or settings.mode == "async" or cascade.full is not None or self._no_full:
            return
        assert manifest is not None
        name, base = manifest.only("full"), cascade.base
        if base is None or base.name == name or self._keeper.pending(name, self._ready):
            return
        full, own = manifest.models[name], manifest.models[base.name]
        if self._asks and not cascade.router.is_slow(base.seconds * full.milliseconds / max(own.milliseconds, 1e-3)):
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
        assert self.manifest is not None and self.cascade is not None and self.cascade.submodels is not None
        room = self.cascade.submodels.budget
        names = [
            name
            for name in self.manifest.submodels()
            if not self._keeper.has(name) and GROWTH * self.manifest.models[name].bytes <= room
        ]
        return {name: np.array(self.manifest.models[name].coverage) for name in names}

    def _take(self, loaded: LoadedModel) -> list[str]:
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
        elif self.cascade is not None and loaded.version == self.version:
            if model.role == "submodel":
                self._submodel_cost = max(self._submodel_cost, loaded.cost)
            gone = self.cascade.install(own)
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
            if self.cascade is None:
                raise
            log.error("going on with version %s: %s", self.version[:12], error)

    def _replace(self, manifest: Manifest, version: str, base: LocalModel | None) -> None:
        if self._budget is not None and (floor := self._floor()) > self._budget:
            raise DeploymentError(
                f"memory budget {self._settings.memory_budget} is under the {floor / 1e6:.0f} MB that this process "
                f"needs with {manifest.name}'s base model alone; give more"
            )
        if self.cascade is not None:  # nothing can go wrong any more
            self._drop(self.cascade.evict_to(0), "version")
        room = ROOM if self._budget is None else max(0, self._budget - self._floor())
        self.cascade = self._compose(manifest, version, base, room // self._cameras)
        self.manifest, self.version = manifest, version
        self._generals = manifest.generals()
        self._changed()
        log.info("answering with %s, version %s", manifest.name, version[:12])

    def _floor(self) -> int:
        """Bytes of this process without any submodel."""
        return resident_bytes() - self._keeper.submodels_cost()

    def _compose(self, manifest: Manifest, version: str, base: LocalModel | None, room: int) -> Cascade:
        learned = self._learner.read() if self._learner is not None else b""
        if self._log is None:
            cascade = build_device_cascade(self._settings, manifest, base, self._asks, room, self._tally)
        else:
            loaded = decision_log.loaded(base) if base is not None else None
            found = msgspec.structs.replace(self._settings, threads=max(1, self._keeper.threads))
            told = msgspec.convert(as_text(msgspec.to_builtins(found)), type(found))
            self._log.write(decision_log.Begun(told, version, loaded, self._asks, room, learned))
            cascade = build_device_cascade(
                self._settings, manifest, base, self._asks, room, self._tally, decision_log.LoggedCascade
            )
            assert isinstance(cascade, decision_log.LoggedCascade)
            cascade.log = self._log
        learner_file.restore(cascade.estimator, learned, version)
        if self._learner is not None:
            self._learner.begin(cascade.estimator)
        return cascade

    def _make_room(self, name: str) -> list[str]:
        """Let go of submodels before another is loaded, so that the two are never resident together over the
        budget; return their names."""
        assert self.cascade is not None and self.manifest is not None
        if self.cascade.submodels is None or name not in self.manifest.models:
            return []
        need = max(self._submodel_cost, GROWTH * self.manifest.models[name].bytes)
        return self.cascade.evict_to(max(0, self.cascade.submodels.budget - need))

    def _slim(self) -> list[str]:
        """Let go of the full model, or else of the submodel used longest ago: the process has outgrown its budget,
        whatever the sum says."""
        assert self.cascade is not None
        if (full := self.cascade.full) is not None:  # the largest, and the server has it too
            self._no_full = "the process outgrew its budget"
            self.cascade.unload_full()
            return [full.name]
        submodels = self.cascade.submodels
        if submodels is None or not submodels.names():
            release_memory()
            return []
        return self.cascade.evict_to(submodels.cost() - 1)

    def _drop(self, names: list[str], reason: str) -> None:
        """Give back the memory of models that nothing refers to any more."""
        if names:
            self.evicted[reason] += len(names)
            log.info("dropped %s: %s", ", ".join(names), reason)
            release_memory()
            self._changed()
