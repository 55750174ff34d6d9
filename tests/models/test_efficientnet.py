"""EfficientNet-Lite: the ONNX file says what the network of those weights says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models import efficientnet, imagenet
from models.classifier import understand
from shared.engine import Session

SIDE = 45
#: Channels in and out, expansion, kernel and stride of blocks; the third goes on in the second's stage.
BLOCKS = ((8, 4, 1, 3, 1), (4, 6, 6, 3, 2), (6, 6, 6, 3, 1), (6, 160, 6, 5, 2))


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}

    def layer(conv: str, norm: str, *shape: int) -> None:
        made[f"{conv}.weight"] = rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
        for name, (low, high) in {
            "weight": (0.8, 1.2),
            "bias": (0.0, 0.2),
            "running_mean": (-0.1, 0.1),
            "running_var": (0.5, 1.5),
        }.items():
            made[f"{norm}.{name}"] = rng.uniform(low, high, shape[0]).astype(np.float32)

    layer("_conv_stem", "_bn0", 8, 3, 3, 3)
    for number, (given, out, expansion, kernel, _) in enumerate(BLOCKS):
        block, wide = f"_blocks.{number}.", given * expansion
        if expansion > 1:
            layer(f"{block}_expand_conv", f"{block}_bn0", wide, given, 1, 1)
        layer(f"{block}_depthwise_conv", f"{block}_bn1", wide, 1, kernel, kernel)
        layer(f"{block}_project_conv", f"{block}_bn2", out, wide, 1, 1)
    layer("_conv_head", "_bn1", 200, 160, 1, 1)
    made["_fc.weight"] = rng.normal(0, 0.1, (5, 200)).astype(np.float32)
    made["_fc.bias"] = rng.normal(0, 0.1, 5).astype(np.float32)
    return made


def reference(made: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    """The network by torch, padded as TensorFlow pads."""
    w = {name: torch.from_numpy(value) for name, value in made.items()}

    def layer(
        x: torch.Tensor, conv: str, norm: str, stride: int = 1, groups: int = 1, active: bool = True
    ) -> torch.Tensor:
        kernel = w[f"{conv}.weight"].shape[2]
        total = max((-(-x.shape[2] // stride) - 1) * stride + kernel - x.shape[2], 0)
        x = F.pad(x, [total // 2, total - total // 2] * 2)
        x = F.conv2d(x, w[f"{conv}.weight"], None, stride, groups=groups)
        statistics = (w[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, *statistics, eps=1e-3)
        return F.relu6(x) if active else x

    x = layer(torch.from_numpy(image), "_conv_stem", "_bn0", 2)
    for number, (given, out, expansion, _, stride) in enumerate(BLOCKS):
        block, before = f"_blocks.{number}.", x
        if expansion > 1:
            x = layer(x, f"{block}_expand_conv", f"{block}_bn0")
        x = layer(x, f"{block}_depthwise_conv", f"{block}_bn1", stride, given * expansion)
        x = layer(x, f"{block}_project_conv", f"{block}_bn2", active=False)
        x = x + before if given == out and stride == 1 else x
    x = layer(x, "_conv_head", "_bn1").mean((2, 3))
    return F.linear(x, w["_fc.weight"], w["_fc.bias"]).numpy()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of these weights one is large, and so in eight bits: the head's convolution."""
    path = tmp_path_factory.mktemp("lite") / "lite.onnx"
    properties = {"labels": "a,b,c,d,e", "input": '{"side": 45, "mean": [0, 0, 0], "std": [1, 1, 1]}'}
    efficientnet.export(weights(), SIDE, path, properties)
    return path


def test_it_says_what_the_network_says(path: Path) -> None:
    image = np.random.default_rng(1).normal(size=(3, 3, SIDE, SIDE)).astype(np.float32)
    np.testing.assert_allclose(Session(path, "cpu").run(image), reference(weights(), image), atol=0.02)


def test_the_builder_understands_it(path: Path) -> None:
    classifier = understand(path)
    assert (classifier.input.side, classifier.labels, classifier.embedding) == (SIDE, tuple("abcde"), "embedding")


def test_labels_are_the_first_word_of_each_class_and_all_differ() -> None:
    order = b"n1\nn2\nn3\n"
    words = b"n3\tcrane\nn1\tcrane, bird\nn2\ttench, Tinca tinca\n"
    assert imagenet.names([order, words]) == ["crane n1", "tench", "crane n3"]
