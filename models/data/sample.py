"""A thousand CIFAR-10 test images that ship with the project, for demos and tests without a download.

One PNG per class holds a grid of images; ``sample.json`` holds their indices in the official test batch. Nothing is
fitted on this test data.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from cachenet.models.data.cifar10 import LABELS, DatasetError, Images, Split
from cachenet.shared.bundle import zoo

DIRECTORY = zoo.DIRECTORY / "cifar10-sample"
MANIFEST = "sample.json"
#: Side of an image, pixels.
_SIDE = 32
#: Images in a row of the grid.
_COLUMNS = 10
#: PNG options for the smallest files.
_SMALLEST = [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_FILTERED]


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


def write(test: Split, directory: Path = DIRECTORY, seed: int = 0, per_class: int = 100) -> None:
    """Draw images of each class and write them into ``directory``.

    Args:
        test: Official test set in its own order.
        directory: Directory to write, made if missing.
        seed: Seed of the draw.
        per_class: Images of each class, a multiple of 10.

    Raises:
        ValueError: A class has too few images.
    """
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    indices = {}
    for label, name in enumerate(LABELS):
        found = np.flatnonzero(test.labels == label)
        if per_class % _COLUMNS or not 0 < per_class <= len(found):
            raise ValueError(f"{per_class} images of {name}: there are {len(found)}, and rows hold {_COLUMNS}")
        chosen = np.sort(rng.permutation(found)[:per_class])
        indices[name] = tuple(chosen.tolist())
        if not cv2.imwrite(str(directory / f"{name}.png"), _atlas(test.images[chosen]), _SMALLEST):
            raise OSError(f"{directory / name}.png could not be written")
    manifest = msgspec.json.encode(_Sample(seed, indices))
    (directory / MANIFEST).write_bytes(msgspec.json.format(manifest, indent=0) + b"\n")


def _atlas(images: Images) -> npt.NDArray[np.uint8]:
    """Arrange ``(n, 32, 32, 3)`` RGB in one BGR image of ``n / 10`` rows."""
    rows = images.reshape(-1, _COLUMNS, _SIDE, _SIDE, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(rows.reshape(-1, _COLUMNS * _SIDE, 3)[:, :, ::-1])


def _read(path: Path, count: int) -> Images:
    """Read the ``count`` images of a file of ``_atlas``."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None or picture.shape != (count // _COLUMNS * _SIDE, _COLUMNS * _SIDE, 3):
        raise DatasetError(f"{path} does not hold {count} images")
    rows = picture[:, :, ::-1].reshape(-1, _SIDE, _COLUMNS, _SIDE, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(rows.reshape(-1, _SIDE, _SIDE, 3), np.uint8)
