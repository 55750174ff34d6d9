"""An ensemble of two networks as one classifier with a single head over both embeddings.

The scores are a weighted sum (L. K. Hansen and P. Salamon, "Neural Network Ensembles", 1990). Each is linear in its
embedding, so the sum is one linear head.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cachenet.models.export import efficientnet, export
from cachenet.models.export.efficientnet import Lite
from cachenet.models.export.graph import Graph, write_classifier
from cachenet.models.train.networks import ResNet, array

#: Weight of each network's scores.
Shares = tuple[float, float]


def fit(first: Tensor, second: Tensor, labels: Tensor) -> Shares:
    """Return the weights of two networks' scores ``(n, classes)`` with the least negative log-likelihood of ``labels``
    ``(n,)``."""
    shares = torch.ones(2, requires_grad=True)
    optimiser = torch.optim.LBFGS([shares], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(shares[0] * first + shares[1] * second, labels)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return float(shares[0].detach()), float(shares[1].detach())


def write_pair(lite: Lite, resnet: ResNet, shares: Shares, side: int, path: Path, metadata: dict[str, str]) -> None:
    """Write both networks as one ONNX model: input ``image``, output ``scores`` (logits), tensor ``embedding``.

    Args:
        lite: EfficientNet-Lite, the faster one.
        resnet: Residual network.
        shares: Weight of each network's scores.
        side: Side of the images, pixels.
    """
    graph = Graph(efficientnet.LARGE)
    x = graph.node("Mul", ["image", graph.constant("lite.gain", array(lite.gain))], "lite.scaled")
    x = graph.node("Add", [x, graph.constant("lite.shift", array(lite.shift))], "lite.shifted")
    enlarged = np.array([1, 1, lite.side / side, lite.side / side], np.float32)
    x = graph.node("Resize", [x, "", graph.fixed("lite.scales", enlarged)], "lite.image", mode="linear")
    embeddings = [
        efficientnet.trunk(graph, lite.stored(), x, "lite", "lite.embedding"),
        export.trunk(graph, resnet, "resnet.embedding"),
    ]
    embedding = graph.node("Concat", embeddings, "embedding", axis=1)
    heads = lite.head, resnet.head
    weight = np.concatenate([share * array(head.weight) for share, head in zip(shares, heads, strict=True)], axis=1)
    bias = np.sum([share * array(head.bias) for share, head in zip(shares, heads, strict=True)], axis=0)
    inputs = [embedding, graph.constant("head.weight", weight), graph.constant("head.bias", bias)]
    graph.node("Gemm", inputs, "scores", transB=1)
    write_classifier(graph, len(bias), path, metadata, side)
