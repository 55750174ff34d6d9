"""Where a full model can be cut: places in its graph with one tensor of features to carry on, at the ends of blocks."""

from __future__ import annotations

import math
from typing import NamedTuple

from onnx import ModelProto

from models.cost import node_macs
from shared.segments import image, shapes, working

#: Places that are looked at, and the shares of the multiply-adds between which they are.
_SLOTS, _FIRST, _LAST = 18, 0.02, 0.95


class Cut(NamedTuple):
    """``tensors``: all that the rest needs, the picture too where it does; ``features``: those that tell something,
    of what comes after it the newest first. ``macs``: multiply-adds before it; ``share``: of all."""

    tensors: tuple[str, ...]
    features: tuple[str, ...]
    macs: int
    share: float


def cuts(model: ModelProto, side: int, slots: int = _SLOTS) -> list[Cut]:
    """In the order of the graph, at most ``slots``: what an answer there saves is a ratio, so there is one for each
    equal part of the logarithm of the multiply-adds, the one with least to carry.

    A place counts where a single tensor has been made of late, and what else is carried is the picture or vectors: then
    all paths run through it, or it is the end of one of several networks side by side.
    """
    known, picture = shapes(model, side), image(model)
    nodes = working(model)
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
        if not made or any(len(known.get(name, ())) > 2 for name in made[1:]) or not _FIRST <= done / total <= _LAST:
            continue
        carried = sum(math.prod(n or 1 for n in known.get(name, ())) for name in made)
        slot = int(slots * math.log(done / total / _FIRST) / -math.log(_FIRST))
        if slot not in best or carried <= best[slot][0]:
            best[slot] = carried, Cut(tuple(live), tuple(made), done, done / total)
    return [own for _, own in sorted(best.values(), key=lambda pair: pair[1].macs)]
