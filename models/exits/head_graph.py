"""ONNX graph of an exit head: from the tensors at a site to ``scores`` ``(n, classes)`` and ``features``.

``features`` are the inputs of the head's last layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from cachenet.models.exits.activations import Activations, coarser, pooling
from cachenet.models.exits.sites import Shapes, Site
from cachenet.models.export.graph import Graph, Weights, write_graph
from cachenet.shared.inference.early_exit import FEATURES, SCORES

#: Frames whose activations are pooled together.
_PIECE = 1024


class HeadGraph(Graph):
    """The graph of a head for ``site``, under construction; large kernels take one byte a number."""

    def __init__(self, site: Site, known: Shapes) -> None:
        super().__init__(large=4096)
        self._site, self._known = site, known

    def grids(self) -> list[str]:
        """The features of the site as they were recorded: pooled maps and vectors."""
        return [self._pooled(name) for name in self._site.features]

    def flat(self, each: Sequence[str], side: int) -> str:
        """All of ``grids`` in one row ``(n, dimensions)``; maps are pooled to a side of at most ``side``."""
        rows = []
        for name, small in zip(self._site.features, each, strict=True):
            row = small
            sizes = self._known[name]
            if len(sizes) == 4:
                grid = (sizes[2] or 1) // pooling(sizes)
                if (by := grid // coarser(grid, side)) > 1:
                    row = self.node("AveragePool", [row], f"{name}.{side}", kernel_shape=[by, by], strides=[by, by])
                row = self.node("Flatten", [row], f"{name}.row")
            rows.append(row)
        return rows[0] if len(rows) == 1 else self.node("Concat", rows, "rows", axis=1)

    def linear(self, x: str, weight: Weights, bias: Weights, name: str) -> str:
        """``x @ weight.T + bias``."""
        return self.node(
            "Gemm", [x, self.kernel(f"{name}.weight", weight), self.fixed(f"{name}.bias", bias)], name, transB=1
        )

    def write(self, features: str, scores: str, classes: int, path: Path, metadata: dict[str, str]) -> None:
        """Write the graph to ``path``. ``features``, ``scores``: names of the tensors with these outputs."""
        self.node("Identity", [features], FEATURES)
        self.node("Identity", [scores], SCORES)
        inputs = []
        for name in self._site.features:
            sizes: list[str | int | None] = ["n", *self._known[name][1:]]
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
        outputs = [
            helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, ["n", classes]),
            helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["n", None]),
        ]
        write_graph(self, "cache", inputs, outputs, path, metadata)

    def _pooled(self, name: str) -> str:
        sizes = self._known[name]
        if len(sizes) != 4 or (by := pooling(sizes)) == 1:
            return name
        return self.node("AveragePool", [name], f"{name}.small", kernel_shape=[by, by], strides=[by, by])


def rows(each: Sequence[Activations | Weights], side: int) -> Weights:
    """``HeadGraph.flat`` of recorded activations: ``(n, dimensions)`` float32. Rows stay as they are."""
    widths = [_pooled(own[:1], side).shape[1] for own in each]
    ends = np.cumsum(widths)
    flat = np.empty((len(each[0]), ends[-1]), np.float32)
    for own, end, width in zip(each, ends, widths, strict=True):
        for at in range(0, len(own), _PIECE):  # in pieces, to save memory
            piece = slice(at, at + _PIECE)
            flat[piece, end - width : end] = _pooled(own[piece], side)
    return flat


def _pooled(own: Activations | Weights, side: int) -> Weights:
    small = own.astype(np.float32)
    if small.ndim == 4:
        n, channels, grid, _ = small.shape
        by = grid // coarser(grid, side)
        small = small.reshape(n, channels, grid // by, by, grid // by, by).mean((3, 5))
    return small.reshape(len(small), -1)
