"""The row ``compression``: the full model pruned, distilled and in INT8; detectors in INT8; sparse patterns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from onnx import ModelProto, numpy_helper

from benchmarks.literature import cifar_scores
from benchmarks.literature.compression import detectors, pruning, sparsity
from benchmarks.literature.row import Inputs, Measurement, Row
from benchmarks.literature.timing import RUNS, seconds
from cachenet.models.data import cifar10
from cachenet.models.data.cifar10 import Cifar10, Images, Split
from cachenet.models.export import quantise
from cachenet.models.export.graph_edit import ending_in
from cachenet.models.report.confidence_interval import interval
from cachenet.models.train import pair
from cachenet.models.train.training import normalise
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.engine import session_options

FULL = Path("models/zoo/cifar10/full/1/model.onnx")
#: Share of the channels between the convolutions of the residual blocks that pruning removes.
_RATIO = 0.65
#: Checkpoints of the distillation.
_STAGES = 40
#: Held-out images that the weights of the two networks' scores come from, and test images of INT8.
_HELD, _TEST_INT8 = 500, 2000
#: Training images that INT8 ranges come from.
_CALIBRATION = 100
#: Images of a batch.
_BATCH = 50
#: Bars: speed of the full model and of a detector; loss of accuracy and of average precision.
_FASTER, _POINTS = 1.8, 0.003
_DETECTOR_FASTER, _AP = 1.5, 0.01
Logits = npt.NDArray[np.float32]


def measure(inputs: Inputs) -> Measurement:
    """All figures. Raises ``UserError`` if a clip is missing."""
    torch.set_num_threads(1)
    full_model = _full_model(inputs)
    found = {"full_model": full_model, "detectors": _detectors(inputs), "as_they_are": _as_they_are(_runs(inputs))}
    pruned = full_model["pruned"]
    pays = pruned["faster"] >= _FASTER and pruned["points"]["interval"][0] >= -_POINTS
    fine = [
        row["faster"] >= _DETECTOR_FASTER and row["ap50"] >= 1 - _AP
        for variants in found["detectors"].values()
        for row in variants.values()
    ]
    return Measurement(pruned["faster"], "times faster: pruned and distilled full model", bool(pays), found | {
        "detectors_that_pay": sum(fine)
    })  # fmt: skip


def _full_model(inputs: Inputs) -> dict[str, dict[str, Any]]:
    """Time and accuracy of the full model, of its parts, and of its pruned forms."""
    data = _data(inputs.smoke)
    full = quantise.folded(onnx.load(str(FULL)))
    teacher = pruning.residual_part(full)
    pruning.restore_statistics(teacher, data.train.images[:256])
    inputs.say("pruning: a minute or two")
    ratio = 0.79 if inputs.smoke else _RATIO  # the smoke run's least squares are small
    start, small = (pruning.started(teacher, data, ratio, inputs.work / "pruned.pt") for _ in range(2))
    inputs.say("distillation: half an hour of one core")
    if not inputs.smoke:
        pruning.distil(small, teacher, data, _STAGES, inputs.work / "distilled.pt", inputs.say)
    inputs.say("accuracy: five minutes of one core")
    test, held = data.test, _first(data.held_out, _HELD)
    both = Split(np.concatenate([test.images, held.images]), np.concatenate([test.labels, held.labels]))
    head = numpy_helper.to_array(next(one for one in full.graph.initializer if one.name == "head.weight"))
    bias = numpy_helper.to_array(next(one for one in full.graph.initializer if one.name == "head.bias"))
    embedding = _outputs(ending_in(full, "embedding"), both.images, inputs.work / "full.npy")
    lite = embedding[:, : pruning.LITE_CHANNELS] @ head[:, : pruning.LITE_CHANNELS].T + bias
    rest = embedding[:, pruning.LITE_CHANNELS :] @ head[:, pruning.LITE_CHANNELS :].T

    def shares(logits: Logits) -> pair.Shares:
        first, second = (torch.from_numpy(np.ascontiguousarray(one[len(test) :])) for one in (lite, logits))
        return pair.fit(first, second, torch.from_numpy(held.labels))

    rows: dict[str, dict[str, Any]] = {}
    scored = {"full": lite + rest, "EfficientNet-Lite0 alone": lite, "residual network alone": rest}
    graphs = {
        "full": full,
        "EfficientNet-Lite0 alone": ending_in(full, "lite.embedding"),
        "residual network alone": ending_in(full, "resnet.embedding"),
    }
    for name, network in (("pruned, not distilled", start), ("pruned", small)):
        own = _torch_outputs(network.eval(), both.images, inputs.work / f"{name}.npy")
        weights = shares(own)
        scored[name] = weights[0] * lite + weights[1] * own
        graphs[name] = pruning.with_part(full, network, weights)
    images = normalise(data.train.images[:_CALIBRATION], cifar10.INPUT).numpy()
    kinds = ("Gemm",) if inputs.smoke else None
    graphs["full, INT8"] = quantise.int8(full, images, kinds)
    graphs["pruned, INT8"] = quantise.int8(graphs["pruned"], images, kinds)
    few = _first(test, _TEST_INT8)
    for name in ("full, INT8", "pruned, INT8"):
        scored[name] = _outputs(graphs[name], few.images, inputs.work / f"{name}.npy")
    took = dict(zip(graphs, seconds(list(graphs.values()), runs=_runs(inputs)), strict=True))
    full_right = _right(scored["full"], test)
    for name in graphs:
        right = _right(scored[name], test)
        difference = right - full_right[: len(right)]
        rows[name] = {
            "faster": took["full"] / took[name],
            "accuracy": float(right.mean()),
            "points": interval(difference.tolist()),
        }
    return rows


def _detectors(inputs: Inputs) -> dict[str, Any]:
    names = detectors.NAMES[-1:] if inputs.smoke else detectors.NAMES
    found = {}
    for left, name in zip(range(len(names), 0, -1), names, strict=True):
        inputs.say(f"INT8 of {name}: {left} detectors left, a minute of one core each")
        path = inputs.work / "detectors" / f"{name}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = detectors.measure(name, inputs)
            atomic_files.write(path, json.dumps(rows).encode())
        found[name] = json.loads(path.read_text())
    return found


def _as_they_are(runs: int) -> dict[str, float]:
    """Time of the dense form relative to the sparse or separable one."""
    full = quantise.folded(onnx.load(str(FULL)))
    part = ending_in(full, "resnet.embedding")
    dense, sparse = seconds([part, sparsity.with_patterns(part)], runs=runs)
    found = {"pattern sparsity, residual network": dense / sparse}
    for channels, side in ((64, 28), (96, 13)):
        graphs = [sparsity.interpolation(channels, side, separable) for separable in (False, True)]
        once, apart = seconds(graphs, runs=runs)
        found[f"separable interpolation, {channels} channels, {side} to {2 * side}"] = once / apart
    return found


def _runs(inputs: Inputs) -> int:
    """Timed runs of a model."""
    return 2 if inputs.smoke else RUNS


def _data(smoke: bool) -> Cifar10:
    data = cifar_scores.load()
    if not smoke:
        return data
    few = np.arange(8)
    return Cifar10(data.train.take(few), data.held_out.take(few), data.test.take(few))


def _right(logits: Logits, split: Split) -> npt.NDArray[np.float64]:
    """1 for each of the first images of ``split`` that is classified correctly, else 0."""
    right: npt.NDArray[np.float64] = (logits[: len(split)].argmax(1) == split.labels[: len(logits)]).astype(np.float64)
    return right


def _first(split: Split, count: int) -> Split:
    return split.take(np.arange(min(count, len(split))))


def _outputs(model: ModelProto, images: Images, path: Path) -> Logits:
    """The output of a model for each image, from the file at ``path`` if there is one."""
    session = ort.InferenceSession(model.SerializeToString(), session_options(1), providers=["CPUExecutionProvider"])
    return _stored(path, images, lambda x: session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def _torch_outputs(network: torch.nn.Module, images: Images, path: Path) -> Logits:
    def run(x: torch.Tensor) -> Logits:
        with torch.no_grad():
            logits: Logits = network(x).numpy()
            return logits

    return _stored(path, images, run)


def _stored(path: Path, images: Images, run: Callable[[torch.Tensor], Logits]) -> Logits:
    if not path.exists():
        batches = [run(normalise(images[at : at + _BATCH], cifar10.INPUT)) for at in range(0, len(images), _BATCH)]
        partial = path.with_name(path.name + ".part.npy")
        np.save(partial, np.concatenate(batches))
        atomic_files.replace(partial, path)
    stored: Logits = np.load(path)
    return stored


ROW = Row("PatDNN: 44 times TFLite with an own compiler; AQD: INT detection equal to float", measure)
