"""A network cut between its layers into segments that run one after the other and together do what it did whole.

A cut is a place in the graph's order with few tensors that what comes after still needs: the end of a block, and where
several networks stand side by side in one graph, what has been found out so far and the picture.

The ONNX file is cut as it is, in the wire format of protocol buffers: nodes and weights are carried over as they stand,
so that nothing but the names of tensors has to be understood, and a device needs no package for it. Numbers of fields
are those of ``onnx.proto`` (ONNX, github.com/onnx/onnx).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cachenet.shared.command.errors import UserError

#: Of ModelProto, GraphProto, NodeProto, TensorProto and ValueInfoProto.
_IR, _GRAPH, _OPSETS, _FUNCTIONS = 1, 7, 8, 25
_NODE, _GRAPH_NAME, _WEIGHT, _INPUT, _OUTPUT = 1, 2, 5, 11, 12
_TAKES, _MAKES, _KIND = 1, 2, 4
_WEIGHT_NAME, _ELSEWHERE = 8, 13
_VALUE_NAME = 1
#: TypeProto of a float32 tensor of any shape: its field 1, a Tensor whose field 1, the element's type, is 1.
_FLOATS = b"\x12\x04\x0a\x02\x08\x01"
#: Operators with graphs of their own, which see tensors that their inputs do not name.
_NESTED = (b"If", b"Loop", b"Scan")


class SegmentError(UserError):
    """A model that cannot be cut where it was to be; the message says why."""


class Segment(NamedTuple):
    """``model``: an ONNX file that makes the tensors ``gives`` of those that it ``needs``."""

    model: bytes
    needs: tuple[str, ...]
    gives: tuple[str, ...]


@dataclass(frozen=True)
class _Node:
    raw: bytes
    takes: tuple[str, ...]
    makes: tuple[str, ...]


@dataclass(frozen=True)
class SplitModel:
    """An ONNX file, taken apart: ``image`` and ``output`` are names of tensors."""

    image: str
    output: str
    _frame: bytes
    _nodes: tuple[_Node, ...]
    _weights: dict[str, bytes]


def read(data: bytes) -> SplitModel:
    """Raises ``SegmentError`` for what is no model, or none that can be cut."""
    try:
        fields = list(_fields(data))
        graph = list(_fields(next(value for number, value, _ in fields if number == _GRAPH)))
        nodes = tuple(_node(value) for number, value, _ in graph if number == _NODE)
        weights = {_text(value, _WEIGHT_NAME): _stored(value) for number, value, _ in graph if number == _WEIGHT}
        inputs = [_text(value, _VALUE_NAME) for number, value, _ in graph if number == _INPUT]
        image = next(name for name in inputs if name not in weights)
        output = next(_text(value, _VALUE_NAME) for number, value, _ in graph if number == _OUTPUT)
    except (StopIteration, IndexError, ValueError):
        raise SegmentError("it is no ONNX file") from None
    frame = b"".join(raw for number, _, raw in fields if number in (_IR, _OPSETS, _FUNCTIONS))
    return SplitModel(image, output, frame, nodes, weights)


def cut(model: SplitModel, places: Sequence[Sequence[str]]) -> list[Segment]:
    """The segments of ``model`` cut at each of ``places``, in order: names of all tensors that what comes after needs.
    Raises ``SegmentError`` if one is no such place."""
    segments: list[Segment] = []
    before: tuple[str, ...] = (model.image,)
    for end in (*places, (model.output,)):
        wanted = tuple(name for name in end if name not in before)
        if not wanted:
            raise SegmentError(f"nothing is done between {', '.join(before)} and {', '.join(end)}")
        segments.append(_between(model, before, wanted))
        before = tuple(end)
    return segments


def _between(model: SplitModel, given: Sequence[str], wanted: tuple[str, ...]) -> Segment:
    """What makes ``wanted`` out of ``given``."""
    makers = {name: place for place, node in enumerate(model._nodes) for name in node.makes}
    needed, kept, left = set[str](), set[int](), list(wanted)
    while left:
        name = left.pop()
        if name in needed or not name:
            continue
        needed.add(name)
        if name in given or name in model._weights:
            continue
        if name not in makers:
            raise SegmentError(f"{', '.join(wanted)} cannot be made from {', '.join(given)} alone")
        if makers[name] not in kept:
            kept.add(makers[name])
            left += model._nodes[makers[name]].takes
    needs = tuple(name for name in given if name in needed)
    graph = b"".join(
        [
            *(_field(_NODE, model._nodes[place].raw) for place in sorted(kept)),
            _field(_GRAPH_NAME, b"segment"),
            *(_field(_WEIGHT, raw) for name, raw in model._weights.items() if name in needed),
            *(_field(_INPUT, _field(_VALUE_NAME, name.encode()) + _FLOATS) for name in needs),
            *(_field(_OUTPUT, _field(_VALUE_NAME, name.encode()) + _FLOATS) for name in wanted),
        ]
    )
    return Segment(model._frame + _field(_GRAPH, graph), needs, wanted)


def _node(data: bytes) -> _Node:
    fields = list(_fields(data))
    if any(number == _KIND and value in _NESTED for number, value, _ in fields):
        raise SegmentError("it has graphs within its graph (If, Loop or Scan)")
    takes, makes = (
        tuple(value.decode() for number, value, _ in fields if number == wanted) for wanted in (_TAKES, _MAKES)
    )
    return _Node(data, takes, makes)


def _stored(data: bytes) -> bytes:
    """A weight, if it is in the file."""
    if any(number == _ELSEWHERE for number, _, _ in _fields(data)):
        raise SegmentError("its weights are in other files; save it as one")
    return data


def _text(data: bytes, wanted: int) -> str:
    return next(value for number, value, _ in _fields(data) if number == wanted).decode()


def _fields(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The fields of a message: number, value and the whole of it. Values that are numbers come as they stand."""
    at = 0
    while at < len(data):
        begun = at
        key, at = _number(data, at)
        kind = key & 7
        if kind == 2:
            size, at = _number(data, at)
            value, at = data[at : at + size], at + size
        else:
            if kind not in (0, 1, 5):
                raise ValueError("no protocol buffer")
            after = _number(data, at)[1] if kind == 0 else at + (8 if kind == 1 else 4)
            value, at = data[at:after], after
        if at > len(data):
            raise ValueError("cut short")
        yield key >> 3, value, data[begun:at]


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number, and the place after it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("no number")


def _field(number: int, value: bytes) -> bytes:
    return _written(number << 3 | 2) + _written(len(value)) + value


def _written(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])
