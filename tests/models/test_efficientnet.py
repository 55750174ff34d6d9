"""EfficientNet-Lite: the ONNX file gives the outputs of the network of those weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from cachenet.models.data import imagenet
from cachenet.models.export import efficientnet, quantise
from cachenet.models.export.classifier import load_classifier
from cachenet.models.export.efficientnet import Lite
from cachenet.shared.inference.engine import Session

SIDE = 45
#: Channels in and out, expansion, kernel and stride of blocks; the third is in the stage of the second.
BLOCKS = ((8, 4, 1, 3, 1), (4, 6, 6, 3, 2), (6, 6, 6, 3, 1), (6, 160, 6, 5, 2))


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}

    def layer(conv: str, norm: str, *shape: int) -> None:
        made[f"{conv}.weight"] = rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
        for name, (low, high) in {
            "weight": (2.0, 4.0),  # so that some activations pass 6
            "bias": (0.0, 0.2),
            "running_mean": (-0.1, 0.1),
            "running_var": (0.02, 1.5),  # so that epsilon matters
        }.items():
            made[f"{norm}.{name}"] = rng.uniform(low, high, shape[0]).astype(np.float32)

    layer("_conv_stem", "_bn0", 8, 3, 3, 3)
    for number, (channels, out, expansion, kernel, _) in enumerate(BLOCKS):
        block, wide = f"_blocks.{number}.", channels * expansion
        if expansion > 1:
            layer(f"{block}_expand_conv", f"{block}_bn0", wide, channels, 1, 1)
        layer(f"{block}_depthwise_conv", f"{block}_bn1", wide, 1, kernel, kernel)
        layer(f"{block}_project_conv", f"{block}_bn2", out, wide, 1, 1)
    layer("_conv_head", "_bn1", 200, 160, 1, 1)
    made["_fc.weight"] = rng.normal(0, 0.1, (5, 200)).astype(np.float32)
    made["_fc.bias"] = rng.normal(0, 0.1, 5).astype(np.float32)
    return made


def reference(made: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    """Outputs of the trainable network with the head of these weights."""
    network = Lite(made, 5, SIDE, (127.0,) * 3, (128.0,) * 3).eval()
    network.head.load_state_dict({name: torch.from_numpy(made[f"_fc.{name}"]) for name in ("weight", "bias")})
    with torch.no_grad():
        return network(torch.from_numpy(image)).numpy()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One weight is large enough for INT8: the last convolution."""
    path = tmp_path_factory.mktemp("lite") / "lite.onnx"
    properties = {"labels": "a,b,c,d,e", "input": '{"side": 45, "mean": [0, 0, 0], "std": [1, 1, 1]}'}
    efficientnet.export(weights(), SIDE, path, properties)
    return path


def test_the_file_and_the_trainable_network_agree(path: Path) -> None:
    """They share constants only. Both agreed with the package's own network."""
    image = np.random.default_rng(1).normal(size=(3, 3, SIDE, SIDE)).astype(np.float32)
    expected = reference(weights(), image)
    np.testing.assert_allclose(Session(path, "cpu").run(image), expected, atol=0.06 * expected.std())


def test_every_large_weight_is_quantised_by_channel(path: Path) -> None:
    """This includes weights that are stored in INT8."""
    images = np.random.default_rng(1).normal(size=(8, 3, SIDE, SIDE)).astype(np.float32)
    model = quantise.int8(onnx.load(str(path)), images)
    sizes = {weight.name: weight.dims for weight in model.graph.initializer}
    scales = {node.output[0]: sizes[node.input[1]] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    kernels = [scales[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]
    assert kernels and all(len(scale) == 1 for scale in kernels)


def test_the_builder_reads_the_exported_file(path: Path) -> None:
    classifier = load_classifier(path)
    assert (classifier.input.side, classifier.labels, classifier.embedding) == (SIDE, tuple("abcde"), "embedding")


def test_label_names_are_first_lemmas_and_distinct() -> None:
    order = b"n1\nn2\nn3\n"
    words = b"n3\tcrane\nn1\tcrane, bird\nn2\ttench, Tinca tinca\n"
    assert imagenet.label_names([order, words]) == ["crane n1", "tench", "crane n3"]
