"""Edits of a user's ONNX graph: what depends on what, nodes put before and after it, and pieces cut off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from cachenet.models.export.onnx_file import subgraphs


def uses(node: NodeProto) -> list[str]:
    """Tensors of the node's own graph that it needs: its inputs, and what graphs within it take from outside."""
    found = [name for name in node.input if name]
    for attribute in node.attribute:
        for inner in subgraphs(attribute):
            found += [name for name in _captured(inner) if name not in found]
    return found


def ending_in(model: ModelProto, *outputs: str) -> ModelProto:
    """The model with these for its outputs and nothing that only others need."""
    cut = ModelProto()
    cut.CopyFrom(model)
    needed, nodes = set(outputs), []
    for node in reversed(cut.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(uses(node))
    kept = [node.SerializeToString() for node in reversed(nodes)]
    weights = [weight.SerializeToString() for weight in cut.graph.initializer if weight.name in needed]
    dropped = len(weights) < len(cut.graph.initializer)
    del cut.graph.node[:], cut.graph.output[:]
    cut.graph.node.extend(NodeProto.FromString(node) for node in kept)
    if dropped:
        names = {weight.name for weight in cut.graph.initializer} - needed
        inputs = [given for given in cut.graph.input if given.name not in names]
        del cut.graph.initializer[:]
        for data in weights:
            cut.graph.initializer.add().ParseFromString(data)
        given = [one.SerializeToString() for one in inputs]
        del cut.graph.input[:]
        cut.graph.input.extend(ValueInfoProto.FromString(one) for one in given)
    for name in dict.fromkeys(outputs):
        cut.graph.output.append(ValueInfoProto(name=name))
    return cut


class Ancestry:
    """Which tensors of a graph depend on its picture, and from which one each is made."""

    def __init__(self, graph: GraphProto, picture: str) -> None:
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self._dynamic = {picture}
        for node in graph.node:
            if self._dynamic.intersection(uses(node)):
                self._dynamic.update(node.output)

    def sources(self, node: NodeProto) -> list[str]:
        """What the node needs that depends on the picture."""
        return [name for name in dict.fromkeys(uses(node)) if name in self._dynamic]

    def line(self, name: str) -> Iterator[tuple[NodeProto, str]]:
        """From the tensor ``name`` towards the picture, as long as each node needs one tensor that depends on it: the
        node and that tensor."""
        while (node := self.makers.get(name)) is not None:
            sources = self.sources(node)
            if len(sources) != 1:
                return
            name = sources[0]
            yield node, name


class Editor:
    """Puts nodes into a model. Constants are nodes, which files of any version take."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        graph = model.graph
        self._taken = {name for node in graph.node for name in (*node.input, *node.output)}
        self._taken |= {one.name for one in (*graph.input, *graph.output, *graph.initializer)}

    def free(self, name: str) -> str:
        """``name``, or one like it that no tensor has."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def append(self, kind: str, inputs: list[str | npt.NDArray[Any]], name: str, **attributes: Any) -> str:
        """Add a node at the end; the tensor that it makes. ``inputs``: names of tensors, and constants."""
        names = [one if isinstance(one, str) else self._constant(one, f"{name}_constant") for one in inputs]
        made = self.free(name)
        self.model.graph.node.append(helper.make_node(kind, names, [made], name=made, **attributes))
        return made

    def prepend(self, nodes: list[NodeProto]) -> None:
        """Put ``nodes`` before all others."""
        after = [node.SerializeToString() for node in self.model.graph.node]
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)
        self.model.graph.node.extend(NodeProto.FromString(node) for node in after)

    def _constant(self, value: npt.NDArray[Any], name: str) -> str:
        made = self.free(name)
        tensor = numpy_helper.from_array(np.asarray(value), made)
        self.model.graph.node.append(helper.make_node("Constant", [], [made], name=made, value=tensor))
        return made


def _captured(graph: GraphProto) -> list[str]:
    """What a graph within another takes from outside, the graphs within it too."""
    own = {one.name for one in (*graph.input, *graph.initializer)}
    found: list[str] = []
    for node in graph.node:
        found += [name for name in uses(node) if name not in own and name not in found]
        own.update(node.output)
    # A branch may give a tensor from outside as it is.
    return found + [one.name for one in graph.output if one.name not in own and one.name not in found]
