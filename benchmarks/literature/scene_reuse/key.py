"""The key of a scene: an embedding of its background, and the mix of the full model's labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cachenet.models.detect.footage import Pictures
from cachenet.models.export.classifier import load_classifier
from cachenet.models.export.onnx_file import OnnxRun
from cachenet.shared.inference.image import crop, preprocessor

Vector = npt.NDArray[np.float64]
#: Model of the embeddings: EfficientNet-Lite0, which has learned ImageNet and none of the places.
EMBEDDER = Path(__file__).parents[3] / "models/zoo/imagenet-lite/base/1/model.onnx"


@dataclass(frozen=True, eq=False)
class SceneKey:
    """A key.

    Attributes:
        background: Embedding of the mean picture, of length 1 ``(d,)``.
        mix: Share of each label ``(labels,)``.
    """

    background: Vector
    mix: Vector


class Embedder:
    """Embeds the background of a scene, which is the mean of its pictures."""

    def __init__(self) -> None:
        self._model = load_classifier(EMBEDDER)
        self._run = OnnxRun(self._model.graph, self._model.path.name, 1)
        self._prepare = preprocessor(self._model.input)

    def __call__(self, pictures: Pictures) -> Vector:
        """The embedding of pictures ``(n, height, width, 3)`` RGB: ``(d,)``, of length 1."""
        mean = np.rint(pictures.mean(0, dtype=np.float32)).astype(np.uint8)[:, :, ::-1]
        batch = self._prepare(crop(np.ascontiguousarray(mean), self._model.input))
        found = self._run([self._model.embedding], batch)[0].reshape(-1).astype(np.float64)
        vector: Vector = found / np.linalg.norm(found)
        return vector


def mix(labels: npt.NDArray[np.int64], count: int) -> Vector:
    """Share of each of ``count`` labels; equal shares without any label."""
    return np.bincount(labels, minlength=count) / len(labels) if len(labels) else np.full(count, 1 / count)


def distances(key: SceneKey, others: Sequence[SceneKey], weight: float) -> Vector:
    """Distances of keys ``(n,)``: cosine distance of the backgrounds, and ``weight`` times the total variation of the
    mixes."""
    backgrounds, mixes = (np.stack(column) for column in zip(*((o.background, o.mix) for o in others), strict=True))
    apart: Vector = 1 - backgrounds @ key.background
    if weight:
        apart = apart + weight * np.abs(mixes - key.mix).sum(1) / 2
    return apart
