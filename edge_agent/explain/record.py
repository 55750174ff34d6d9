"""One answered frame with all that is known of it: the material of an explanation."""

from __future__ import annotations

from dataclasses import dataclass

from cachenet.edge_agent.outputs.report import AnyAnswer
from cachenet.edge_agent.settings import Settings
from cachenet.shared.bundle.manifest import Task
from cachenet.shared.cascade.decision import Attempt, Decision
from cachenet.shared.cascade.detect.detections import Detections, counts, f1
from cachenet.shared.cascade.detect.scene_replay import objects_of
from cachenet.shared.cascade.detect.types import SceneAnswer


@dataclass(frozen=True, slots=True)
class Check:
    """The full model's answer to a frame that the device had answered.

    Attributes:
        audit: Whether the frame is an audited hit; a fallback otherwise.
        answer: The full model's label, or its objects.
        seconds: Time from the lookup to this answer, seconds.
    """

    audit: bool
    answer: int | Detections
    seconds: float


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One answered frame.

    Attributes:
        answer: The answer of the cascade.
        decision: What the lookup has tried; None where that was not recorded.
        labels: Labels of the bundle; empty where they are unknown.
        settings: Settings of the camera.
        asks: Whether misses may be sent to a server.
        seconds: Time from the lookup to the answer, seconds; None where it is unknown.
        check: The full model's answer after the device's; None without one.
    """

    answer: AnyAnswer
    decision: Decision | None
    labels: tuple[str, ...]
    settings: Settings
    asks: bool
    seconds: float | None = None
    check: Check | None = None

    @property
    def task(self) -> Task:
        """Task of the bundle."""
        return "detection" if isinstance(self.answer, SceneAnswer) else "classification"

    @property
    def best(self) -> Attempt | None:
        """The attempt whose answer the device gives, or would give; None where none is recorded."""
        attempts = self.decision.attempts if self.decision is not None else ()
        own = [one for one in attempts if one.risk == self.answer.risk and one.level == self.answer.level]
        own = own or [one for one in attempts if one.model] or list(attempts)
        return min(own, key=lambda one: one.risk, default=None)

    @property
    def error(self) -> float | None:
        """Error of the device's answer by ``check``: whether the label differs, or the object error; None without."""
        if self.check is None:
            return None
        if isinstance(self.answer, SceneAnswer):
            assert isinstance(self.check.answer, Detections)
            return 1.0 - f1(*counts(objects_of(self.answer), self.check.answer))
        return float(self.answer.label is not None and self.answer.label != self.check.answer)

    def label(self, index: int | None) -> str:
        """Name of a label; its number where the names are unknown."""
        if index is None:
            return "unknown"
        return self.labels[index] if index < len(self.labels) else f"label {index}"
