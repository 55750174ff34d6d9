"""What the output of a classifier means, and the scores in it: numbers whose softmax is how sure the model is.

A file may end in logits, in probabilities, in their logarithms, or in anything made of these. Which one it is shows in
the numbers themselves, on pictures that differ; the graph then tells where the logits are, and the numbers again
whether those are the right ones.
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
#: Operators that make probabilities or their logarithms of logits.
_SQUASHING = ("Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid")
#: Operators with weights: logits are not looked for before the last of them.
_WEIGHTED = (
    "Gemm", "MatMul", "Conv", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "QGemm", "FusedMatMul",
    "FusedGemm", "FusedConv",
)  # fmt: skip
#: How far the sum of probabilities may be from one, and probabilities from each other: float16 and eight bits round.
_SUM, _ALIKE = 0.02, 0.02
#: Least probability that a logarithm is taken of.
_LEAST = 1e-6
#: Numbers of an embedding at the most; a map of features is none.
_LARGEST = 16_384


@dataclass(frozen=True)
class Head:
    """``meaning``: of the output; ``binary`` is one probability, that of the second of two labels. ``whole``: what
    probabilities add up to, 1 mostly, 100 of percentages. ``logits``: the tensor that holds them, None where only the
    output does."""

    meaning: Meaning
    whole: float = 1.0
    logits: str | None = None


def logits_before(ancestry: Ancestry, output: str) -> tuple[str, str] | None:
    """The operator that makes probabilities of logits, nearest to the output, and the tensor of logits before it."""
    for node, source in ancestry.line(output):
        if node.op_type in _SQUASHING:
            return str(node.op_type), source
        if node.op_type in _WEIGHTED:
            return None
    return None


def features_before(ancestry: Ancestry, scores: str) -> str | None:
    """What the last operator with weights sees."""
    for node, source in ancestry.line(scores):
        if node.op_type in _WEIGHTED:
            return source
    return None


def is_embedding(features: Array) -> bool:
    """Whether ``features`` ``(n, ...)`` of pictures can stand for them."""
    return features.ndim >= 2 and 2 <= features[0].size <= _LARGEST and np.issubdtype(features.dtype, np.number)


def meaning_of(output: Array) -> tuple[Meaning, float]:
    """Of ``output`` ``(n, classes)`` of pictures that differ, by its numbers; and what probabilities add up to."""
    if not np.isfinite(output).all():
        return "logits", 1.0
    given = output.astype(np.float64)
    sums = given.sum(1)
    middle = float(np.median(sums))
    if given.min() >= -_LEAST and middle > 0 and np.abs(sums / middle - 1).max() <= _SUM:
        if abs(middle - 1) <= _SUM:
            return "softmax", 1.0
        # Another sum than one is that of probabilities if they change and it does not.
        if np.ptp(given, axis=0).max() > _SUM * middle:
            return "softmax", middle
    if given.max() <= _LEAST and np.abs(np.exp(given).sum(1) - 1).max() <= _SUM:
        return "log-softmax", 1.0
    if given.min() >= -_LEAST and given.max() <= 1 + _LEAST:
        return "sigmoid", 1.0
    return "logits", 1.0


def head_of(output: Array, found: tuple[str, str] | None, logits: Array | None) -> Head:
    """``output`` and ``logits`` ``(n, classes)``; ``found``: see ``logits_before``, whose tensor ``logits`` holds."""
    meaning, whole = meaning_of(output)
    if found is None or logits is None or logits.shape != output.shape or not np.isfinite(logits).all():
        return Head(meaning, whole)
    operator, name = found
    if output.shape[1] == 1:
        return _binary_head(output, logits, name) or Head(meaning, whole)
    given, said = output.astype(np.float64), logits.astype(np.float64)
    first = np.take_along_axis(given, said.argmax(1)[:, None], 1)[:, 0]
    spread = max(float(np.ptp(given[np.isfinite(given)])), 1e-12)
    if (given.max(1) - first > _ALIKE * spread).any():  # it puts another label first: these are not its logits
        return Head(meaning, whole)
    if operator in ("Sigmoid", "HardSigmoid"):
        return Head("sigmoid", whole, name)
    likely = given / whole if meaning == "softmax" else np.exp(given)
    if meaning in ("softmax", "log-softmax") and np.abs(softmax(logits) - likely).max() > _ALIKE:
        return Head(meaning, whole)
    return Head("log-softmax" if operator == "LogSoftmax" else "softmax", whole, name)


def _binary_head(output: Array, logits: Array, name: str) -> Head | None:
    """Of one output a picture, ``(n, 1)``, with the tensor before its sigmoid, called ``name``; None where the output
    is no probability."""
    given, likely = output.astype(np.float64), 1 / (1 + np.exp(-logits.astype(np.float64)))
    for whole in (1.0, 100.0):  # a share, or per cent
        if np.abs(given / whole - likely).max() <= _ALIKE:
            return Head("binary", whole, name)
    # Something has changed the probability after the sigmoid, into the other label's for instance.
    return Head("binary") if given.min() >= -_LEAST and given.max() <= 1 + _LEAST else None


def probabilities(output: Array, head: Head) -> npt.NDArray[np.float64]:
    """How sure an ``output`` ``(n, classes)`` of this meaning is of each label, for one label a picture. Of independent
    labels: the probability of each, given that one alone applies."""
    given = output.astype(np.float64)
    if head.meaning == "softmax":
        return np.clip(given / head.whole, 0.0, 1.0)
    if head.meaning == "binary":
        share = np.clip(given / head.whole, 0.0, 1.0)
        return np.concatenate([1 - share, share], 1)
    if head.meaning == "sigmoid":
        clipped = np.clip(given, _LEAST, 1 - _LEAST)
        return softmax(np.log(clipped / (1 - clipped)))
    return softmax(output)


def scores_of(editor: Editor, head: Head, output: str, kind: int, shape: tuple[int, ...]) -> str:
    """Put what is missing after ``output``, or after the logits, so that there are scores ``(n, classes)`` float32; the
    name of that tensor. ``kind``, ``shape``: of the tensor that is there."""
    name = head.logits or output
    if kind != TensorProto.FLOAT:
        name = editor.append("Cast", [name], "scores_float", to=TensorProto.FLOAT)
    if len(shape) != 2:
        name = editor.append("Reshape", [name, np.array([-1, int(np.prod(shape[1:]))], np.int64)], "scores_row")
    if head.meaning == "binary":  # the first label's logit is 0
        if head.logits is None:
            name = _log_odds(editor, name)
        nothing = editor.append("Sub", [name, name], "scores_nothing")
        return editor.append("Concat", [nothing, name], "scores_both", axis=1)
    if head.logits is not None or head.meaning not in ("softmax", "sigmoid"):
        return name
    if head.whole != 1.0:
        name = editor.append("Div", [name, np.float32(head.whole)], "scores_share")
    if head.meaning == "sigmoid":
        return _log_odds(editor, name)
    name = editor.append("Max", [name, np.float32(_LEAST)], "scores_least")
    return editor.append("Log", [name], "scores_logarithm")


def _log_odds(editor: Editor, name: str) -> str:
    """Of the tensor ``name`` of probabilities, the logits whose sigmoid they are."""
    name = editor.append("Max", [name, np.float32(_LEAST)], "scores_least")
    name = editor.append("Min", [name, np.float32(1 - _LEAST)], "scores_most")
    other = editor.append("Sub", [np.float32(1), name], "scores_other")
    name = editor.append("Div", [name, other], "scores_odds")
    return editor.append("Log", [name], "scores_logarithm")
