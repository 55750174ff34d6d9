"""The active bundle of one camera: its cascade, and the installation and eviction of models while it answers."""

from __future__ import annotations

import contextlib
import logging
import queue
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from cachenet.edge_agent import learner_file, learner_state
from cachenet.edge_agent.device_cascade import DeploymentError
from cachenet.edge_agent.learner_file import LearnerFile
from cachenet.edge_agent.learner_state import LearnerState
from cachenet.edge_agent.outputs import decision_log
from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.pipeline import DeviceCascade, Pipeline, pipeline_for
from cachenet.edge_agent.settings import Settings, parse_size
from cachenet.edge_agent.updates.loader import LoadedModel, ModelLoader, ReadyQueue
from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.tally import Tally
from cachenet.shared.command.file_names import as_text
from cachenet.shared.inference.engine import release_memory, resident_bytes

log = logging.getLogger(__name__)

#: Bytes that all submodels may use together, without a ``memory_budget``.
DEFAULT_SUBMODEL_BUDGET = 256 << 20
#: Resident size of a loaded model as a multiple of its float16 file, until a size has been measured.
RESIDENT_BYTES_PER_FILE_BYTE = 4
#: Frames between two checks of the resident set against the memory budget.
_CHECK_EVERY = 64
#: Frames between two looks at the growth of the resident set.
_LOOK_EVERY = 8
#: Growth of the resident set after which freed memory is returned to the system, bytes. A detector's activations
#: fragment the heap: with FastestDet on vtest.avi the process had 213 MB at most without this, and has 168 MB.
_MAX_GROWTH = 16 << 20


