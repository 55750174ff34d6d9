"""Split an ONNX model into segments that run one after the other and compute the same outputs.

A split site is a set of tensors from which the rest of the graph can be computed, such as the output of a block.

The file is split in the wire format of protocol buffers: nodes and weights are copied as bytes, and only names of
tensors are parsed. So a device does not need the package ``onnx``. Field numbers are those of ``onnx.proto``
(github.com/onnx/onnx).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cachenet.shared.command.errors import UserError

#: Field numbers of ModelProto.
_IR, _GRAPH, _OPSETS, _FUNCTIONS = 1, 7, 8, 25
#: Field numbers of GraphProto.
_NODE, _GRAPH_NAME, _WEIGHT, _INPUT, _OUTPUT = 1, 2, 5, 11, 12
#: Field numbers of NodeProto: input, output, op_type.
_NODE_INPUT, _NODE_OUTPUT, _OP_TYPE = 1, 2, 4
#: Field numbers of TensorProto: name, external_data.
_WEIGHT_NAME, _EXTERNAL_DATA = 8, 13
#: Field number of ValueInfoProto: name.
_VALUE_NAME = 1
#: Encoded TypeProto of a float32 tensor of any shape: field 1 (Tensor), whose field 1 (elem_type) is 1.
_FLOATS = b"\x12\x04\x0a\x02\x08\x01"
#: Operators with subgraphs, which use tensors that are not among their inputs.
_NESTED = (b"If", b"Loop", b"Scan")


class SegmentError(UserError):
    """A model that cannot be split at the given sites. The message says why."""


class Segment(NamedTuple):
    """A segment: an ONNX file, the names of its inputs (``needs``) and of its outputs (``gives``)."""

    model: bytes
    needs: tuple[str, ...]
    gives: tuple[str, ...]


@dataclass(frozen=True)
class _Node:
    raw: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class SplitModel:
    """A parsed ONNX file; ``image`` and ``output`` are the names of its input and output tensors."""

    image: str
    output: str
    _frame: bytes
    _nodes: tuple[_Node, ...]
    _weights: dict[str, bytes]


def read(data: bytes) -> SplitModel:
    """Parse an ONNX file. Raises ``SegmentError``."""
    try:
        fields = list(_fields(data))
        graph = list(_fields(next(value for number, value, _ in fields if number == _GRAPH)))
        nodes = tuple(_node(value) for number, value, _ in graph if number == _NODE)
        weights = {_text(value, _WEIGHT_NAME): _stored(value) for number, value, _ in graph if number == _WEIGHT}
        inputs = [_text(value, _VALUE_NAME) for number, value, _ in graph if number == _INPUT]
        image = next(name for name in inputs if name not in weights)
        output = next(_text(value, _VALUE_NAME) for number, value, _ in graph if number == _OUTPUT)
    except (StopIteration, IndexError, ValueError):
        raise SegmentError("it is not an ONNX file") from None
    frame = b"".join(raw for number, _, raw in fields if number in (_IR, _OPSETS, _FUNCTIONS))
    return SplitModel(image, output, frame, nodes, weights)


def tensor_names(data: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the inputs, without weights, and of the outputs of an ONNX file, in order. Raises ``SegmentError``."""
    try:
        graph = list(_fields(next(value for number, value, _ in _fields(data) if number == _GRAPH)))
        weights = {_text(value, _WEIGHT_NAME) for number, value, _ in graph if number == _WEIGHT}
        inputs, outputs = (
            tuple(_text(value, _VALUE_NAME) for number, value, _ in graph if number == wanted)
            for wanted in (_INPUT, _OUTPUT)
        )
    except (StopIteration, IndexError, ValueError):
        raise SegmentError("it is not an ONNX file") from None
    return tuple(name for name in inputs if name not in weights), outputs


def cut(model: SplitModel, places: Sequence[Sequence[str]]) -> list[Segment]:
    """Split a model.

    Args:
        places: Split sites in order, each the names of all tensors that the rest of the graph needs.

    Raises:
        SegmentError: The rest of the graph cannot be computed from a site.
    """
    segments: list[Segment] = []
    before: tuple[str, ...] = (model.image,)
    for end in (*places, (model.output,)):
        wanted = tuple(name for name in end if name not in before)
        if not wanted:
            raise SegmentError(f"nothing is computed between {', '.join(before)} and {', '.join(end)}")
        segments.append(_between(model, before, wanted))
        before = tuple(end)
    return segments


def _between(model: SplitModel, available: Sequence[str], wanted: tuple[str, ...]) -> Segment:
    """The segment that computes the tensors ``wanted`` from the tensors ``available``."""
    producers = {name: number for number, node in enumerate(model._nodes) for name in node.outputs}
    needed, nodes, left = set[str](), set[int](), list(wanted)
    while left:
        name = left.pop()
        if name in needed or not name:
            continue
        needed.add(name)
        if name in available or name in model._weights:
            continue
        if name not in producers:
            raise SegmentError(f"{', '.join(wanted)} cannot be computed from {', '.join(available)} alone")
        if producers[name] not in nodes:
            nodes.add(producers[name])
            left += model._nodes[producers[name]].inputs
    needs = tuple(name for name in available if name in needed)
    graph = b"".join(
        [
            *(_field(_NODE, model._nodes[number].raw) for number in sorted(nodes)),
            _field(_GRAPH_NAME, b"segment"),
            *(_field(_WEIGHT, raw) for name, raw in model._weights.items() if name in needed),
            *(_field(_INPUT, _field(_VALUE_NAME, name.encode()) + _FLOATS) for name in needs),
            *(_field(_OUTPUT, _field(_VALUE_NAME, name.encode()) + _FLOATS) for name in wanted),
        ]
    )
    return Segment(model._frame + _field(_GRAPH, graph), needs, wanted)


def _node(data: bytes) -> _Node:
    fields = list(_fields(data))
    if any(number == _OP_TYPE and value in _NESTED for number, value, _ in fields):
        raise SegmentError("it has subgraphs (If, Loop or Scan)")
    inputs, outputs = (
        tuple(value.decode() for number, value, _ in fields if number == wanted)
        for wanted in (_NODE_INPUT, _NODE_OUTPUT)
    )
    return _Node(data, inputs, outputs)


def _stored(data: bytes) -> bytes:
    """The encoded weight; refuses a weight in another file."""
    if any(number == _EXTERNAL_DATA for number, _, _ in _fields(data)):
        raise SegmentError("its weights are in other files; save it as one")
    return data


def _text(data: bytes, wanted: int) -> str:
    """The first text of a field. Raises ``ValueError``; ``StopIteration`` would end as ``RuntimeError`` in callers."""
    for number, value, _ in _fields(data):
        if number == wanted:
            return value.decode()
    raise ValueError(f"it has no field {wanted}")


def _fields(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield number, value and encoding of each field of a message; numeric values stay encoded."""
    at = 0
    while at < len(data):
        start = at
        key, at = _number(data, at)
        kind = key & 7
        if kind == 2:
            size, at = _number(data, at)
            value, at = data[at : at + size], at + size
        else:
            if kind not in (0, 1, 5):
                raise ValueError("not a protocol buffer")
            after = _number(data, at)[1] if kind == 0 else at + (8 if kind == 1 else 4)
            value, at = data[at:after], after
        if at > len(data):
            raise ValueError("truncated")
        yield key >> 3, value, data[start:at]


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Decode a varint; return its value and the position after it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("not a varint")


def _field(number: int, value: bytes) -> bytes:
    return _written(number << 3 | 2) + _written(len(value)) + value


def _written(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])
