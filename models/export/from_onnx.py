"""Restores a trainable network from an exported ONNX file, for fine-tuning without a checkpoint.

Export folds each normalisation into its convolution. Restoring unfolds it with statistics measured on images, so that
the outputs are unchanged in evaluation and in training mode.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from cachenet.models.export.graph import Weights
from cachenet.models.train.networks import Block, ResNet, Shape
from cachenet.shared.command.errors import UserError


class RestoreError(UserError):
    """An ONNX file was not written by ``models.export.export``."""


def from_onnx(path: Path, images: Tensor) -> ResNet:
    """Restore the network in ``path``.

    Args:
        path: File of ``models.export.export``, in float16 or INT8.
        images: Some hundred typical inputs ``(n, 3, h, w)``, normalised.

    Raises:
        RestoreError: The file is another one.
    """
    try:
        weights = _weights(path)
        network = ResNet(_shape(weights))
        pairs = _convolutions(network)
        for name, (conv, norm) in pairs.items():
            _set(conv.weight, weights[f"{name}.weight"])
            _set_identity(norm, torch.from_numpy(weights[f"{name}.bias"]))
        _set(network.head.weight, weights["head.weight"])
        _set(network.head.bias, weights["head.bias"])
    except (KeyError, ValueError, RuntimeError):
        raise RestoreError(f"{path.name} is no network of this builder's; it can be run, but not trained") from None
    _measure([norm for _, norm in pairs.values()], network, images)
    return network.eval()


def _weights(path: Path) -> dict[str, Weights]:
    try:
        model = onnx.load(str(path))
    except Exception:  # protobuf's own error type, which is not imported
        raise RestoreError(f"{path.name} is no ONNX file") from None
    stored = {weight.name: numpy_helper.to_array(weight).astype(np.float32) for weight in model.graph.initializer}
    weights = {name.removesuffix(".half"): values for name, values in stored.items()}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:  # a scale for each output channel
            values, scale, zero = (stored[name] for name in node.input)
            channels = (-1, *(1,) * (values.ndim - 1))
            name = node.output[0].removesuffix("_DequantizeLinear_Output")
            weights[name] = (values - zero.reshape(channels)) * scale.reshape(channels)
    return weights


def _shape(weights: dict[str, Weights]) -> Shape:
    """Infer the architecture from names and shapes of the weights."""
    blocks = [name.split(".")[:2] for name in weights if name.endswith("conv1.weight")]
    stages = sorted({stage for stage, _ in blocks}, key=lambda stage: int(stage.removeprefix("stage")))
    kernel = int(weights["stem.weight"].shape[2])  # 3 for stride 1, else equal to the stride
    return Shape(
        widths=tuple(len(weights[f"{stage}.block1.conv1.weight"]) for stage in stages),
        blocks=tuple(sum(own == stage for own, _ in blocks) for stage in stages),
        classes=len(weights["head.weight"]),
        stem=1 if kernel == 3 else kernel,
    )


def _convolutions(network: ResNet) -> dict[str, tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return every convolution with its normalisation, by its name in the exported file."""
    pairs: dict[str, tuple[nn.Module, nn.Module]] = {"stem": (network.stem[0], network.stem[1])}
    for s, stage in enumerate(network.stages):
        for b, block in enumerate(stage.children()):
            assert isinstance(block, Block)
            name = f"stage{s + 1}.block{b + 1}"
            pairs[f"{name}.conv1"] = block.conv1, block.norm1
            pairs[f"{name}.conv2"] = block.conv2, block.norm2
            if isinstance(block.shortcut, nn.Sequential):
                pairs[f"{name}.shortcut"] = block.shortcut[0], block.shortcut[1]
    return pairs  # type: ignore[return-value]


def _set(parameter: Tensor, value: npt.NDArray[np.float32]) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(value))


def _set_identity(norm: nn.BatchNorm2d, bias: Tensor) -> None:
    """Make a normalisation only add ``bias``."""
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        norm.weight.fill_(1.0)
        norm.bias.copy_(bias)
        norm.running_mean.zero_()
        norm.running_var.fill_(1.0 - norm.eps)


def _measure(norms: list[nn.BatchNorm2d], network: ResNet, images: Tensor) -> None:
    """Give each normalisation the statistics of its inputs, and the gain and bias that undo them."""

    def unfold(norm: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> None:
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        mean, var = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        norm.weight.copy_((var + norm.eps).sqrt())
        norm.bias.add_(mean)

    hooks = [norm.register_forward_hook(unfold) for norm in norms]
    with torch.no_grad():
        network.eval()(images)
    for hook in hooks:
        hook.remove()
