"""A classifier in two parts: stem and first block for the device, the other layers for the server."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, helper, numpy_helper
from torch import Tensor

from cachenet.models.export.cost import Cost, model_cost
from cachenet.models.export.graph_edit import ending_in
from cachenet.models.train.onnx_network import OnnxNetwork
from cachenet.shared.inference import graph_split

#: Output of the first block of the CIFAR-10 bundle's ResNet-18, and of the state classifiers.
RESNET_SITE, STATE_SITE = "stage1.block1.out", "/body/body.0/Relu_1_output_0"
_RESNET, _HEAD, _SCORES = "resnet.embedding", "head", "scores"


class Layers(OnnxNetwork):
    """Layers with fixed weights. The graph takes batches, so it needs no ``vmap`` and may run in bfloat16."""

    def __init__(self, model: ModelProto) -> None:
        super().__init__(model)
        self.requires_grad_(False)

    def heads(self, x: Tensor) -> list[Tensor]:
        return list(self._run(x))


@dataclass(frozen=True)
class SplitModel:
    """A classifier that is split at one tensor.

    Attributes:
        model: The classifier.
        site: Name of the tensor between the parts.
        side: Side of its input, pixels.
    """

    model: ModelProto
    site: str
    side: int

    @cached_property
    def parts(self) -> tuple[Layers, Layers]:
        """The device's layers, from a picture to features, and the server's, from features to logits."""
        split = graph_split.read(self.model.SerializeToString())
        first, second = graph_split.cut(split, [[self.site]])
        return Layers(onnx.load_from_string(first.model)), Layers(onnx.load_from_string(second.model))

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the features."""
        with torch.no_grad():
            found = self.parts[0](torch.zeros(1, 3, self.side, self.side))
        _, channels, height, width = found.shape
        return channels, height, width

    @cached_property
    def device_cost(self) -> Cost:
        """Cost of the device's layers."""
        return model_cost(ending_in(self.model, self.site), self.side)

    @cached_property
    def cost(self) -> Cost:
        """Cost of the classifier."""
        return model_cost(self.model, self.side)


def resnet_part(path: Path, side: int) -> SplitModel:
    """The ResNet-18 of the CIFAR-10 bundle's full model, split after its first block.

    The full model is a ResNet-18 and an EfficientNet with one linear head over both embeddings
    (``models.train.pair``). The weights of this head for the ResNet's embedding make the ResNet a classifier.
    """
    whole = onnx.load(str(path))
    stored = {one.name: numpy_helper.to_array(one).astype(np.float32) for one in whole.graph.initializer}
    model = ending_in(whole, _RESNET)
    width = len(stored["stage4.block2.conv2.bias.half"])  # of the ResNet's embedding
    weight, bias = stored["head.weight.half"][:, -width:], stored["head.bias.half"]
    for name, value in (("weight", weight), ("bias", bias)):
        model.graph.initializer.append(numpy_helper.from_array(value, f"{_HEAD}.{name}"))
    head = helper.make_node("Gemm", [_RESNET, f"{_HEAD}.weight", f"{_HEAD}.bias"], [_SCORES], transB=1)
    model.graph.node.append(head)
    model.graph.output[0].name = _SCORES
    return SplitModel(model, RESNET_SITE, side)
