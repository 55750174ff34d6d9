"""A cache as an ONNX file: from the tensors at a cut to ``scores`` ``(n, classes)`` and ``features``, what its last
layer sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from cachenet.models.exits.activations import Activations, coarser, pooling
from cachenet.models.exits.sites import Cut, Shapes
from cachenet.models.export.graph import Graph, Weights, save
from cachenet.shared.inference.early_exit import FEATURES, SCORES

#: Frames of recorded activations that are worked on together.
_PIECE = 1024


class HeadGraph(Graph):
    """A cache under construction, after ``cut``; large kernels take a byte a number."""

    def __init__(self, cut: Cut, known: Shapes) -> None:
        super().__init__(large=4096)
        self._cut, self._known = cut, known

    def grids(self) -> list[str]:
        """The maps at the cut, averaged down, and the vectors, as they were recorded: four axes or two."""
        return [self._small(name) for name in self._cut.features]

    def flat(self, each: Sequence[str], side: int) -> str:
        """All of ``grids`` side by side, ``(n, dimensions)``; maps averaged down to ``side`` places a side at most."""
        rows = []
        for name, small in zip(self._cut.features, each, strict=True):
            row = small
            if len(self._known[name]) == 4:
                grid = self.side(name)
                if (by := grid // coarser(grid, side)) > 1:
                    row = self.node("AveragePool", [row], f"{name}.{side}", kernel_shape=[by, by], strides=[by, by])
                row = self.node("Flatten", [row], f"{name}.row")
            rows.append(row)
        return rows[0] if len(rows) == 1 else self.node("Concat", rows, "rows", axis=1)

    def side(self, name: str) -> int:
        """Of a map once it is averaged down."""
        sizes = self._known[name]
        return (sizes[2] or 1) // pooling(sizes)

    def linear(self, x: str, weight: Weights, bias: Weights, name: str) -> str:
        """``x @ weight.T + bias``."""
        return self.node(
            "Gemm", [x, self.kernel(f"{name}.weight", weight), self.fixed(f"{name}.bias", bias)], name, transB=1
        )

    def write(self, features: str, scores: str, classes: int, path: Path, metadata: dict[str, str]) -> None:
        """Write it to ``path``. ``features`` and ``scores``: tensors of that meaning."""
        self.node("Identity", [features], FEATURES)
        self.node("Identity", [scores], SCORES)
        inputs = []
        for name in self._cut.features:
            sizes: list[str | int | None] = ["n", *self._known[name][1:]]
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
        outputs = [
            helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, ["n", classes]),
            helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["n", None]),
        ]
        save(self, "cache", inputs, outputs, path, metadata)

    def _small(self, name: str) -> str:
        sizes = self._known[name]
        if len(sizes) != 4 or (by := pooling(sizes)) == 1:
            return name
        return self.node("AveragePool", [name], f"{name}.small", kernel_shape=[by, by], strides=[by, by])


def rows(each: Sequence[Activations | Weights], side: int) -> Weights:
    """What ``HeadGraph.flat`` makes, of recorded activations: ``(n, dimensions)`` float32; of rows, the
    same."""
    widths = [_pooled(own[:1], side).shape[1] for own in each]
    ends = np.cumsum(widths)
    flat = np.empty((len(each[0]), ends[-1]), np.float32)
    for own, end, width in zip(each, ends, widths, strict=True):
        for at in range(0, len(own), _PIECE):  # all at once would be held several times over
            some = slice(at, at + _PIECE)
            flat[some, end - width : end] = _pooled(own[some], side)
    return flat


def _pooled(own: Activations | Weights, side: int) -> Weights:
    small = own.astype(np.float32)
    if small.ndim == 4:
        n, channels, grid, _ = small.shape
        by = grid // coarser(grid, side)
        small = small.reshape(n, channels, grid // by, by, grid // by, by).mean((3, 5))
    return small.reshape(len(small), -1)
