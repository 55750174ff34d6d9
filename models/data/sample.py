"""A thousand CIFAR-10 test images that ship with the project: enough for a demo and for tests, without a download.

One PNG per class, a square of images read in rows, beside ``sample.json`` with their places in the official test
batch. It is test data: nothing is fitted on it.
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
_SIDE = 32
_COLUMNS = 10


class _Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``sample.json``: how the choice was drawn, and per class the images' indices in the test batch, ascending."""

    seed: int
    indices: dict[str, tuple[int, ...]]


def load(directory: Path = DIRECTORY) -> Split:
    """The sample: images ``(n, 32, 32, 3)`` uint8 RGB and labels ``(n,)``, in the order of the test batch, so that
    the classes come mixed. Raises ``DatasetError``."""
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
    """Draw ``per_class`` images of each class from ``test``, the official test set in its own order, and write them
    into ``directory``. ``per_class`` is a multiple of 10. Raises ``ValueError`` if a class has fewer."""
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    indices = {}
    for label, name in enumerate(LABELS):
        found = np.flatnonzero(test.labels == label)
        if per_class % _COLUMNS or not 0 < per_class <= len(found):
            raise ValueError(f"{per_class} images of {name}: {len(found)} are there, and rows are of {_COLUMNS}")
        chosen = np.sort(rng.permutation(found)[:per_class])
        indices[name] = tuple(chosen.tolist())
        if not cv2.imwrite(str(directory / f"{name}.png"), _atlas(test.images[chosen]), _SMALLEST):
            raise OSError(f"{directory / name}.png could not be written")
    manifest = msgspec.json.encode(_Sample(seed, indices))
    (directory / MANIFEST).write_bytes(msgspec.json.format(manifest, indent=0) + b"\n")


_SMALLEST = [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_FILTERED]


def _atlas(images: Images) -> npt.NDArray[np.uint8]:
    """``(n, 32, 32, 3)`` RGB to one BGR picture of ``n / 10`` rows."""
    rows = images.reshape(-1, _COLUMNS, _SIDE, _SIDE, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(rows.reshape(-1, _COLUMNS * _SIDE, 3)[:, :, ::-1])


def _read(path: Path, count: int) -> Images:
    """The inverse of ``_atlas`` for a file that must hold ``count`` images."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None or picture.shape != (count // _COLUMNS * _SIDE, _COLUMNS * _SIDE, 3):
        raise DatasetError(f"{path} is not a picture of {count} images")
    rows = picture[:, :, ::-1].reshape(-1, _SIDE, _COLUMNS, _SIDE, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(rows.reshape(-1, _SIDE, _SIDE, 3), np.uint8)
