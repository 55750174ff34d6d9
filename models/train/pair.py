"""Two networks that err differently, as one classifier: one graph, in which a single head sees what both have seen.

Their scores are averaged, each with a share of its own (L. K. Hansen and P. Salamon, "Neural Network Ensembles", 1990);
and as scores are linear in what a head sees, that is one head over both embeddings.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cachenet.models.export import efficientnet, export
from cachenet.models.export.efficientnet import Lite
from cachenet.models.export.graph import Graph, write
from cachenet.models.train.networks import ResNet, array

Shares = tuple[float, float]


def fit(first: Tensor, second: Tensor, labels: Tensor) -> Shares:
    """The shares with which two networks' scores ``(n, classes)`` are least surprised by ``labels`` ``(n,)``: of least
    negative log-likelihood. Each takes part as sure as it may be."""
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
    """Write both as one model for pictures of ``side`` pixels: input ``image``, output ``scores``, logits; the tensor
    ``embedding`` is what the head sees. Large weights take a byte each. The quicker one stands first."""
    graph = Graph(efficientnet.LARGE)
    x = graph.node("Mul", ["image", graph.constant("lite.gain", array(lite.gain))], "lite.scaled")
    x = graph.node("Add", [x, graph.constant("lite.shift", array(lite.shift))], "lite.shifted")
    enlarged = np.array([1, 1, lite.side / side, lite.side / side], np.float32)
    x = graph.node("Resize", [x, "", graph.fixed("lite.scales", enlarged)], "lite.image", mode="linear")
    seen = [
        efficientnet.trunk(graph, lite.stored(), x, "lite", "lite.embedding"),
        export.trunk(graph, resnet, "resnet.embedding"),
    ]
    embedding = graph.node("Concat", seen, "embedding", axis=1)
    heads = lite.head, resnet.head
    weight = np.concatenate([share * array(head.weight) for share, head in zip(shares, heads, strict=True)], axis=1)
    bias = np.sum([share * array(head.bias) for share, head in zip(shares, heads, strict=True)], axis=0)
    inputs = [embedding, graph.constant("head.weight", weight), graph.constant("head.bias", bias)]
    graph.node("Gemm", inputs, "scores", transB=1)
    write(graph, len(bias), path, metadata, side)
