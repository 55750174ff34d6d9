from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from cachenet.models.data import sample
from cachenet.models.data.cifar10 import LABELS, DatasetError


def test_sample_is_balanced_small_and_distinct() -> None:
    split = sample.load()
    assert split.images.shape == (1000, 32, 32, 3) and split.images.dtype == np.uint8
    assert split.labels.dtype == np.int64 and np.bincount(split.labels).tolist() == [100] * 10
    assert len({image.tobytes() for image in split.images}) == 1000
    assert sum(path.stat().st_size for path in sample.DIRECTORY.iterdir()) < 2_600_000


def test_sample_is_frozen() -> None:
    """The digest was taken of ``test.take(indices)`` of the MD5-verified archive: pixels and labels are the official
    ones, whatever happens to the files."""
    split = sample.load()
    found = hashlib.sha256(split.images.tobytes() + split.labels.astype(np.uint8).tobytes()).hexdigest()
    assert found == "ebd2dab1a23e9b76ffad14e68a54bf8b378e393175dff0bfb2d70a17fd4adc37"


def test_images_are_loaded_in_the_order_of_the_test_batch(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 32, 32, 3), np.uint8)
    labels = rng.permutation(np.repeat(np.arange(10), 20))
    indices = {name: np.flatnonzero(labels == label).tolist() for label, name in enumerate(LABELS)}
    for name, own in indices.items():
        grid = np.vstack([np.hstack(list(images[own[first : first + 10]])) for first in (0, 10)])
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.ascontiguousarray(grid[:, :, ::-1]))
    (tmp_path / sample.MANIFEST).write_text(json.dumps({"seed": 0, "indices": indices}))
    loaded = sample.load(tmp_path)
    assert np.array_equal(loaded.images, images) and np.array_equal(loaded.labels, labels)
    (tmp_path / sample.MANIFEST).write_text(json.dumps({"seed": 0, "indices": {"cat": [0]}}))
    with pytest.raises(DatasetError, match="classes"):
        sample.load(tmp_path)


def test_a_damaged_sample_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        sample.load(tmp_path)
    (tmp_path / sample.MANIFEST).write_bytes((sample.DIRECTORY / sample.MANIFEST).read_bytes())
    with pytest.raises(DatasetError, match="airplane"):
        sample.load(tmp_path)
