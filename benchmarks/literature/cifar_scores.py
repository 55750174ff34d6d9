"""CIFAR-10's splits, with the logits of the bundle's models, computed once."""

from __future__ import annotations

import functools
import io
from typing import Literal

import numpy as np
import numpy.typing as npt

from benchmarks.literature.row import Inputs
from cachenet.models.certify import traces
from cachenet.models.data import cifar10
from cachenet.models.data.cifar10 import Cifar10, Split
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.engine import Session

Logits = npt.NDArray[np.float32]
SplitName = Literal["train", "held_out", "test"]
#: Pictures of each split, evenly spaced: the full model labels the last two in two minutes.
_PICTURES: dict[SplitName, int] = {"train": 16_000, "held_out": 2_000, "test": 4_000}
#: The same, to show that a row runs.
_SMOKE: dict[SplitName, int] = {"train": 48, "held_out": 16, "test": 16}


@functools.cache
def load() -> Cifar10:
    """CIFAR-10, read once. Raises ``DatasetError`` if it cannot be downloaded."""
    return cifar10.load()


def split(name: SplitName, smoke: bool) -> Split:
    """The pictures of a split that a row uses. Raises ``DatasetError`` if CIFAR-10 cannot be downloaded."""
    data = load()
    whole = {"train": data.train, "held_out": data.held_out, "test": data.test}[name]
    return whole.take(np.linspace(0, len(whole) - 1, (_SMOKE if smoke else _PICTURES)[name]).astype(np.int64))


def logits(inputs: Inputs, bundle: Bundle, model: str, name: SplitName) -> Logits:
    """Logits ``(n, classes)`` of a model of the bundle for ``split(name)``. All rows share the stored ones."""
    entry = bundle.manifest.models[model]
    count = (_SMOKE if inputs.smoke else _PICTURES)[name]
    path = inputs.work.parent / "cifar10" / f"{entry.sha256[:16]}-{name}-{count}.npy"
    if not path.exists():
        pictures = traces.as_pictures(split(name, inputs.smoke).images)
        inputs.say(f"model {model} on {len(pictures)} pictures of {name}")
        found = traces.run_model(Session(bundle.path(model), "cpu", 1), entry.input, pictures)
        data = io.BytesIO()
        np.save(data, found)
        atomic_files.write(path, data.getbuffer())
    stored: Logits = np.load(path)
    return stored