class ActiveBundle:
    """A bundle's cascade with the models that are loaded. Models are installed and evicted between two frames."""

    def __init__(
        self,
        settings: Settings,
        loader: ModelLoader,
        tally: Tally,
        uses_cloud: bool,
        on_change: Callable[[], None],
        log: JsonLinesWriter | None = None,
        cameras: int = 1,
        traffic: Callable[[], int] = lambda: 0,
        learner: LearnerFile | None = None,
    ) -> None:
        """
        Args:
            uses_cloud: Whether misses may be sent to a server.
            on_change: Called after another version has taken over, or models were installed or evicted.
            log: Decision log; None for none.
            cameras: Number of cameras that share the submodel budget, in equal parts.
            traffic: Returns the payload bytes of requests and replies so far.
            learner: File of the learner state; None: nothing is saved.
        """
        self.cascade: DeviceCascade | None = None
        self.pipeline: Pipeline | None = None
        self.manifest: Manifest | None = None
        self.version = ""
        #: See ``Manifest.risk_version``.
        self.risk_version = ""
        #: Names of the submodels that were downloaded.
        self.downloaded: list[str] = []
        #: Evicted models by reason: ``room`` for another submodel, ``memory`` budget exceeded, or a new ``version``.
        self.evicted: Counter[str] = Counter()
        #: Failed runs by model.
        self.failures: Counter[str] = Counter()
        self._ready: ReadyQueue = queue.SimpleQueue()
        self._cameras, self._traffic, self._learner = cameras, traffic, learner
        self._settings, self._loader, self._tally = settings, loader, tally
        self._uses_cloud, self._on_change, self._log = uses_cloud, on_change, log
        self._budget = parse_size(settings.memory_budget) if settings.memory_budget else None
        #: Versions that cannot be used with these settings.
        self._rejected_versions: set[str] = set()
        #: Largest measured cost of a submodel, bytes.
        self._submodel_cost = 0
        #: Submodels that have not been requested yet and are not recommended.
        self._initial_submodels: list[str] = []
        #: Resident set when freed memory was last returned to the system, bytes.
        self._returned = 0
        #: Whether the full model does not fit on the device.
        self._full_is_too_large = False

    @property
    def submodels(self) -> tuple[str, ...]:
        """Names of the resident submodels."""
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
        """Wait for the first model, ``seconds`` at most.

        Returns:
            Whether the cascade exists.

        Raises:
            DeploymentError: The bundle cannot be used, so that the wait would never end.
        """
        self._follow_target()
        if self.cascade is None:
            with contextlib.suppress(queue.Empty):
                self._install(self._ready.get(timeout=seconds))
            self._follow_target()
            if self._loader.is_fatal:
                raise DeploymentError(self._loader.error)
        return self.cascade is not None

    def is_complete(self) -> bool:
        """Do maintenance; then, whether every model that is available now is installed."""
        self.maintain()
        return not self._initial_submodels and (bool(self._loader.error) or not self._loader.is_busy(self._ready))

    def maintain(self) -> None:
        """Between two frames: install loaded models, request others, and evict models over the memory budget."""
        assert self.cascade is not None
        check = self._tally.frames % _CHECK_EVERY == 0
        with contextlib.suppress(queue.Empty):
            while True:
                self._release(self._install(self._ready.get_nowait()), "room")
                check = True
        self._follow_target()
        if self._loader.version == self.version:  # otherwise these models are about to be replaced
            self._request_submodel(self.cascade)
            self._request_full(self.cascade)
        if self._tally.frames % _LOOK_EVERY == 0 and resident_bytes() > self._returned + _MAX_GROWTH:
            release_memory()
            self._returned = resident_bytes()
        if check and self._budget is not None and resident_bytes() > self._budget:
            self._release(self._relieve_memory(), "memory")

    def _request_submodel(self, cascade: DeviceCascade) -> None:
        """Request the recommended submodel, or else the next initial one if its budget has space.

        General classifiers are never recommended: they may know no more labels than the base model. On a small device
        they may answer most frames in less time.
        """
        if (name := cascade.pending_fetch) is not None:
            if not self._loader.is_pending(name, self._ready):
                self._release(self._make_room(name), "room")
                self._loader.request(name, self._ready)
        elif self._initial_submodels:
            name, cache = self._initial_submodels.pop(0), cascade.submodels
            if cache is not None and cache.cost() + self._expected_cost(name) <= cache.max_bytes:
                self._loader.request(name, self._ready)

    def _request_full(self, cascade: DeviceCascade) -> None:
        """Request the full model if the cloud is slower than the device would be, or there is no cloud."""
        manifest, pipeline = self.manifest, self.pipeline
        assert manifest is not None and pipeline is not None
        if "full" not in self._settings.levels or cascade.full is not None or self._full_is_too_large:
            return
        if self._settings.mode == "async" or (self._uses_cloud and pipeline.mode == "async"):
            return  # no frame waits for a full model
        name, base = manifest.only("full"), cascade.base
        if base is None or base.name == name or self._loader.is_pending(name, self._ready):
            return
        full, own = manifest.models[name], manifest.models[base.name]
        on_device_s = base.seconds * full.milliseconds / max(own.milliseconds, 1e-3)
        if self._uses_cloud and not cascade.router.is_slow(on_device_s):
            return
        if self._uses_cloud and not self._loader.is_local(name) and self._traffic() < full.bytes:
            return  # the download then costs at most as much as the requests did: competitive ratio 2
        growth = 0 if self._loader.is_loaded(name) else RESIDENT_BYTES_PER_FILE_BYTE * full.bytes
        if self._budget is not None and resident_bytes() + growth > self._budget:
            self._full_is_too_large = True
            log.info("%s stays on the server: it does not fit into the memory budget", name)
            return
        self._loader.request(name, self._ready)

    def _install(self, loaded: LoadedModel) -> list[str]:
        """Install a loaded model; return the names of the models evicted for it."""
        model = loaded.manifest.models[loaded.name]
        if loaded.first and (loaded.version == self.version or loaded.version in self._rejected_versions):
            return []  # delivered twice
        if loaded.downloaded and model.role == "submodel":
            self.downloaded.append(loaded.name)

        def on_failure(reason: str) -> None:
            self.failures[loaded.name] += 1
            self._loader.on_failure(loaded.version, reason)

        own = pipeline_for(self._settings, loaded.manifest).local_model(
            loaded.name, loaded.session, loaded.cost, loaded.seconds, loaded.first, on_failure
        )
        if loaded.first:
            self._deploy(loaded.manifest, loaded.version, own)
        elif self.cascade is not None and loaded.version == self.version:
            if model.role == "submodel":
                self._submodel_cost = max(self._submodel_cost, loaded.cost)
            evicted = self.cascade.install(own)
            self._on_change()
            return evicted
        return []

    def _follow_target(self) -> None:
        """Deploy the loader's target: at once if no model runs here, otherwise after its first model is loaded."""
        target = self._loader.target
        if target is None or target[1] == self.version or target[1] in self._rejected_versions:
            return
        if self._settings.local:
            self._loader.request_first(self._ready)
        else:
            self._deploy(*target, None)

    def _deploy(self, manifest: Manifest, version: str, base: Any) -> None:
        """Replace the active bundle. A new version that cannot be used changes nothing.

        Args:
            base: The base model, as ``Pipeline.local_model`` gives it; None if no model runs on the device.

        Raises:
            DeploymentError: The first bundle cannot be used.
        """
        try:
            self._replace(manifest, version, base)
        except DeploymentError as error:
            self._rejected_versions.add(version)
            if self._loader.on_failure(version, str(error)):
                return
            if self.cascade is None:
                raise
            log.error("going on with version %s: %s", self.version[:12], error)

    def _replace(self, manifest: Manifest, version: str, base: Any) -> None:
        if self._settings.zone and self.manifest is not None and manifest.task != self.manifest.task:
            raise DeploymentError(
                f"{manifest.name} is for {manifest.task} now, and there are zones; start again with another --store"
            )
        if self._budget is not None and (needed := self._bytes_without_submodels()) > self._budget:
            raise DeploymentError(
                f"memory budget {self._settings.memory_budget} is under the {needed / 1e6:.0f} MB that this process "
                f"needs with {manifest.name}'s base model alone; give more"
            )
        if self.cascade is not None:  # no error is possible after this line
            self._release(self.cascade.evict_to(0), "version")
        budget = (
            DEFAULT_SUBMODEL_BUDGET if self._budget is None else max(0, self._budget - self._bytes_without_submodels())
        )
        self.pipeline = pipeline_for(self._settings, manifest)
        risk_version = manifest.risk_version
        learned = self._learned(risk_version)
        self.cascade = self._build_cascade(manifest, version, base, budget // self._cameras, learned)
        learner_file.restore(self.cascade.estimator, learned, risk_version)
        if self._learner is not None:
            self._learner.begin(self.cascade.estimator)
        self.manifest, self.version, self.risk_version = manifest, version, risk_version
        self._initial_submodels = manifest.initial_submodels(self._settings.device)
        self._on_change()
        log.info("answering with %s, version %s", manifest.name, version[:12])

    def _bytes_without_submodels(self) -> int:
        return resident_bytes() - self._loader.submodels_cost()

    def _learned(self, risk_version: str) -> bytes:
        """The state of the risk models to go on with: of the bundle before, if it is valid, or else of the file."""
        if self.cascade is not None and self.risk_version == risk_version:
            own: Any = self.cascade.estimator
            return learner_state.encode(LearnerState(own.state, own.fitted), risk_version)
        return self._learner.read() if self._learner is not None else b""

    def _build_cascade(self, manifest: Manifest, version: str, base: Any, budget: int, learned: bytes) -> DeviceCascade:
        pipeline = self.pipeline
        assert pipeline is not None
        if self._log is not None:
            logged = decision_log.logged_model(base) if base is not None else None
            settings = msgspec.structs.replace(self._settings, threads=max(1, self._loader.threads))
            settings = msgspec.convert(as_text(msgspec.to_builtins(settings)), Settings)
            begun = decision_log.CascadeCreated(
                settings, version, logged, self._uses_cloud, budget, learned, tuple(manifest.labels)
            )
            self._log.write(begun)
        return pipeline.build_cascade(base, self._uses_cloud, budget, self._tally, self._log)

    def _expected_cost(self, name: str) -> int:
        """Expected resident size of a submodel, bytes."""
        assert self.manifest is not None
        return max(self._submodel_cost, RESIDENT_BYTES_PER_FILE_BYTE * self.manifest.models[name].bytes)

    def _make_room(self, name: str) -> list[str]:
        """Evict submodels before another is loaded, so that both together never exceed the budget."""
        assert self.cascade is not None and self.manifest is not None
        if self.cascade.submodels is None or name not in self.manifest.models:
            return []
        return self.cascade.evict_to(max(0, self.cascade.submodels.max_bytes - self._expected_cost(name)))

    def _relieve_memory(self) -> list[str]:
        """Over the memory budget: unload the full model, or else the least recently used submodel."""
        assert self.cascade is not None
        if (full := self.cascade.full) is not None:  # the largest model, and the server has it
            self._full_is_too_large = True
            self.cascade.unload_full()
            return [full.name]
        submodels = self.cascade.submodels
        if submodels is None or not submodels.names():
            release_memory()
            return []
        return self.cascade.evict_to(submodels.cost() - 1)

    def _release(self, names: list[str], reason: str) -> None:
        """Count evicted models and return their memory to the system."""
        if names:
            self.evicted[reason] += len(names)
            log.info("dropped %s: %s", ", ".join(names), reason)
            release_memory()
            self._on_change()
