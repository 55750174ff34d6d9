"""A network cut between its layers into segments that run one after the other and together do what it did whole.

A cut is a place in the graph's order with few tensors that what comes after still needs: the end of a block, and where
several networks stand side by side in one graph, what has been found out so far and the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, shape_inference

#: For each tensor its sizes; None where they are not known before a run.
Shapes = dict[str, tuple[int | None, ...]]


class SegmentError(Exception):
    """A model that cannot be cut where it was to be; the message says why."""


class Segment(NamedTuple):
    """``needs``, the picture first where it is among them, and ``gives``: names of tensors."""

    model: ModelProto
    needs: tuple[str, ...]
    gives: tuple[str, ...]


def read(path: Path) -> ModelProto:
    """Raises ``SegmentError`` for a file that is no model."""
    try:
        return onnx.load(str(path))
    except Exception as error:  # protobuf's error is of a package that is not ours to name
        raise SegmentError(f"{path.name}: {error}") from None


def image(model: ModelProto) -> str:
    """Name of the tensor that the picture comes in."""
    weights = {weight.name for weight in model.graph.initializer}
    return next(str(given.name) for given in model.graph.input if given.name not in weights)


def working(model: ModelProto) -> list[NodeProto]:
    """The nodes that do something for each picture; the others make weights and are done once."""
    fixed = {weight.name for weight in model.graph.initializer} | {""}
    nodes = []
    for node in model.graph.node:
        if all(name in fixed for name in node.input):
            fixed.update(node.output)
        else:
            nodes.append(node)
    return nodes


def shapes(model: ModelProto, side: int) -> Shapes:
    """Of every tensor, for one picture of ``side`` pixels."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    known: Shapes = {weight.name: tuple(weight.dims) for weight in fixed.graph.initializer}
    for given in fixed.graph.input:
        if given.name not in known:
            for size, value in zip(given.type.tensor_type.shape.dim, (1, 3, side, side), strict=True):
                size.dim_value = value
    inferred = shape_inference.infer_shapes(fixed, data_prop=True).graph
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        known[value.name] = tuple(
            size.dim_value if size.HasField("dim_value") else None for size in value.type.tensor_type.shape.dim
        )
    return known


def cut(model: ModelProto, places: Sequence[Sequence[str]], side: int) -> list[Segment]:
    """The segments of ``model`` cut at each of ``places``, in order: names of all tensors that what comes after needs.
    Raises ``SegmentError`` if it is no such place."""
    picture, known = image(model), shapes(model, side)
    ends = [*places, [str(model.graph.output[0].name)]]
    segments: list[Segment] = []
    before: tuple[str, ...] = (picture,)
    for end in ends:
        wanted = [name for name in end if name not in before]
        if not wanted:
            raise SegmentError(f"nothing is done between {', '.join(before)} and {', '.join(end)}")
        segments.append(_between(model, before, wanted, picture, known))
        before = tuple(end)
    return segments


def _between(model: ModelProto, given: Sequence[str], wanted: Sequence[str], picture: str, known: Shapes) -> Segment:
    """What makes ``wanted`` out of ``given``."""
    makers = {name: node for node in model.graph.node for name in node.output}
    stored = {weight.name: weight for weight in model.graph.initializer}
    needed, left, kept, weights = set[str](), list(wanted), set[int](), dict[str, TensorProto]()
    while left:
        name = left.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in given:
            continue
        if name in stored:
            weights[name] = stored[name]
        elif name in makers:
            node = makers[name]
            if id(node) not in kept:
                kept.add(id(node))
                left += [one for one in node.input if one]
        else:
            raise SegmentError(f"{', '.join(wanted)} cannot be made from {', '.join(given)} alone")
    inputs = [name for name in given if name in needed]
    made = ModelProto()
    made.ir_version = model.ir_version
    made.opset_import.extend(model.opset_import)
    made.graph.CopyFrom(
        helper.make_graph(
            [node for node in model.graph.node if id(node) in kept],
            "segment",
            [_described(name, known) for name in inputs],
            [_described(name, known) for name in wanted],
            list(weights.values()),
        )
    )
    made.functions.extend(model.functions)
    inputs.sort(key=lambda name: name != picture)
    return Segment(made, tuple(inputs), tuple(wanted))


def _described(name: str, known: Shapes) -> onnx.ValueInfoProto:
    """A tensor as a graph's input or output, with any number of pictures."""
    sizes: list[int | str | None] | None = list(known[name]) if name in known else None
    if sizes:
        sizes[0] = "n"
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)
