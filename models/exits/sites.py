"""Finds the sites of early exits in a full model's graph: places at the ends of blocks with one new feature tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from cachenet.models.export.cost import infer_shapes, node_macs
from cachenet.shared.inference.image import Size

#: Largest number of sites.
_SLOTS = 18
#: Smallest and largest share of the multiply-adds before a site.
_FIRST, _LAST = 0.02, 0.95
#: Sizes of each tensor; None for a size that is known only in a run.
Shapes = dict[str, tuple[int | None, ...]]


class Site(NamedTuple):
    """A site: the ``tensors`` that the rest of the graph needs, and ``features``, those computed from the picture, the
    newest first. ``macs``: multiply-adds before the site; ``share``: of all multiply-adds.
    """

    tensors: tuple[str, ...]
    features: tuple[str, ...]
    macs: int
    share: float


def find_sites(model: ModelProto, side: Size, slots: int = _SLOTS) -> list[Site]:
    """At most ``slots`` sites, in the order of the graph.

    An exit saves a ratio of the time. So there is one site for each equal step of the logarithm of the multiply-adds:
    the one with the fewest values to carry. At a site, the newest feature is a single tensor; the others are vectors or
    the picture. So all paths run through it, or it is the end of one of several parallel networks.
    """
    values = _values(model, side)
    known, picture, nodes = _sizes(model, values), _picture(model), _per_picture_nodes(model)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    last = {name: index for index, node in enumerate(nodes) for name in node.input}
    last |= {output.name: len(nodes) for output in model.graph.output}
    costs = [node_macs(node, {name: [n or 0 for n in sizes] for name, sizes in known.items()}) for node in nodes]
    total = sum(costs)
    live, done = [picture], 0
    best: dict[int, tuple[int, Site]] = {}
    for index, node in enumerate(nodes[:-1]):
        done += costs[index]
        live = [name for name in (*node.output, *live) if last.get(name, -1) > index]
        features = [name for name in live if name != picture]
        if not features or not all(name in floats for name in features) or len(known[features[0]]) not in (2, 4):
            continue
        if any(len(known[name]) > 2 for name in features[1:]) or not _FIRST <= done / total <= _LAST:
            continue
        carried = sum(math.prod(n or 1 for n in known.get(name, ())) for name in features)
        slot = int(slots * math.log(done / total / _FIRST) / -math.log(_FIRST))
        if slot not in best or carried <= best[slot][0]:
            best[slot] = carried, Site(tuple(live), tuple(features), done, done / total)
    return [own for _, own in sorted(best.values(), key=lambda pair: pair[1].macs)]


def shapes(model: ModelProto, side: Size) -> Shapes:
    """Sizes of every tensor, for one picture of that size."""
    return _sizes(model, _values(model, side))


def known_site(tensors: tuple[str, ...], image: str, share: float) -> Site:
    """The site of an exit in a bundle. ``image``: name of the picture's tensor."""
    return Site(tensors, tuple(name for name in tensors if name != image), 0, share)


def _values(model: ModelProto, side: Size) -> list[ValueInfoProto]:
    """Types and sizes of the tensors that are not weights."""
    graph = infer_shapes(model, side)
    return [*graph.input, *graph.value_info, *graph.output]


def _sizes(model: ModelProto, values: Sequence[ValueInfoProto]) -> Shapes:
    known: Shapes = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    for value in values:
        known[value.name] = tuple(
            size.dim_value if size.HasField("dim_value") else None for size in value.type.tensor_type.shape.dim
        )
    return known


def _per_picture_nodes(model: ModelProto) -> list[NodeProto]:
    """The nodes that depend on the picture; the others compute weights, once."""
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
    return next(str(tensor.name) for tensor in model.graph.input if tensor.name not in weights)
