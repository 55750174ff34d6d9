"""Networks whose time is estimated, in families of one architecture."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto

from benchmarks.literature.time_estimation.builder import Builder
from benchmarks.literature.time_estimation.recording import Network
from cachenet.models.detect import export as detect_export
from cachenet.models.detect.network import HeatmapNet, HeatmapShape
from cachenet.models.export import efficientnet, export
from cachenet.models.export.onnx_file import copied, inputs
from cachenet.models.train.networks import BASE, RESNET18, ResNet, Shape
from cachenet.shared.inference.image import Size, pixels

ZOO = Path("models/zoo")
#: Channels, blocks, kernel and expansion of the stages of EfficientNet-Lite0 (arXiv 1905.11946, table 1).
_LITE = ((16, 1, 3, 1), (24, 2, 3, 6), (40, 2, 5, 6), (80, 3, 3, 6), (112, 3, 5, 6), (192, 4, 5, 6), (320, 1, 3, 6))
#: Channels, blocks and stride of the stages of MobileNetV2 (arXiv 1801.04381, table 2).
_MOBILE2 = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
#: The detectors beside the project, with the sides at which they are measured.
_DETECTORS = {
    "yolox_nano_416": (416, 320, 256),
    "person_nano_192": (192, 256),
    "nanodet_plus_m_416": (416, 320, 256),
    "fastestdet_352": (352,),
}


def networks(data: Path) -> list[Network]:
    """All networks.

    Args:
        data: Directory with ``detectors/``; they are left out where they are missing.
    """
    found = [Network(f"{family} {name}", family, model) for family, name, model in _random()]
    found += [_file("efficientnet-lite", ZOO / f"imagenet-lite/{name}/1/model.onnx", 0) for name in ("base", "full")]
    found.append(_file("pair", ZOO / "cifar10/full/1/model.onnx", 32))
    found += [_file("heatmap", ZOO / f"campus/{name}/1/model.onnx", 0) for name in ("base", "full")]
    for name, sides in _DETECTORS.items():
        path = data / "detectors" / f"{name}.onnx"
        if path.exists():
            family = "yolox" if "nano_" in name else name.split("_")[0]
            found += [_file(family, path, side) for side in sides]
    return found


def resized(model: ModelProto, size: Size) -> ModelProto:
    """A copy for one image of another size; its constants must fit any size."""
    changed = copied(model)
    width, height = pixels(size)
    [image] = inputs(changed.graph)
    for dimension, known in zip(image.type.tensor_type.shape.dim, (1, 3, height, width), strict=True):
        dimension.dim_value = known
    del changed.graph.value_info[:]
    for output in changed.graph.output:
        if output.HasField("type"):
            output.type.tensor_type.ClearField("shape")
    return changed


def _file(family: str, path: Path, side: int) -> Network:
    def model() -> bytes:
        read = onnx.load(str(path))
        sizes = [one.dim_value for one in inputs(read.graph)[0].type.tensor_type.shape.dim]
        return bytes(resized(read, side or (sizes[3], sizes[2])).SerializeToString())

    name = path.stem if path.stem != "model" else "/".join(path.parts[-4:-2])
    return Network(f"{name} {side or ''}".strip(), family, model)


def _random() -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """Family, name and model of the networks of random weights."""
    shapes: list[tuple[str, Shape, int]] = [
        ("base", BASE, 32),
        ("base", BASE, 64),
        ("20", Shape((16, 32, 64), (3, 3, 3)), 32),
        ("20", Shape((16, 32, 64), (3, 3, 3)), 96),
        ("wide 16", Shape((64, 128, 256), (2, 2, 2)), 32),
        ("18", RESNET18, 32),
        ("18 narrow", Shape((32, 64, 128, 256), (2, 2, 2, 2)), 64),
        ("patches", Shape((24, 96, 192), (2, 2, 2), stem=4), 224),
        ("34 thin", Shape((16, 32, 64, 128), (3, 4, 6, 3)), 48),
    ]
    for name, shape, side in shapes:
        yield "resnet", f"{name} {side}", functools.partial(_resnet, shape, side)
    for width, side in ((0.25, 128), (0.5, 160), (1.0, 96), (1.0, 160), (1.0, 224)):
        yield "mobilenet-v1", f"{width} {side}", functools.partial(_mobile1, width, side)
    for width, side in ((0.35, 160), (0.5, 96), (0.75, 192), (1.0, 128), (1.0, 224), (1.4, 160)):
        yield "mobilenet-v2", f"{width} {side}", functools.partial(_mobile2, width, side)
    for width, side in ((0.5, 96), (0.75, 160), (1.0, 128), (1.0, 224)):
        yield "mobilenet-v3", f"{width} {side}", functools.partial(_mobile3, width, side)
    for width, side in ((8, 32), (16, 64), (32, 32), (32, 96), (64, 32)):
        yield "vgg", f"{width} {side}", functools.partial(_vgg, width, side)
    for width, side in ((0.5, 96), (1.0, 96), (1.0, 160), (1.0, 224)):
        yield "squeezenet", f"{width} {side}", functools.partial(_squeeze, width, side)
    for growth, blocks, side in ((8, (3, 6, 4), 64), (12, (4, 4, 4), 32), (16, (4, 8, 6), 96), (24, (3, 3, 3), 64)):
        yield "densenet", f"{growth} {side}", functools.partial(_dense, growth, blocks, side)
    for width, side in ((0.5, 128), (0.75, 160), (1.0, 96), (1.0, 128), (1.0, 192)):
        yield "efficientnet-lite", f"{width} {side}", functools.partial(_lite, width, side)
    for widths, size in (((8, 16, 24), (320, 192)), ((16, 32, 48), (256, 256)), ((24, 32, 64), (384, 288))):
        yield "heatmap", f"{widths[2]} {size[0]}", functools.partial(_heatmap, widths, size)


def _exported(write: Callable[[Path], object], size: Size) -> bytes:
    """The model that ``write`` writes, for one image of ``size``."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "model.onnx")
        write(path)
        return bytes(resized(onnx.load(str(path)), size).SerializeToString())


