"""What the task of a bundle decides on a device: frames, local models, the cascade, and questions to the full model.

The messages between a pipeline and its cascade are of the types of the task. Their users pass them on, so they are
``Any`` here.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from cachenet.edge_agent.device_cascade import (
    build_device_cascade,
    build_device_scene_cascade,
    local_detector,
    local_model,
)
from cachenet.edge_agent.frame_inputs import FrameInputs
from cachenet.edge_agent.outputs import decision_log
from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.settings import Settings
from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.detect.scene_cascade import SceneCascade
from cachenet.shared.cascade.detect.types import SceneFrame, SceneMiss, SceneReply
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.tally import Tally
from cachenet.shared.cascade.types import Miss, Reply
from cachenet.shared.inference.image import Input, Picture
from cachenet.shared.media.flow import MotionDetector
from cachenet.shared.media.signature import sign

#: The cascade of a classifier or of a detector.
DeviceCascade = Cascade | SceneCascade


class Pipeline(ABC):
    """The pipeline of one camera over one version of a bundle.

    Attributes:
        mode: Mode of requests to the server.
        budget_flag: Flag of the risk budget.
        budget: The risk budget.
    """

    #: Builds a cascade; its class without and with a decision log.
    _build: ClassVar[Callable[..., DeviceCascade]]
    _kind: ClassVar[type[DeviceCascade]]
    _logged_kind: ClassVar[type[DeviceCascade]]

    def __init__(self, settings: Settings, manifest: Manifest) -> None:
        self._settings, self._manifest = settings, manifest
        self.mode = settings.mode_for(manifest.task)
        self.budget_flag, self.budget = settings.budget_for(manifest.task)

    @abstractmethod
    def frame(self, index: int, picture: Picture) -> Any:
        """The next frame of the stream, for ``lookup``."""

    @abstractmethod
    def question(self, frame: Any, spec: Input) -> Picture:
        """The picture of a frame for ``CloudClient``; ``spec``: input of the full model."""

    @abstractmethod
    def local_model(
        self, name: str, session: Any, cost: int, seconds: float, base: bool, on_failure: Callable[[str], None]
    ) -> Any:
        """A loaded model for ``install``; see ``device_cascade.local_model``."""

    def build_cascade(
        self,
        base: Any,
        uses_cloud: bool,
        submodel_bytes: int,
        tally: Tally | None = None,
        log: JsonLinesWriter | None = None,
    ) -> DeviceCascade:
        """A new cascade; see ``device_cascade.build_device_cascade``. ``log``: decision log; None for none."""
        kind = self._kind if log is None else self._logged_kind
        cascade: Any = self._build(self._settings, self._manifest, base, uses_cloud, submodel_bytes, tally, kind)
        if log is not None:
            cascade.log = log
        result: DeviceCascade = cascade
        return result

    def warning(self, cascade: Any) -> str:  # noqa: ARG002
        """What the user must know of the cascade, once when it begins; empty otherwise."""
        return ""

    @abstractmethod
    def run_full(self, cascade: Any, miss: Any) -> Any:
        """Reply of the full model on the device to a miss; None without such a model, without the time for it before
        the deadline, or after a failed run."""


class Classification(Pipeline):
    """Pictures to labels."""

    _build = staticmethod(build_device_cascade)
    _kind, _logged_kind = Cascade, decision_log.LoggedCascade

    def frame(self, index: int, picture: Picture) -> Frame:
        return Frame(index, FrameInputs(picture), sign(picture))

    def question(self, frame: Frame, spec: Input) -> Picture:
        cropped: Picture = frame.view.crop(spec)
        return cropped

    def local_model(
        self, name: str, session: Any, cost: int, seconds: float, base: bool, on_failure: Callable[[str], None]
    ) -> Any:
        return local_model(self._manifest, name, session, cost, seconds, base, on_failure)

    def run_full(self, cascade: Cascade, miss: Miss) -> Reply | None:
        reply = cascade.run_full(miss, time.monotonic())
        return reply if reply is not None and np.ptp(reply.logits) > 0 else None


class Detection(Pipeline):
    """Pictures to objects."""

    _build = staticmethod(build_device_scene_cascade)
    _kind, _logged_kind = SceneCascade, decision_log.LoggedSceneCascade

    def __init__(self, settings: Settings, manifest: Manifest) -> None:
        super().__init__(settings, manifest)
        self._motion = MotionDetector()
        self._unattainable = False

    def frame(self, index: int, picture: Picture) -> SceneFrame:
        signature = sign(picture)
        return SceneFrame(index, picture, signature, *self._motion.update(picture))

    def question(self, frame: SceneFrame, spec: Input) -> Picture:  # noqa: ARG002
        whole: Picture = frame.view
        return whole

    def local_model(
        self, name: str, session: Any, cost: int, seconds: float, base: bool, on_failure: Callable[[str], None]
    ) -> Any:
        return local_detector(self._manifest, name, session, cost, seconds, base, on_failure)

    def warning(self, cascade: SceneCascade) -> str:
        before, self._unattainable = self._unattainable, cascade.unattainable
        if before or not cascade.unattainable:
            return ""
        return (
            f"an object error of {cascade.floor:.2f} is expected even with a question whenever one can be answered: "
            f"{self.budget_flag} {self.budget:g} cannot be met here, and the full model is not asked for a while"
        )

    def run_full(self, cascade: SceneCascade, miss: SceneMiss) -> SceneReply | None:
        full = cascade.full
        if full is None or time.monotonic() + full.seconds > miss.deadline:
            return None
        found = full.detect(miss.frame.view)
        return SceneReply(miss.frame.index, found, on_device=True) if found is not None else None


def pipeline_for(settings: Settings, manifest: Manifest) -> Pipeline:
    """A new pipeline for the task of the bundle."""
    return {"classification": Classification, "detection": Detection}[manifest.task](settings, manifest)
