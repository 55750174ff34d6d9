"""Pattern sparsity and separable interpolation, run by ONNX Runtime as they are.

W. Niu et al., "PatDNN" (arXiv 2001.00138): each 3x3 kernel has four weights, in one of a few patterns. The paper
compiles each pattern; a general runtime multiplies with the zeros.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from cachenet.models.export.graph import Graph
from cachenet.models.export.onnx_file import copied

#: Patterns of the model, as many as the paper's largest set.
PATTERNS = 8
#: Weights of a kernel besides the centre.
_BESIDE = 3
#: Number of the centre of a 3x3 kernel.
_CENTRE = 4
Kernels = npt.NDArray[np.float32]


def common_patterns(kernels: Kernels, count: int = PATTERNS) -> npt.NDArray[np.bool_]:
    """The patterns ``(count, 9)`` that most often hold the largest weights of kernels ``(n, 9)``, with the centre."""
    candidates = np.zeros((56, 9), bool)
    beside = [at for at in range(9) if at != _CENTRE]
    for row, chosen in enumerate(combinations(beside, _BESIDE)):
        candidates[row, [*chosen, _CENTRE]] = True
    best = (kernels**2 @ candidates.T.astype(np.float32)).argmax(1)
    return candidates[np.argsort(-np.bincount(best, minlength=len(candidates)), kind="stable")[:count]]


def with_patterns(model: ModelProto) -> ModelProto:
    """A copy whose 3x3 convolutions have four weights a kernel, without training.

    Args:
        model: Model with its weights folded (``quantise.folded``).
    """
    changed = copied(model)
    stored = {one.name: one for one in changed.graph.initializer}
    names = [node.input[1] for node in changed.graph.node if node.op_type == "Conv"]
    found = {name: numpy_helper.to_array(stored[name]) for name in names if list(stored[name].dims)[2:] == [3, 3]}
    patterns = common_patterns(np.concatenate([value.reshape(-1, 9) for value in found.values()]))
    for name, value in found.items():
        kernels = value.reshape(-1, 9)
        own = patterns[(kernels**2 @ patterns.T.astype(np.float32)).argmax(1)]
        sparse = np.where(own, kernels, np.float32(0)).reshape(value.shape)
        stored[name].CopyFrom(numpy_helper.from_array(sparse, name))
    return changed


def interpolation(channels: int, side: int, separable: bool) -> ModelProto:
    """Bilinear enlargement of ``(1, channels, side, side)`` to twice the sides, at once or rows first."""
    graph = Graph()
    x = "image"
    steps = ([1, 1, 2, 1], [1, 1, 1, 2]) if separable else ([1, 1, 2, 2],)
    for number, scales in enumerate(steps):
        name = graph.fixed(f"scales{number}", np.array(scales, np.float32))
        x = graph.node("Resize", [x, "", name], f"larger{number}", mode="linear")
    kind = TensorProto.FLOAT
    taken = helper.make_tensor_value_info("image", kind, [1, channels, side, side])
    enlarged = helper.make_tensor_value_info(x, kind, [1, channels, 2 * side, 2 * side])
    made = helper.make_graph(graph.nodes, "interpolation", [taken], [enlarged], graph.weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