def _resnet(shape: Shape, side: int) -> bytes:
    torch.manual_seed(0)
    network = ResNet(shape).eval()
    return _exported(lambda path: export.export(network, path, {}), side)


def _heatmap(widths: tuple[int, int, int], size: Size) -> bytes:
    torch.manual_seed(0)
    network = HeatmapNet(HeatmapShape(widths, 2)).eval()
    return _exported(lambda path: detect_export.export(network, size, path, {}), size)


def _lite(width: float, side: int) -> bytes:
    rng, weights, channels = np.random.default_rng(0), {}, _eighths(32 * width)

    def layer(name: str, norm: str, out: int, inner: int, kernel: int) -> None:
        weights[f"{name}.weight"] = rng.normal(0, 0.1, (out, inner, kernel, kernel)).astype(np.float32)
        for part, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            weights[f"{norm}.{part}"] = np.full(out, value, np.float32)

    layer("_conv_stem", "_bn0", channels, 3, 3)
    number = 0
    for base, blocks, kernel, factor in _LITE:
        for _ in range(blocks):
            block, wide, out = f"_blocks.{number}.", channels * factor, _eighths(base * width)
            if factor > 1:
                layer(f"{block}_expand_conv", f"{block}_bn0", wide, channels, 1)
            layer(f"{block}_depthwise_conv", f"{block}_bn1", wide, 1, kernel)
            layer(f"{block}_project_conv", f"{block}_bn2", out, wide, 1)
            channels, number = out, number + 1
    layer("_conv_head", "_bn1", 1280, channels, 1)
    weights["_fc.weight"] = rng.normal(0, 0.03, (1000, 1280)).astype(np.float32)
    weights["_fc.bias"] = np.zeros(1000, np.float32)
    return _exported(lambda path: efficientnet.export(weights, side, path, {}), side)


def _mobile1(width: float, side: int) -> bytes:
    net = Builder(3, side, side)
    x = net.conv(net.image, _eighths(32 * width), stride=2)
    stages = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for out, stride in stages:
        x = net.conv(net.depthwise(x, stride=stride), _eighths(out * width), 1)
    return net.model(net.classifier(x, 1000))


