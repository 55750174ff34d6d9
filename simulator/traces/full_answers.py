"""The full model's answer to every frame of a stream, from the log or computed as a server computes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from cachenet.edge_agent.frame_inputs import FrameInputs
from cachenet.edge_agent.outputs.decision_log import LoggedObjects, LoggedReply
from cachenet.edge_agent.outputs.report import AnyAnswer
from cachenet.edge_agent.pipeline import Pipeline
from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.detect.detections import counts, f1
from cachenet.shared.cascade.detect.scene_replay import objects_of
from cachenet.shared.cascade.detect.types import LocalDetector, SceneAnswer, SceneReply
from cachenet.shared.cascade.types import Reply
from cachenet.shared.inference.image import encode, wire_picture
from cachenet.shared.media.pictures import decode


class FullAnswers:
    """The full model's answers to the frames of one stream, one frame at a time.

    Attributes:
        computed: Number of frames whose answer was computed.
    """

    def __init__(
        self, manifest: Manifest, pipeline: Pipeline, model: Any, logged: Mapping[int, LoggedReply | LoggedObjects]
    ) -> None:
        """
        Args:
            model: The full model, as ``Pipeline.local_model`` gives it.
            logged: The replies of the log, by frame.
        """
        self._spec = manifest.models[manifest.only("full")].input
        self._pipeline, self._model, self._logged = pipeline, model, logged
        self._frame: Any = None
        self._reply: Any = None
        self._bytes: bytes | None = None
        self.computed = 0

    def begin(self, frame: Any) -> None:
        """Go on to the next frame of the cascade."""
        self._frame, self._reply, self._bytes = frame, None, None

    @property
    def nbytes(self) -> int:
        """Size of the picture of a question about the frame, bytes."""
        return len(self._picture())

    def reply(self, on_device: bool = False) -> Any:
        """The full model's reply about the frame; it recommends no submodel unless the log has the reply."""
        if self._reply is None:
            self._reply = self._logged_reply() or self._computed()
        return msgspec.structs.replace(self._reply, on_device=on_device)

    def error(self, answer: AnyAnswer) -> float:
        """Error of an answer to the frame: whether the label differs, or the object error; 0 for ``unknown``."""
        reply = self.reply()
        if isinstance(answer, SceneAnswer):
            return 1.0 - f1(*counts(objects_of(answer), reply.detections))
        return float(answer.label is not None and answer.label != reply.label)

    def _logged_reply(self) -> Any:
        logged = self._logged.get(self._frame.index)
        return None if logged is None else logged.reply()

    def _computed(self) -> Any:
        self.computed += 1
        picture, index = decode(self._picture()), self._frame.index
        if isinstance(self._model, LocalDetector):
            found = self._model.detect(picture)
            assert found is not None
            return SceneReply(index, found)
        return Reply(index, np.asarray(self._model.score(FrameInputs(picture)), np.float32))

    def _picture(self) -> bytes:
        if self._bytes is None:
            question = self._pipeline.question(self._frame, self._spec)
            whole = isinstance(self._model, LocalDetector)
            self._bytes = encode(wire_picture(question, self._spec) if whole else question)[1]
        return self._bytes
