"""Base models with frames: CIFAR-10's, and one of a camera's state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto

from benchmarks import real_tasks
from benchmarks.literature import cifar_scores, clip
from benchmarks.literature.row import Inputs
from benchmarks.real.recording import record
from benchmarks.real.task import Task
from cachenet.models.certify import traces
from cachenet.models.export.cost import Cost, model_cost
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.bundle.zoo import DIRECTORY
from cachenet.shared.inference.image import Input, Picture, crop, encode

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """Frames: pictures as the base model sees them, BGR, and the logits of full and base model ``(n, classes)``."""

    pictures: list[Picture]
    full: Logits
    base: Logits

    def __len__(self) -> int:
        return len(self.full)


@dataclass(frozen=True)
class Case:
    """A base model with frames.

    Attributes:
        name: Name of the task.
        base: The base model.
        spec: Its preprocessing.
        small: A smaller model for the same labels, with its preprocessing.
        full: Cost of the full model.
        request: Size of a request's picture, bytes.
        learn, tune, test: Frames that exits are trained on, chosen on and measured on.
        teacher: Logits that exits learn ``(n, classes)``.
        block: Frames that a bootstrap draws together.
    """

    name: str
    base: ModelProto
    spec: Input
    small: tuple[ModelProto, Input]
    full: Cost
    request: int
    learn: Part
    tune: Part
    test: Part
    teacher: Logits
    block: int


def cifar(inputs: Inputs) -> Case:
    """CIFAR-10's base model. Its exits learn the base model's logits, as those of a full model learn that model's."""
    bundle = Bundle(DIRECTORY / "cifar10")
    models, full = bundle.manifest.models, bundle.manifest.only("full")
    small = next(name for name in bundle.manifest.general_models() if name != "base")
    parts = {}
    for name in ("train", "held_out", "test"):
        base = cifar_scores.logits(inputs, bundle, "base", name)
        other = base if name == "train" else cifar_scores.logits(inputs, bundle, full, name)
        parts[name] = Part(traces.as_pictures(cifar_scores.split(name, inputs.smoke).images), other, base)
    graph = onnx.load(str(bundle.path(full)))
    return Case(
        "cifar10",
        onnx.load(str(bundle.path("base"))),
        models["base"].input,
        (onnx.load(str(bundle.path(small))), models[small].input),
        model_cost(graph, models[full].input.size),
        _request(parts["test"].pictures),
        parts["train"],
        parts["held_out"],
        parts["test"],
        parts["train"].base,
        1,
    )


def camera(inputs: Inputs) -> Case:
    """The task ``ob`` of ``../shared/data/state``. Raises ``UserError`` if its files are not there."""
    name, spec = "ob", real_tasks.INPUT
    found = clip.existing(name, inputs.data)
    full, base = found.full, found.base
    learn, tune, play = parts = clip.parts(inputs.smoke)
    task = Task(name, full, found.video, found.region, full, base, "imagenet", (), None, learn, tune, play)
    inputs.say(f"{name}: both models on {sum(end - first for first, end in parts)} frames")
    recordings = record(task, inputs.work.parent / "recordings")
    pictures = clip.region_pictures(found.video, found.region, 0, play[1])
    request = _request(pictures[slice(*play)][:50], spec)
    first, second, third = (
        Part([crop(one, spec) for one in pictures[slice(*part)]], recording.full, recording.base)
        for part, recording in zip(parts, (recordings.held_out, recordings.tune, recordings.play), strict=True)
    )
    graph = onnx.load(str(base))
    cost = model_cost(onnx.load(str(full)), spec.size)
    return Case(name, graph, spec, _smaller(graph, spec), cost, request, first, second, third, first.full, 40)


def _request(pictures: Sequence[Picture], spec: Input | None = None) -> int:
    """Median size of an encoded picture, cropped for a model of ``spec``, bytes."""
    shown = [one if spec is None else crop(one, spec) for one in pictures]
    return int(np.median([len(encode(one)[1]) for one in shown]))


def _smaller(model: ModelProto, spec: Input) -> tuple[ModelProto, Input]:
    """The same weights for pictures of two thirds of the side: about 4/9 of the multiply-adds."""
    side = spec.side * 2 // 3 // 32 * 32
    changed = ModelProto()
    changed.CopyFrom(model)
    for size in changed.graph.input[0].type.tensor_type.shape.dim[2:]:
        size.dim_value = side
    del changed.graph.value_info[:]
    return changed, msgspec.structs.replace(spec, side=side)