def _mobile2(width: float, side: int) -> bytes:
    net = Builder(3, side, side)
    x = net.conv(net.image, _eighths(32 * width), stride=2, act="clip")
    for base, blocks, first in _MOBILE2:
        for block in range(blocks):
            y = net.conv(x, x.channels * 6, 1, act="clip") if base > 16 else x
            y = net.depthwise(y, stride=1 if block else first, act="clip")
            y = net.conv(y, _eighths(base * width), 1, act="none")
            x = net.add(y, x) if y[1:] == x[1:] else y
    x = net.conv(x, 1280, 1, act="clip")
    return net.model(net.classifier(x, 1000))


def _mobile3(width: float, side: int) -> bytes:
    """MobileNetV3-small (arXiv 1905.02244, table 2)."""
    net = Builder(3, side, side)
    x = net.conv(net.image, 16, stride=2, act="hardswish")
    for kernel, factor, base, gated, act, stride in (
        (3, 1.0, 16, True, "relu", 2), (3, 4.5, 24, False, "relu", 2), (3, 3.67, 24, False, "relu", 1),
        (5, 4.0, 40, True, "hardswish", 2), (5, 6.0, 40, True, "hardswish", 1), (5, 6.0, 40, True, "hardswish", 1),
        (5, 3.0, 48, True, "hardswish", 1), (5, 3.0, 48, True, "hardswish", 1), (5, 6.0, 96, True, "hardswish", 2),
        (5, 6.0, 96, True, "hardswish", 1), (5, 6.0, 96, True, "hardswish", 1),
    ):  # fmt: skip
        y = net.conv(x, _eighths(x.channels * factor), 1, act=act)
        y = net.depthwise(y, kernel, stride, act)
        if gated:
            gate = net.conv(net.global_pool(y), _eighths(y.channels / 4), 1)
            y = net.multiply(y, net.conv(gate, y.channels, 1, act="hardsigmoid"))
        y = net.conv(y, _eighths(base * width), 1, act="none")
        x = net.add(y, x) if y[1:] == x[1:] else y
    x = net.conv(x, _eighths(576 * width), 1, act="hardswish")
    x = net.linear(net.flatten(net.global_pool(x)), 1024, "hardswish")
    return net.model(net.linear(x, 1000))


def _vgg(width: int, side: int) -> bytes:
    net = Builder(3, side, side)
    x = net.image
    for factor, layers in ((1, 2), (2, 2), (4, 3), (8, 3)):
        for _ in range(layers):
            x = net.conv(x, width * factor)
        x = net.pool(x, 3, 2)
    x = net.linear(net.flatten(x), 256, "relu")
    return net.model(net.linear(x, 10))


def _squeeze(width: float, side: int) -> bytes:
    """SqueezeNet 1.1 (arXiv 1602.07360)."""
    net = Builder(3, side, side)
    x = net.pool(net.conv(net.image, 64, stride=2), 3, 2)
    for number, inner in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        thin = net.conv(x, round(inner * width), 1)
        out = round(4 * inner * width)
        x = net.concat([net.conv(thin, out, 1), net.conv(thin, out)])
        if number in (1, 3):
            x = net.pool(x, 3, 2)
    x = net.global_pool(net.conv(x, 1000, 1))
    return net.model(net.flatten(x))


def _dense(growth: int, blocks: Sequence[int], side: int) -> bytes:
    """DenseNet (arXiv 1608.06993) with normalisations folded."""
    net = Builder(3, side, side)
    x = net.conv(net.image, 2 * growth, stride=2 if side > 32 else 1)
    for number, layers in enumerate(blocks):
        for _ in range(layers):
            x = net.concat([x, net.conv(net.conv(x, 4 * growth, 1), growth)])
        if number < len(blocks) - 1:
            x = net.pool(net.conv(x, x.channels // 2, 1), 2, 2, "Average")
    return net.model(net.classifier(x, 10))


def _eighths(channels: float) -> int:
    """The nearest multiple of 8."""
    return max(8, round(channels / 8) * 8)
