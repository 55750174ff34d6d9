"""Turns INT8 models into float32 models of the same graph: the opposite of ``quantise``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from cachenet.models.export.onnx_file import copied

_Stored = dict[str, TensorProto]


def dequantised(model: ModelProto) -> ModelProto:
    """A copy of ``model`` without QuantizeLinear and DequantizeLinear.

    Stored weights become float32. An activation is no longer rounded; where its range begins at zero it passes a Relu,
    because quantisers drop a Relu before such a range. The copy of a float model equals the model.
    """
    floats = copied(model)
    graph = floats.graph
    stored = {one.name: one for one in graph.initializer}
    quantised = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    outputs = {one.name for one in graph.output}
    taken = {*stored, *(one.name for one in graph.input), *(name for node in graph.node for name in node.output)}
    nodes: list[NodeProto] = []
    added: dict[str, TensorProto] = {}
    renamed: dict[str, str] = {}
    #: Results by source: of a stored weight, and of an activation after a Relu.
    weights, rectified = dict[str, str](), dict[str, str]()

    def fresh(name: str) -> str:
        """A name that no tensor has, because a quantiser that runs again may use its own names again."""
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            if node.input[0] not in weights:
                name = weights[node.input[0]] = fresh(node.input[0].removesuffix("_quantized"))
                added[name] = numpy_helper.from_array(_value(node, stored), name)
            renamed[node.output[0]] = weights[node.input[0]]
        elif node.op_type == "DequantizeLinear" and node.input[0] in quantised:
            source = quantised[node.input[0]]
            name = renamed.get(source.input[0], source.input[0])
            if _begins_at_zero(source, stored):
                if name not in rectified:
                    rectified[name] = fresh(name + ".relu")
                    nodes.append(helper.make_node("Relu", [name], [rectified[name]]))
                name = rectified[name]
            if node.output[0] in outputs:
                nodes.append(helper.make_node("Identity", [name], [node.output[0]]))
            else:
                renamed[node.output[0]] = name
        elif node.op_type != "QuantizeLinear":
            for at, name in enumerate(node.input):
                node.input[at] = renamed.get(name, name)
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    initializers = [one for one in (*stored.values(), *added.values()) if one.name in used]
    if quantised or added:
        del graph.value_info[:]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)
    return floats


def _value(node: NodeProto, stored: _Stored) -> npt.NDArray[np.float32]:
    """The float32 value of a stored tensor that ``node`` dequantises; scales are for all of it or for each channel."""
    value, scale = (numpy_helper.to_array(stored[name]).astype(np.float32) for name in node.input[:2])
    zero = numpy_helper.to_array(stored[node.input[2]]) if len(node.input) > 2 and node.input[2] else np.zeros(())
    axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
    shape = [1] * value.ndim
    if scale.size > 1:
        shape[axis] = scale.size
    else:
        scale, zero = scale.reshape(()), zero.reshape(())
    product: npt.NDArray[np.float32] = (value - zero.astype(np.float32).reshape(shape)) * scale.reshape(shape)
    return product.reshape(value.shape).astype(np.float32)


def _begins_at_zero(node: NodeProto, stored: _Stored) -> bool:
    """Whether ``node`` makes all negative values zero."""
    if len(node.input) < 3 or not node.input[2]:
        return True  # the default is uint8 with zero point 0
    zero = numpy_helper.to_array(stored[node.input[2]])
    return bool((zero == np.iinfo(zero.dtype).min).all())
