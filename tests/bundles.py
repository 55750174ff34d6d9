"""Tiny bundles: everything of a real one but the training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cachenet.shared.bundle.manifest import (
    FORMAT,
    MANIFEST,
    Bundle,
    Certificate,
    Layer,
    Layers,
    Manifest,
    Model,
    file_digest,
)
from cachenet.shared.cascade.features import FEATURE_COUNT, Stage
from cachenet.shared.cascade.risk_model import RiskPrior
from cachenet.shared.inference.image import Input

SIDE = 32
LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
INPUT = Input(SIDE, (125.3, 123.0, 113.9), (63.0, 62.1, 66.7))


def tiny_bundle(directory: Path, seed: int = 0, fixed_batch: bool = False, risk: float = 0.05) -> Path:
    """Write a bundle ``tiny`` of a full model, a base model and the submodels ``vehicles`` and ``animals``, of random
    weights; return ``directory``. ``fixed_batch``: the full model takes one picture at a time. ``risk``: see
    ``fixed_priors``."""
    vehicles = (0, 1, 8, 9)
    animals = tuple(label for label in range(len(LABELS)) if label not in vehicles)
    rng = np.random.default_rng(seed)
    models = {
        "full": _model(directory, "full", "full", rng, batch=1 if fixed_batch else "n"),
        "base": _model(directory, "base", "base", rng),
        "vehicles": _model(directory, "vehicles", "submodel", rng, vehicles),
        "animals": _model(directory, "animals", "submodel", rng, animals),
    }
    manifest = Manifest(
        FORMAT, "tiny", "classification", LABELS, models, {"built-by": "tests.bundles", "seed": str(seed)},
        fixed_priors(risk), certificates=(Certificate(0.02, 0.005, 0.015, 0.95, 0.1, 100),),
    )  # fmt: skip
    (directory / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    Bundle(directory)
    return directory


def fixed_priors(risk: float) -> dict[Stage, RiskPrior]:
    """Risks that answers of the full model hardly change.

    Args:
        risk: A local model's label is a hit where the model gives at most this probability to all other labels
            together, and a held answer where no block of the picture has changed by more than two grey levels or so.
            Under 1e-4 nothing is a hit: every frame is asked.
    """
    at_limit = -3.0  # log-odds of the stated risk at the limit: 0.047
    steep = 8.0
    uncertainty = {
        "base": 1,
        "submodel": 14,
    }  # the feature that is the logarithm of what the model gives to other labels
    found: dict[Stage, RiskPrior] = {}
    for stage in FEATURE_COUNT:
        weights = np.zeros(FEATURE_COUNT[stage] + 1)
        if risk < 1e-4:
            weights[-1] = 20.0
        elif stage == "picture":
            weights[0], weights[-1] = steep, at_limit - steep * np.log1p(4.0)
        else:
            weights[uncertainty[stage]], weights[-1] = steep, at_limit - steep * np.log(risk)
        precision = 1e6 * np.eye(len(weights))
        count = FEATURE_COUNT[stage]
        found[stage] = RiskPrior(
            (0.0,) * count, (1.0,) * count, tuple(weights.tolist()), tuple(precision.ravel().tolist())
        )
    return found


def _model(
    directory: Path,
    name: str,
    role: Literal["full", "base", "submodel"],
    rng: np.random.Generator,
    classes: Sequence[int] = (),
    batch: int | str = "n",
) -> Model:
    file = f"{name}/1/model.onnx"
    path = directory / file
    path.parent.mkdir(parents=True)
    parameters = classifier(path, rng, batch)
    own = {"full": 1.0, "base": 0.5, "submodel": 0.1}[role]
    return Model(
        role, file, path.stat().st_size, file_digest(path), INPUT, 1.0, parameters, parameters, 0.05,
        tuple(0.9 if label in classes else own for label in range(len(LABELS))), tuple(classes),
    )  # fmt: skip


def classifier(path: Path, rng: np.random.Generator, batch: int | str = "n", classes: int = len(LABELS)) -> int:
    """Mean over 8x8 pixels, then one dense layer. Returns the number of its parameters."""
    weights = rng.normal(size=(48, classes)).astype(np.float32)
    bias = rng.normal(size=classes).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
            helper.make_node("Flatten", ["pooled"], ["features"]),
            helper.make_node("Gemm", ["features", "weights", "bias"], ["logits"]),
        ],
        path.parent.parent.name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    # An old operator set and file version: any ONNX Runtime that this project runs on reads them.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return weights.size + bias.size


def early_exit_bundle(directory: Path, threshold: float = 0.9) -> Path:
    """``tiny_bundle`` whose full model has a convolution first, and after it a cache (``gati``) that answers where its
    risk is at most ``threshold``; return ``directory``."""
    tiny_bundle(directory)
    rng = np.random.default_rng(1)
    weights = {
        "kernel": rng.normal(size=(4, 3, 8, 8)) / 8,
        "weights": rng.normal(size=(4, len(LABELS))),
    }
    weights["own"] = weights["weights"]  # the cache says what the model does
    stored = {name: numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()}
    conv = helper.make_node("Conv", ["image", "kernel"], ["seen"], kernel_shape=[8, 8], strides=[8, 8])

    def mean(of: str, name: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("GlobalAveragePool", ["seen"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["features"]),
            helper.make_node("MatMul", ["features", of], [name]),
        ]

    def save(
        file: str, nodes: list[onnx.NodeProto], given: str, made: tuple[str, ...], constants: tuple[str, ...]
    ) -> Path:
        path = directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        sizes: list[str | int | None] = ["n", 3, SIDE, SIDE] if given == "image" else ["n", 4, 4, 4]
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", len(LABELS) if name != "features" else 4])
            for name in made
        ]
        inputs = [helper.make_tensor_value_info(given, TensorProto.FLOAT, sizes)]
        graph = helper.make_graph(nodes, "graph", inputs, outputs, [stored[name] for name in constants])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return path

    full = save("full/1/model.onnx", [conv, *mean("weights", "logits")], "image", ("logits",), ("kernel", "weights"))
    cache = save("gati-1/1/model.onnx", mean("own", "scores"), "seen", ("scores", "features"), ("own",))
    manifest = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    layer = Layer(
        "pooled", "gati-1/1/model.onnx", cache.stat().st_size, file_digest(cache), ("seen",), 0.5, 1.0, threshold
    )
    model = msgspec.structs.replace(manifest.models["full"], bytes=full.stat().st_size, sha256=file_digest(full))
    changed = msgspec.structs.replace(
        manifest, models={**manifest.models, "full": model}, layers={"gati": Layers((layer,), 0.05, 0.95, 100)}
    )
    (directory / MANIFEST).write_bytes(msgspec.json.encode(changed))
    Bundle(directory)
    return directory
