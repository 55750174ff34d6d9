"""A thousand CIFAR-10 test images that ship with the project, for demos and tests without a download.

One PNG per class holds a grid of images; ``sample.json`` holds their indices in the official test batch. Nothing is
fitted on this test data.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np

from cachenet.models.data.cifar10 import LABELS, DatasetError, Images, Split
from cachenet.shared.bundle import zoo

DIRECTORY = zoo.DIRECTORY / "cifar10-sample"
MANIFEST = "sample.json"
#: Side of an image, pixels.
_SIDE = 32
#: Images in a row of the grid.
_COLUMNS = 10


class _Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``sample.json``: seed of the draw, and for each class the indices in the test batch, ascending."""

    seed: int
    indices: dict[str, tuple[int, ...]]


def load(directory: Path = DIRECTORY) -> Split:
    """Load the sample in the order of the test batch, which mixes the classes. Raises ``DatasetError``."""
    try:
        sample = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=_Sample)
    except (OSError, msgspec.DecodeError) as error:
        raise DatasetError(f"{directory} holds no sample: {error}") from None
    if tuple(sample.indices) != LABELS:
        raise DatasetError(f"{directory / MANIFEST}: the classes are not those of CIFAR-10")
    images = [_read(directory / f"{name}.png", len(index)) for name, index in sample.indices.items()]
    labels = np.repeat(np.arange(len(LABELS)), [len(part) for part in images])
    order = np.argsort(np.concatenate([np.array(index) for index in sample.indices.values()]))
    return Split(np.concatenate(images), labels).take(order)


def _read(path: Path, count: int) -> Images:
    """Read a BGR grid of ``count`` images as ``(count, 32, 32, 3)`` RGB."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None or picture.shape != (count // _COLUMNS * _SIDE, _COLUMNS * _SIDE, 3):
        raise DatasetError(f"{path} does not hold {count} images")
    rows = picture[:, :, ::-1].reshape(-1, _SIDE, _COLUMNS, _SIDE, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(rows.reshape(-1, _SIDE, _SIDE, 3), np.uint8)
