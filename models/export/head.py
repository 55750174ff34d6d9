"""Meaning of a classifier's output, and scores from it whose softmax is the model's confidence.

A file may end in logits, probabilities, their logarithms, or a function of these. The values on different images show
which. The graph then shows a tensor of logits, and the values again whether it is the right one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from cachenet.models.export.graph_edit import Ancestry, Editor
from cachenet.shared.cascade.probability import softmax

Meaning = Literal["logits", "softmax", "log-softmax", "sigmoid", "binary"]
Array = npt.NDArray[Any]
#: Operators from logits to probabilities or their logarithms.
_ACTIVATIONS = ("Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid")
#: Operators with weights. Logits are searched for after the last of them.
_WEIGHTED = (
    "Gemm", "MatMul", "Conv", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "QGemm", "FusedMatMul",
    "FusedGemm", "FusedConv",
)  # fmt: skip
#: Maximum relative error of the sum of probabilities; float16 and INT8 round.
_SUM_TOLERANCE = 0.02
#: Maximum difference of probabilities that count as equal; float16 and INT8 round.
_TOLERANCE = 0.02
#: Minimum probability whose logarithm is taken.
_MIN_PROBABILITY = 1e-6
#: Maximum size of an embedding; a larger tensor is a feature map.
_MAX_EMBEDDING = 16_384


@dataclass(frozen=True)
class Head:
    """Meaning of an output."""

    meaning: Meaning  # Meaning; ``binary`` is a single probability, that of the second of two labels
    total: float = 1.0  # Sum of the probabilities: usually 1, for percentages 100
    logits: str | None = None  # Name of the tensor of logits; None if there is none


def logits_before(ancestry: Ancestry, output: str) -> tuple[str, str] | None:
    """Return the last operator from logits to probabilities, and its input; None if there is none."""
    for node, source in ancestry.line(output):
        if node.op_type in _ACTIVATIONS:
            return str(node.op_type), source
        if node.op_type in _WEIGHTED:
            return None
    return None


def features_before(ancestry: Ancestry, scores: str) -> str | None:
    """Return the input of the last operator with weights; None if there is none."""
    for node, source in ancestry.line(scores):
        if node.op_type in _WEIGHTED:
            return source
    return None


def is_embedding(features: Array) -> bool:
    """Whether ``features`` ``(n, ...)`` can serve as embeddings."""
    return features.ndim >= 2 and 2 <= features[0].size <= _MAX_EMBEDDING and np.issubdtype(features.dtype, np.number)


def meaning_of(output: Array) -> tuple[Meaning, float]:
    """Infer the meaning of ``output`` ``(n, classes)`` of different images, and the sum of probabilities."""
    if not np.isfinite(output).all():
        return "logits", 1.0
    values = output.astype(np.float64)
    sums = values.sum(1)
    middle = float(np.median(sums))
    if values.min() >= -_MIN_PROBABILITY and middle > 0 and np.abs(sums / middle - 1).max() <= _SUM_TOLERANCE:
        if abs(middle - 1) <= _SUM_TOLERANCE:
            return "softmax", 1.0
        # Values that vary with a constant sum are scaled probabilities.
        if np.ptp(values, axis=0).max() > _SUM_TOLERANCE * middle:
            return "softmax", middle
    if values.max() <= _MIN_PROBABILITY and np.abs(np.exp(values).sum(1) - 1).max() <= _SUM_TOLERANCE:
        return "log-softmax", 1.0
    return ("sigmoid" if _are_probabilities(values) else "logits"), 1.0


def _are_probabilities(values: Array) -> bool:
    return bool(values.min() >= -_MIN_PROBABILITY and values.max() <= 1 + _MIN_PROBABILITY)


def head_of(output: Array, found: tuple[str, str] | None, logits: Array | None) -> Head:
    """Infer the meaning of an output, and whether a tensor holds its logits.

    Args:
        output: Values of the output ``(n, classes)``.
        found: Result of ``logits_before``.
        logits: Values of the tensor that it names ``(n, classes)``.
    """
    meaning, total = meaning_of(output)
    without = Head(meaning, total)
    if found is None or logits is None or logits.shape != output.shape or not np.isfinite(logits).all():
        return without
    operator, name = found
    if output.shape[1] == 1:
        return _binary_head(output, logits, name) or without
    values = output.astype(np.float64)
    of_logits = np.take_along_axis(values, logits.astype(np.float64).argmax(1)[:, None], 1)[:, 0]
    spread = max(float(np.ptp(values[np.isfinite(values)])), 1e-12)
    if (values.max(1) - of_logits > _TOLERANCE * spread).any():  # the output ranks another label first
        return without
    if operator in ("Sigmoid", "HardSigmoid"):
        return Head("sigmoid", total, name)
    probabilities = values / total if meaning == "softmax" else np.exp(values)
    if meaning in ("softmax", "log-softmax") and np.abs(softmax(logits) - probabilities).max() > _TOLERANCE:
        return without
    return Head("log-softmax" if operator == "LogSoftmax" else "softmax", total, name)


def _binary_head(output: Array, logits: Array, name: str) -> Head | None:
    """Return the head of a single output ``(n, 1)`` with the tensor ``name`` before its sigmoid; None if it is no
    probability."""
    values, expected = output.astype(np.float64), 1 / (1 + np.exp(-logits.astype(np.float64)))
    for total in (1.0, 100.0):  # a share, or per cent
        if np.abs(values / total - expected).max() <= _TOLERANCE:
            return Head("binary", total, name)
    # The probability has been changed after the sigmoid, for example to that of the other label.
    return Head("binary") if _are_probabilities(values) else None


def probabilities(output: Array, head: Head) -> npt.NDArray[np.float64]:
    """Convert an ``output`` ``(n, classes)`` of this meaning to probabilities of exclusive labels.

    Independent labels get the probability of each, given that exactly one applies.
    """
    values = output.astype(np.float64)
    if head.meaning in ("softmax", "binary"):
        values = np.clip(values / head.total, 0.0, 1.0)
        return values if head.meaning == "softmax" else np.concatenate([1 - values, values], 1)
    if head.meaning == "sigmoid":
        clipped = np.clip(values, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
        return softmax(np.log(clipped / (1 - clipped)))
    return softmax(output)


def scores_of(editor: Editor, head: Head, output: str, kind: int, shape: tuple[int, ...]) -> str:
    """Add nodes that convert the output, or the logits, to scores ``(n, classes)`` float32.

    Args:
        head: Meaning of the output.
        output: Name of the output.
        kind: Element type of the logits, or of the output if there are none.
        shape: Shape of that tensor.

    Returns:
        Name of the tensor of scores.
    """
    name = head.logits or output
    if kind != TensorProto.FLOAT:
        name = editor.append("Cast", [name], "scores_float", to=TensorProto.FLOAT)
    if len(shape) != 2:
        name = editor.append("Reshape", [name, np.array([-1, int(np.prod(shape[1:]))], np.int64)], "scores_row")
    if head.meaning == "binary":  # the logit of the first label is 0
        if head.logits is None:
            name = _log_odds(editor, name)
        nothing = editor.append("Sub", [name, name], "scores_nothing")
        return editor.append("Concat", [nothing, name], "scores_both", axis=1)
    if head.logits is not None or head.meaning not in ("softmax", "sigmoid"):
        return name
    if head.total != 1.0:
        name = editor.append("Div", [name, np.float32(head.total)], "scores_share")
    if head.meaning == "sigmoid":
        return _log_odds(editor, name)
    name = editor.append("Max", [name, np.float32(_MIN_PROBABILITY)], "scores_least")
    return editor.append("Log", [name], "scores_logarithm")


def _log_odds(editor: Editor, name: str) -> str:
    """Add nodes from probabilities to the logits whose sigmoid they are."""
    name = editor.append("Max", [name, np.float32(_MIN_PROBABILITY)], "scores_least")
    name = editor.append("Min", [name, np.float32(1 - _MIN_PROBABILITY)], "scores_most")
    other = editor.append("Sub", [np.float32(1), name], "scores_other")
    name = editor.append("Div", [name, other], "scores_odds")
    return editor.append("Log", [name], "scores_logarithm")
