"""Analysis and edits of a user's ONNX graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from cachenet.models.export.onnx_file import copied, subgraphs


def uses(node: NodeProto) -> list[str]:
    """Return the tensors that a node needs: its inputs, and what its subgraphs capture."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for inner in subgraphs(attribute):
            names += [name for name in _captured(inner) if name not in names]
    return names


def ending_in(model: ModelProto, *outputs: str) -> ModelProto:
    """Return a copy of the model with these outputs and without nodes and weights that only others need."""
    cut = copied(model)
    needed, nodes = set(outputs), []
    for node in reversed(cut.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(uses(node))
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in reversed(nodes)]
    weights = [weight.SerializeToString() for weight in cut.graph.initializer if weight.name in needed]
    dropped = {weight.name for weight in cut.graph.initializer} - needed
    del cut.graph.node[:], cut.graph.output[:]
    cut.graph.node.extend(nodes)
    if len(weights) < len(cut.graph.initializer):
        del cut.graph.initializer[:]
        for data in weights:
            cut.graph.initializer.add().ParseFromString(data)
        inputs = [ValueInfoProto.FromString(value.SerializeToString()) for value in cut.graph.input]
        del cut.graph.input[:]
        cut.graph.input.extend(value for value in inputs if value.name not in dropped)
    cut.graph.output.extend(ValueInfoProto(name=name) for name in dict.fromkeys(outputs))
    return cut


class Ancestry:
    """The tensors of a graph that depend on its input, and the node that makes each.

    Args:
        source: Name of its input.
    """

    def __init__(self, graph: GraphProto, source: str) -> None:
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self._dependent = {source}
        for node in graph.node:
            if self._dependent.intersection(uses(node)):
                self._dependent.update(node.output)

    def line(self, name: str) -> Iterator[tuple[NodeProto, str]]:
        """Walk from the tensor ``name`` to the input while each node needs a single dependent tensor.

        Yields:
            The node, and the tensor that it needs.
        """
        while (node := self.makers.get(name)) is not None:
            sources = [one for one in dict.fromkeys(uses(node)) if one in self._dependent]
            if len(sources) != 1:
                return
            name = sources[0]
            yield node, name


class Editor:
    """Adds nodes to a model. Constants are nodes, which every file version accepts."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        graph = model.graph
        self._used = {name for node in graph.node for name in (*node.input, *node.output)}
        self._used |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}

    def free(self, name: str) -> str:
        """Return ``name``, with underscores appended until no tensor has it."""
        while name in self._used:
            name += "_"
        self._used.add(name)
        return name

    def append(self, kind: str, inputs: list[str | npt.NDArray[Any]], name: str, **attributes: Any) -> str:
        """Add a node at the end and return its output; ``inputs`` are names of tensors, or constants."""
        names = [value if isinstance(value, str) else self._constant(value, f"{name}_constant") for value in inputs]
        output = self.free(name)
        self.model.graph.node.append(helper.make_node(kind, names, [output], name=output, **attributes))
        return output

    def prepend(self, nodes: list[NodeProto]) -> None:
        """Insert ``nodes`` before all others."""
        after = [NodeProto.FromString(node.SerializeToString()) for node in self.model.graph.node]
        del self.model.graph.node[:]
        self.model.graph.node.extend([*nodes, *after])

    def _constant(self, value: npt.NDArray[Any], name: str) -> str:
        output = self.free(name)
        tensor = numpy_helper.from_array(np.asarray(value), output)
        self.model.graph.node.append(helper.make_node("Constant", [], [output], name=output, value=tensor))
        return output


def _captured(graph: GraphProto) -> list[str]:
    """Return the tensors that a subgraph, or a graph within it, takes from outside."""
    own = {value.name for value in (*graph.input, *graph.initializer)}
    found: list[str] = []
    for node in graph.node:
        found += [name for name in uses(node) if name not in own and name not in found]
        own.update(node.output)
    # A branch may output a tensor from outside unchanged.
    return found + [value.name for value in graph.output if value.name not in own and value.name not in found]
