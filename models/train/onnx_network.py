"""An ONNX graph as a PyTorch module: its weights can be trained and written back into the same graph.

Nothing but the values of weights changes, so that the trained model runs wherever the given one runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from cachenet.models.export.graph_edit import ending_in
from cachenet.models.export.onnx_file import copied
from cachenet.models.train.networks import Network
from cachenet.shared.command.errors import UserError

#: Operators whose weights are trained, and the numbers of these inputs: kernel and bias.
_TRAINED = {"Conv": (1, 2), "Gemm": (1, 2), "MatMul": (1,)}
Attributes = dict[str, Any]
Inputs = Sequence[Tensor | None]


class NotTrainable(UserError):
    """A graph has an operator without a gradient here. The message names the operator."""


class OnnxNetwork(Network):
    """Runs the graph of a model on batches, with weights that can be trained.

    Example:
        network = OnnxNetwork(model.graph)
        outputs = network.heads(torch.zeros(8, 3, 352, 352))  # one (8, 1, ...) tensor for each output of the graph
        trained = network.model()
    """

    def __init__(self, model: ModelProto, *outputs: str) -> None:
        """Copy the weights of ``model``.

        Args:
            outputs: Tensors to return; none for the outputs of the graph.

        Raises:
            NotTrainable: An operator has no gradient here, or there is no such tensor.
        """
        super().__init__()
        known = {name for node in model.graph.node for name in node.output}
        if missing := [name for name in outputs if name not in known]:
            raise NotTrainable(f"a model without a tensor {missing[0]!r} cannot be trained")
        self._whole = model
        model = ending_in(model, *outputs) if outputs else model
        [self._input] = [one.name for one in model.graph.input]
        self._outputs = [one.name for one in model.graph.output]
        self._nodes = [(node, _operator(node), _attributes(node)) for node in model.graph.node]
        stored = {one.name: torch.tensor(numpy_helper.to_array(one)) for one in model.graph.initializer}
        #: Name of the parameter of each trained weight, whose own name may have dots.
        self._trained = {name: f"weight_{number}" for number, name in enumerate(_trained(model, stored))}
        for name, own in self._trained.items():
            self.register_parameter(own, nn.Parameter(stored[name].float()))
        for number, (name, value) in enumerate(stored.items()):
            if name not in self._trained:
                self.register_buffer(f"fixed_{number}", value, persistent=False)
        self._fixed = {name: f"fixed_{number}" for number, name in enumerate(stored) if name not in self._trained}

    def heads(self, x: Tensor) -> list[Tensor]:
        """The outputs for pictures ``(n, channels, height, width)``, each with a first axis of ``n``.

        The graph itself takes one picture: its reshapes may have a batch of 1 in their numbers. They are float32:
        under ``vmap`` autocast changes only some of a convolution's inputs on a GPU, and none on a processor.
        """
        with torch.autocast(x.device.type, enabled=False):
            return list(torch.vmap(self._run, randomness="error")(x[:, None].float()))

    def model(self) -> ModelProto:
        """A copy of the graph with the present weights, in their stored precision."""
        model = copied(self._whole)
        for initializer in model.graph.initializer:
            if (own := self._trained.get(initializer.name)) is not None:
                value = getattr(self, own).detach().cpu().numpy()
                stored = value.astype(numpy_helper.to_array(initializer).dtype)
                initializer.CopyFrom(numpy_helper.from_array(stored, initializer.name))
        return model

    def _run(self, picture: Tensor) -> tuple[Tensor, ...]:
        values: dict[str, Tensor] = {self._input: picture}
        for names in (self._trained, self._fixed):
            values |= {name: getattr(self, own) for name, own in names.items()}
        for node, operator, attributes in self._nodes:
            results = operator([values[name] if name else None for name in node.input], attributes)
            results = results if isinstance(results, tuple) else (results,)
            values |= {name: one.to(picture.device) for name, one in zip(node.output, results, strict=False)}
        return tuple(values[name] for name in self._outputs)


def _trained(model: ModelProto, stored: dict[str, Tensor]) -> list[str]:
    """The weights of convolutions and matrix products, by the names of their initializers."""
    # A weight that is stored in float16 passes a cast.
    casts = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    names = [
        casts.get(node.input[at], node.input[at])
        for node in model.graph.node
        for at in _TRAINED.get(node.op_type, ())
        if at < len(node.input)
    ]
    return [name for name in dict.fromkeys(names) if name in stored and stored[name].is_floating_point()]


def _operator(node: NodeProto) -> Callable[[Inputs, Attributes], Any]:
    if node.op_type not in _OPERATORS:
        raise NotTrainable(f"the model has the operator {node.op_type}, which cannot be trained")
    return _OPERATORS[node.op_type]


def _attributes(node: NodeProto) -> Attributes:
    found = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def _numbers(value: Tensor | None) -> list[int]:
    assert value is not None
    return [int(one) for one in value.reshape(-1).tolist()]


def _padded(x: Tensor, attributes: Attributes, fill: float = 0.0) -> Tensor:
    """Pad height and width as a convolution or pooling states."""
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    kernel = attributes["kernel_shape"]
    if attributes.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        strides = attributes.get("strides", [1, 1])
        totals = [
            max(0, (-(-size // s) - 1) * s + k - size) for size, s, k in zip(x.shape[-2:], strides, kernel, strict=True)
        ]
        first = [total // 2 if attributes["auto_pad"] == "SAME_UPPER" else -(-total // 2) for total in totals]
        (top, left), (bottom, right) = first, [total - one for total, one in zip(totals, first, strict=True)]
    return F.pad(x, (left, right, top, bottom), value=fill) if any((top, left, bottom, right)) else x


def _conv(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, weight, bias = [*inputs, None][:3]
    assert x is not None and weight is not None
    attributes = {"kernel_shape": weight.shape[2:], **attributes}
    options = (attributes.get("strides", 1), 0, attributes.get("dilations", 1), attributes.get("group", 1))
    return F.conv2d(_padded(x, attributes), weight, bias, *options)


def _max_pool(inputs: Inputs, attributes: Attributes) -> Tensor:
    x = _padded(_first(inputs), attributes, float("-inf"))
    return F.max_pool2d(
        x, attributes["kernel_shape"], attributes.get("strides", 1), ceil_mode=bool(attributes.get("ceil_mode", 0))
    )


def _average_pool(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, options = _first(inputs), (attributes["kernel_shape"], attributes.get("strides", 1))
    sums = F.avg_pool2d(_padded(x, attributes), *options)
    if attributes.get("count_include_pad", 0):
        return sums
    return sums / F.avg_pool2d(_padded(torch.ones_like(x), attributes), *options)


def _resize(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, _roi, scales, sizes = [*inputs, None, None][:4]
    assert x is not None
    if sizes is not None:
        size = _numbers(sizes)[-2:]
    else:
        assert scales is not None
        size = [int(side * scale) for side, scale in zip(x.shape[-2:], scales.tolist()[-2:], strict=True)]
    mode = attributes.get("mode", "nearest")
    if mode == "nearest":
        return F.interpolate(x, size, mode="nearest")
    return F.interpolate(
        x, size, mode="bilinear", align_corners=attributes.get("coordinate_transformation_mode") == "align_corners"
    )


def _slice(inputs: Inputs, attributes: Attributes) -> Tensor:
    x = _first(inputs)
    if len(inputs) == 1:  # before opset 10
        starts, ends = attributes["starts"], attributes["ends"]
        axes, steps = attributes.get("axes", list(range(len(starts)))), [1] * len(starts)
    else:
        starts, ends = _numbers(inputs[1]), _numbers(inputs[2])
        axes = _numbers(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else list(range(len(starts)))
        steps = _numbers(inputs[4]) if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    index = [slice(None)] * x.dim()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


def _pad(inputs: Inputs, attributes: Attributes) -> Tensor:
    x = _first(inputs)
    pads = _numbers(inputs[1]) if len(inputs) > 1 else list(attributes["pads"])
    value = float(inputs[2].item()) if len(inputs) > 2 and inputs[2] is not None else attributes.get("value", 0.0)
    mode: str = attributes.get("mode", "constant")
    ends = len(pads) // 2
    pairs = [side for axis in reversed(range(ends)) for side in (pads[axis], pads[axis + ends])]
    if mode == "constant":
        return F.pad(x, pairs, mode, value)
    return F.pad(x, pairs[:4], "replicate" if mode == "edge" else mode)


def _split(inputs: Inputs, attributes: Attributes) -> tuple[Tensor, ...]:
    x, axis = _first(inputs), attributes.get("axis", 0)
    if len(inputs) > 1:
        return torch.split(x, _numbers(inputs[1]), axis)
    return torch.split(x, list(attributes["split"]), axis)


def _reshape(inputs: Inputs, _attributes: Attributes) -> Tensor:
    x, shape = _first(inputs), _numbers(inputs[1])
    return x.reshape([x.shape[at] if size == 0 else size for at, size in enumerate(shape)])


def _gather(inputs: Inputs, attributes: Attributes) -> Tensor:
    x, rows, axis = _first(inputs), inputs[1], attributes.get("axis", 0)
    assert rows is not None
    chosen = x.index_select(axis, rows.reshape(-1).long())
    return chosen.reshape([*x.shape[:axis], *rows.shape, *x.shape[axis % x.dim() + 1 :]])


def _axes(inputs: Inputs, attributes: Attributes) -> list[int]:
    return _numbers(inputs[1]) if len(inputs) > 1 and inputs[1] is not None else list(attributes.get("axes", []))


def _squeeze(inputs: Inputs, attributes: Attributes) -> Tensor:
    x = _first(inputs)
    axes = _axes(inputs, attributes)
    return x.squeeze(tuple(axes)) if axes else x.squeeze()


def _unsqueeze(inputs: Inputs, attributes: Attributes) -> Tensor:
    x = _first(inputs)
    for axis in sorted(_axes(inputs, attributes)):
        x = x.unsqueeze(axis)
    return x


def _mean(inputs: Inputs, attributes: Attributes) -> Tensor:
    axes = _axes(inputs, attributes)
    return torch.mean(_first(inputs), axes or None, bool(attributes.get("keepdims", 1)))


def _gemm(inputs: Inputs, attributes: Attributes) -> Tensor:
    a, b, bias = [*inputs, None][:3]
    assert a is not None and b is not None
    a, b = (a.T if attributes.get("transA") else a), (b.T if attributes.get("transB") else b)
    product: Tensor = attributes.get("alpha", 1.0) * (a @ b)
    return product if bias is None else product + attributes.get("beta", 1.0) * bias


def _clip(inputs: Inputs, attributes: Attributes) -> Tensor:
    least, most = [*inputs[1:], None, None][:2]
    return torch.clamp(
        _first(inputs),
        attributes.get("min") if least is None else float(least.item()),
        attributes.get("max") if most is None else float(most.item()),
    )


def _constant(_inputs: Inputs, attributes: Attributes) -> Tensor:
    if "value" in attributes:
        return torch.tensor(numpy_helper.to_array(attributes["value"]))
    [value] = attributes.values()
    return torch.tensor(value)


def _cast(inputs: Inputs, attributes: Attributes) -> Tensor:
    kind = helper.tensor_dtype_to_np_dtype(attributes["to"])
    return _first(inputs).to(torch.from_numpy(np.zeros(0, kind)).dtype)


def _first(inputs: Inputs) -> Tensor:
    assert inputs[0] is not None
    return inputs[0]


def _of_tensors(function: Callable[..., Tensor]) -> Callable[[Inputs, Attributes], Tensor]:
    return lambda inputs, _attributes: function(*inputs)


_OPERATORS: dict[str, Callable[[Inputs, Attributes], Any]] = {
    "Add": _of_tensors(torch.add),
    "AveragePool": _average_pool,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda inputs, attributes: torch.cat([one for one in inputs if one is not None], attributes["axis"]),
    "Constant": _constant,
    "Conv": _conv,
    "Div": _of_tensors(torch.div),
    "Exp": _of_tensors(torch.exp),
    "Flatten": lambda inputs, attributes: _first(inputs).flatten(attributes.get("axis", 1)),
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda inputs, _: _first(inputs).mean((2, 3), True),
    "HardSigmoid": lambda inputs, attributes: (
        _first(inputs) * attributes.get("alpha", 0.2) + attributes.get("beta", 0.5)
    ).clamp(0, 1),
    "HardSwish": _of_tensors(F.hardswish),
    "Identity": lambda inputs, _: inputs[0],
    "LeakyRelu": lambda inputs, attributes: F.leaky_relu(_first(inputs), attributes.get("alpha", 0.01)),
    "MatMul": _of_tensors(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _of_tensors(torch.mul),
    "Pad": _pad,
    "Pow": _of_tensors(torch.pow),
    "ReduceMean": _mean,
    "Relu": _of_tensors(F.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": lambda inputs, _: torch.tensor(_first(inputs).shape),
    "Sigmoid": _of_tensors(torch.sigmoid),
    "Slice": _slice,
    "Softmax": lambda inputs, attributes: _first(inputs).softmax(attributes.get("axis", -1)),
    "Split": _split,
    "Sqrt": _of_tensors(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _of_tensors(torch.sub),
    "Tanh": _of_tensors(torch.tanh),
    "Transpose": lambda inputs, attributes: _first(inputs).permute(attributes["perm"]),
    "Unsqueeze": _unsqueeze,
}
