"""Where a full model can be cut: places in its graph with one tensor of features to carry on, at the ends of blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from cachenet.models.export.cost import inferred, node_macs
from cachenet.shared.inference.image import Size

#: Places that are looked at, and the shares of the multiply-adds between which they are.
_SLOTS, _FIRST, _LAST = 18, 0.02, 0.95
#: For each tensor its sizes; None where they are not known before a run.
Shapes = dict[str, tuple[int | None, ...]]


class Cut(NamedTuple):
    """``tensors``: all that the rest needs, the picture too where it does; ``features``: those that tell something,
    of what comes after it the newest first. ``macs``: multiply-adds before it; ``share``: of all."""

    tensors: tuple[str, ...]
    features: tuple[str, ...]
    macs: int
    share: float


def cuts(model: ModelProto, side: Size, slots: int = _SLOTS) -> list[Cut]:
    """In the order of the graph, at most ``slots``: what an answer there saves is a ratio, so there is one for each
    equal part of the logarithm of the multiply-adds, the one with least to carry.

    A place counts where a single tensor has been made of late, and what else is carried is the picture or vectors: then
    all paths run through it, or it is the end of one of several networks side by side.
    """
    values = _values(model, side)
    known, picture, nodes = _sizes(model, values), _picture(model), _working(model)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    last = {name: place for place, node in enumerate(nodes) for name in node.input}
    last |= {output.name: len(nodes) for output in model.graph.output}
    costs = [node_macs(node, {name: [n or 0 for n in sizes] for name, sizes in known.items()}) for node in nodes]
    total = sum(costs)
    live, done = [picture], 0
    best: dict[int, tuple[int, Cut]] = {}
    for place, node in enumerate(nodes[:-1]):
        done += costs[place]
        live = [name for name in (*node.output, *live) if last.get(name, -1) > place]
        made = [name for name in live if name != picture]
        if not made or not all(name in floats for name in made) or len(known[made[0]]) not in (2, 4):
            continue
        if any(len(known[name]) > 2 for name in made[1:]) or not _FIRST <= done / total <= _LAST:
            continue
        carried = sum(math.prod(n or 1 for n in known.get(name, ())) for name in made)
        slot = int(slots * math.log(done / total / _FIRST) / -math.log(_FIRST))
        if slot not in best or carried <= best[slot][0]:
            best[slot] = carried, Cut(tuple(live), tuple(made), done, done / total)
    return [own for _, own in sorted(best.values(), key=lambda pair: pair[1].macs)]


def shapes(model: ModelProto, side: Size) -> Shapes:
    """Of every tensor, for one picture of that size."""
    return _sizes(model, _values(model, side))


def placed(tensors: tuple[str, ...], image: str, share: float) -> Cut:
    """A place that is known, as a bundle names it."""
    return Cut(tensors, tuple(name for name in tensors if name != image), 0, share)


def _values(model: ModelProto, side: Size) -> list[ValueInfoProto]:
    """What is known of the tensors that are no weights."""
    graph = inferred(model, side)
    return [*graph.input, *graph.value_info, *graph.output]


def _sizes(model: ModelProto, values: Sequence[ValueInfoProto]) -> Shapes:
    known: Shapes = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    for value in values:
        known[value.name] = tuple(
            size.dim_value if size.HasField("dim_value") else None for size in value.type.tensor_type.shape.dim
        )
    return known


def _working(model: ModelProto) -> list[NodeProto]:
    """The nodes that do something for each picture; the others make weights and are done once."""
    fixed = {weight.name for weight in model.graph.initializer} | {""}
    nodes = []
    for node in model.graph.node:
        if all(name in fixed for name in node.input):
            fixed.update(node.output)
        else:
            nodes.append(node)
    return nodes


def _picture(model: ModelProto) -> str:
    weights = {weight.name for weight in model.graph.initializer}
    return next(str(given.name) for given in model.graph.input if given.name not in weights)
