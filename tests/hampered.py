"""A bundle of real models that is bad at frogs, ships and trucks, and frames to mend that with."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import msgspec
import numpy as np
import onnx
from onnx import helper, numpy_helper

from cachenet.models.data import sample
from cachenet.models.export.dequantise import dequantised
from cachenet.shared.bundle.manifest import MANIFEST, Bundle, file_digest

ZOO = Path(__file__).parents[1] / "models" / "zoo" / "cifar10"
FROG, SHIP, TRUCK = 6, 8, 9
#: By how much less the base model believes in them, logits.
_LESS = 8.0


def hampered_bundle(directory: Path, base: str = "base") -> Path:
    """The shipped full model, and a base model, in float32, that hardly ever says frog, ship or truck; no submodels.

    ``base``: name of the shipped model that is made so.
    """
    zoo = Bundle(ZOO).manifest
    for name in ("full", "base"):
        (directory / name / "1").mkdir(parents=True)
    shutil.copyfile(ZOO / zoo.models["full"].file, directory / zoo.models["full"].file)
    path = directory / zoo.models["base"].file
    model = dequantised(onnx.load(str(ZOO / zoo.models[base].file)))
    [bias] = [one for one in model.graph.initializer if one.name == model.graph.node[-2].input[2]]
    less = numpy_helper.to_array(bias).copy()
    less[[FROG, SHIP, TRUCK]] -= _LESS
    bias.CopyFrom(numpy_helper.from_array(less, bias.name))
    onnx.save(model, str(path))
    coverage = tuple(0.0 if label in (FROG, SHIP, TRUCK) else 0.7 for label in range(10))
    hampered = msgspec.structs.replace(
        zoo.models["base"], sha256=file_digest(path), bytes=path.stat().st_size, coverage=coverage
    )
    models = {"full": zoo.models["full"], "base": hampered}
    manifest = msgspec.structs.replace(zoo, name="hampered", models=models, layers={}, golden=None)
    (directory / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return directory


def write_base(path: Path, metadata: dict[str, str]) -> None:
    """Write the shipped base model, which is in INT8, in float32."""
    model = dequantised(onnx.load(str(Bundle(ZOO).path("base"))))
    helper.set_model_props(model, {f"cachenet.{key}": value for key, value in metadata.items()})
    onnx.save(model, str(path))


def pictures(directory: Path, first: int, end: int) -> Path:
    """Pictures of the sample in ``directory``, in a directory for each class."""
    split = sample.load()
    for number in range(first, end):
        folder = directory / sample.LABELS[split.labels[number]]
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{number:03}.png"), split.images[number][:, :, ::-1])
    return directory


def frogs_and_ships(first: int, end: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Places in the sample, between these, of frogs, ships and trucks."""
    labels = sample.load().labels
    return np.flatnonzero(np.isin(labels, (FROG, SHIP, TRUCK)) & (np.arange(len(labels)) >= first))[: end - first]
