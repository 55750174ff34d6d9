"""INT8 quantisation of weights and activations.

Static, per channel, as QuantizeLinear and DequantizeLinear around each operator, which every execution provider reads
(R. Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference", arXiv 1806.08342, sections 3.1 and
4). Ranges are minimum and maximum.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.version_converter
from onnx import ModelProto, TensorProto, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from cachenet.models.export import cost
from cachenet.models.export.onnx_file import copied
from cachenet.shared.command import atomic_files

Tensor = npt.NDArray[np.float32]
#: Images of a calibration batch.
_BATCH = 50
#: First operator set whose DequantizeLinear has a scale for each channel.
_PER_CHANNEL = 13
#: Timed runs of each model.
_RUNS = 60


@dataclass(frozen=True)
class PrecisionComparison:
    """Size and time of one model as a share of another's, for example INT8 of float16."""

    bytes: float
    time: float


def int8(
    model: ModelProto, images: Tensor, operators: Sequence[str] | None = None, excluded: Sequence[str] = ()
) -> ModelProto:
    """Quantise ``model`` with ranges from ``images`` ``(n, 3, h, w)``; keep the metadata.

    Args:
        operators: Kinds of operators to quantise; None for all that ONNX Runtime can.
        excluded: Names of nodes that stay in floating point.
    """
    with tempfile.TemporaryDirectory() as directory, _quiet():
        floats, out = Path(directory, "floats.onnx"), Path(directory, "int8.onnx")
        onnx.save(_with_opset(folded(model), _PER_CHANNEL), str(floats))
        quantize_static(
            str(floats),
            str(out),
            _Reader(model.graph.input[0], images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=None if operators is None else list(operators),
            nodes_to_exclude=list(excluded),
        )
        quantised = onnx.load(str(out))
    del quantised.metadata_props[:]
    quantised.metadata_props.extend(model.metadata_props)
    return quantised


def match_precision(other: Path, path: Path, images: Tensor) -> None:
    """Convert the model at ``path`` to INT8 if the one at ``other`` is in INT8. Raises ``OSError``."""
    if any(node.op_type == "QuantizeLinear" for node in onnx.load(str(other)).graph.node):
        atomic_files.write(path, int8(onnx.load(str(path)), images).SerializeToString(deterministic=True))


def compare(before: Path, after: Path, image: Tensor) -> PrecisionComparison:
    """Measure the model at ``after`` relative to the one at ``before``."""
    seconds, other = cost.run_seconds([before, after], image, _RUNS)
    return PrecisionComparison(after.stat().st_size / before.stat().st_size, other / seconds)


def _with_opset(model: ModelProto, least: int) -> ModelProto:
    """``model`` in operator set ``least`` or a later one."""
    version = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    return model if version >= least else onnx.version_converter.convert_version(model, least)


def folded(model: ModelProto) -> ModelProto:
    """Fold the casts of stored float16 and INT8 weights to float32, because they hide weights from the quantiser."""
    changed = copied(model)
    stored = {weight.name: weight for weight in changed.graph.initializer}
    nodes = []
    for node in changed.graph.node:
        constant = all(name in stored for name in node.input)
        if constant and node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT:
            value = numpy_helper.to_array(stored[node.input[0]]).astype(np.float32)
        elif constant and node.op_type == "Mul":
            first, second = (numpy_helper.to_array(stored[name]) for name in node.input)
            value = first * second
        else:
            nodes.append(node)
            continue
        stored[node.output[0]] = numpy_helper.from_array(value, node.output[0])
    needed = {name for node in nodes for name in node.input}
    del changed.graph.node[:], changed.graph.initializer[:]
    changed.graph.node.extend(nodes)
    changed.graph.initializer.extend(weight for name, weight in stored.items() if name in needed)
    return changed


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, taken: onnx.ValueInfoProto, images: Tensor) -> None:
        batch = taken.type.tensor_type.shape.dim[0].dim_value or _BATCH  # a detector's graph fixes it
        self._batches = ({taken.name: images[at : at + batch]} for at in range(0, len(images), batch))

    def get_next(self) -> dict[str, Tensor] | None:
        return next(self._batches, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the quantiser's advice on preparing a model."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
