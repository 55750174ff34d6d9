"""Structured pruning of the residual network in the CIFAR-10 full model, and distillation from the unpruned one.

Channels are removed between the two convolutions of each block (G. Fang et al., "DepGraph: Towards Any Structural
Pruning", arXiv 2301.12900, the package ``torch-pruning``), by first-order Taylor importance (P. Molchanov et al.,
"Importance Estimation for Neural Network Pruning", arXiv 1906.10771). The maps between blocks keep their width, so that
the pruned network takes the place of the other one in the full model's graph.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.literature.training import fit
from cachenet.models.data.cifar10 import INPUT, Cifar10, Images
from cachenet.models.export.export import fold
from cachenet.models.export.onnx_file import copied
from cachenet.models.train.distill import distillation_loss
from cachenet.models.train.networks import RESNET18, Block, ResNet, array
from cachenet.models.train.pair import Shares
from cachenet.models.train.training import Batch, Recipe, augment, bf16_autocast, normalise
from cachenet.shared.command import atomic_files

#: Images of a checkpoint's training steps.
_STAGE = 2560
#: Images that importance comes from, and images that the pruned network is fitted to before training.
_SAMPLE, _RECONSTRUCTED = 256, 768
#: Cells of an image's maps that a convolution is fitted to, and the weight of its ridge relative to the mean square.
_CELLS, _RIDGE = 20, 1e-4
#: Smallest share of a block's channels that pruning leaves.
_LEAST_LEFT = 0.2
#: Channels are removed in multiples of this, the block of ONNX Runtime's convolutions on AVX2.
_ROUND_TO = 8
#: Channels of EfficientNet-Lite0's embedding, the first part of the full model's.
LITE_CHANNELS = 1280
Logits = npt.NDArray[np.float32]


def recipe(stages: int) -> Recipe:
    """The training of the pruned network: ``stages`` checkpoints of ``_STAGE`` images."""
    return Recipe(phases=((stages, 32),), rate=0.02, batch=64, warmup=0.1, cutout=0, seed=31)


def residual_part(full: ModelProto) -> ResNet:
    """The residual network of the full model, with its part of the head and no bias.

    Args:
        full: Full model as ``models.train.pair`` writes it, with its weights folded (``quantise.folded``).
    """
    stored = {one.name: torch.tensor(numpy_helper.to_array(one)) for one in full.graph.initializer}
    network = ResNet(RESNET18).eval()
    with torch.no_grad():
        for name, (conv, norm) in layers(network).items():
            conv.weight.copy_(stored[f"{name}.weight"])
            assert norm.running_var is not None
            norm.running_var.fill_(1 - norm.eps)
            norm.bias.copy_(stored[f"{name}.bias"])
        network.head.weight.copy_(stored["head.weight"][:, LITE_CHANNELS:])
        network.head.bias.zero_()
    return network


def layers(network: ResNet) -> dict[str, tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each convolution with its normalisation, by the name that the export gives it."""
    found = {"stem": (network.stem[0], network.stem[1])}
    for s, stage in enumerate(network.stages, 1):
        for b, block in enumerate(stage.children(), 1):
            assert isinstance(block, Block)
            name = f"stage{s}.block{b}"
            found |= {f"{name}.conv1": (block.conv1, block.norm1), f"{name}.conv2": (block.conv2, block.norm2)}
            if isinstance(block.shortcut, nn.Sequential):
                found[f"{name}.shortcut"] = (block.shortcut[0], block.shortcut[1])
    return found  # type: ignore[return-value]


def restore_statistics(network: ResNet, images: Images) -> None:
    """Give the folded normalisations the statistics of ``images`` ``(n, h, w, 3)``; the function stays the same."""
    handles = []

    def take(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3))
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        norm.bias.add_((mean - norm.running_mean) * gain)
        norm.weight.copy_(gain * torch.sqrt(variance + norm.eps))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

    for _, norm in layers(network).values():
        handles.append(norm.register_forward_pre_hook(take))
    with torch.no_grad():
        network(normalise(images, INPUT))
    for handle in handles:
        handle.remove()


def pruned(network: ResNet, data: Cifar10, ratio: float) -> ResNet:
    """A copy of ``network`` without ``ratio`` of the channels between the convolutions of its blocks.

    Args:
        data: Importance comes from training images.
    """
    import torch_pruning

    small = copy.deepcopy(network)
    rows = np.random.default_rng(0).choice(len(data.train), min(_SAMPLE, len(data.train)), replace=False)
    x, labels = normalise(data.train.images[rows], INPUT), torch.from_numpy(data.train.labels[rows])
    small.zero_grad()
    F.cross_entropy(small(x) / 3, labels).backward()  # type: ignore[no-untyped-call]
    inner = [conv for name, (conv, _) in layers(small).items() if name.endswith("conv1")]
    outside = [one for one in small.modules() if isinstance(one, (nn.Conv2d, nn.Linear)) and one not in inner]
    torch_pruning.pruner.BasePruner(
        small,
        x[:1],
        torch_pruning.importance.GroupTaylorImportance(),
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=1 - _LEAST_LEFT,
        ignored_layers=outside,
        round_to=_ROUND_TO,
    ).step()
    small.zero_grad()
    return small


def narrowed(widths: Sequence[int]) -> ResNet:
    """A network like the full model's residual part with ``widths`` channels between the convolutions of its blocks."""
    network = ResNet(RESNET18)
    blocks = [block for stage in network.stages for block in stage.children()]
    for block, width in zip(blocks, widths, strict=True):
        assert isinstance(block, Block)
        first, second = block.conv1, block.conv2
        block.conv1 = nn.Conv2d(first.in_channels, width, 3, first.stride, 1, bias=False)  # type: ignore[arg-type]
        block.norm1 = nn.BatchNorm2d(width)
        block.conv2 = nn.Conv2d(width, second.out_channels, 3, 1, 1, bias=False)
    return network.eval()


def widths(network: ResNet) -> list[int]:
    """Channels between the convolutions of each block."""
    return [conv.out_channels for name, (conv, _) in layers(network).items() if name.endswith("conv1")]


def started(teacher: ResNet, data: Cifar10, ratio: float, path: Path) -> ResNet:
    """The network of ``pruned`` after ``reconstruct``, from the file at ``path`` if there is one."""
    if not path.exists():
        small = pruned(teacher, data, ratio)
        rows = np.random.default_rng(1).choice(len(data.train), min(_RECONSTRUCTED, len(data.train)), replace=False)
        reconstruct(small, teacher, data.train.images[rows])
        content = io.BytesIO()
        torch.save({"widths": widths(small), "state": small.state_dict()}, content)
        atomic_files.write(path, content.getbuffer())
    stored = torch.load(path, weights_only=True)
    network = narrowed(stored["widths"])
    network.load_state_dict(stored["state"])
    return network


def reconstruct(small: ResNet, teacher: ResNet, images: Images) -> None:
    """Fit the second convolution of each block of ``small`` to the sum that the block of ``teacher`` has, in place.

    J.-H. Luo et al., "ThiNet" (arXiv 1707.06342), section 3.2.3: least squares, block after block, so that a block
    also corrects what the blocks before it changed.

    Args:
        images: Training images ``(n, h, w, 3)``.
    """
    rng = np.random.default_rng(0)
    with torch.no_grad():
        x, y = small.stem(normalise(images, INPUT)), teacher.stem(normalise(images, INPUT))
        for stage, other in zip(small.stages, teacher.stages, strict=True):
            for block, known in zip(stage.children(), other.children(), strict=True):
                assert isinstance(block, Block) and isinstance(known, Block)
                inner = F.relu(block.norm1(block.conv1(x)))
                skipped = block.shortcut(x)
                wanted = known.norm2(known.conv2(F.relu(known.norm1(known.conv1(y))))) + known.shortcut(y)
                weight, bias = _least_squares(inner, wanted - skipped, rng)
                block.conv2.weight.copy_(weight)
                _pass_through(block.norm2, block.conv2(inner), bias)
                x, y = F.relu(block.norm2(block.conv2(inner)) + skipped), F.relu(wanted)


def _least_squares(inputs: Tensor, wanted: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Weight and bias of the 3x3 convolution of ``inputs`` that is nearest to ``wanted``, at random cells."""
    cells = wanted.shape[2] * wanted.shape[3]
    rows, targets = [], []
    for one, other in zip(inputs, wanted, strict=True):
        chosen = torch.from_numpy(rng.permutation(cells)[:_CELLS])
        rows.append(F.unfold(one[None], 3, padding=1)[0][:, chosen].T)
        targets.append(other.flatten(1)[:, chosen].T)
    table = F.pad(torch.cat(rows), (0, 1), value=1.0).double()
    square = table.T @ table
    square += _RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    found = torch.linalg.solve(square, table.T @ torch.cat(targets).double()).float()
    return found[:-1].T.reshape(wanted.shape[1], inputs.shape[1], 3, 3), found[-1]


def _pass_through(norm: nn.BatchNorm2d, inputs: Tensor, bias: Tensor) -> None:
    """Let ``norm`` add ``bias`` alone in evaluation, with the statistics of ``inputs``."""
    variance, mean = torch.var_mean(inputs, (0, 2, 3))
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_(torch.sqrt(variance + norm.eps))
    norm.bias.copy_(mean + bias)


def distil(
    small: ResNet, teacher: ResNet, data: Cifar10, stages: int, checkpoint: Path, say: Callable[[str], None]
) -> ResNet:
    """Train ``small`` in place on the logits of ``teacher``, continuing from ``checkpoint``."""
    chosen = recipe(stages)

    def batches(_: int, rng: np.random.Generator) -> Iterator[Batch]:
        for _ in range(_STAGE // chosen.batch):
            rows = rng.choice(len(data.train), chosen.batch, replace=False)
            images = augment(data.train.images[rows], rng)
            with torch.no_grad(), bf16_autocast():
                target = teacher(normalise(images, INPUT)).float()
            yield images, target

    fit(small, INPUT, chosen, batches, _STAGE // chosen.batch, distillation_loss(), checkpoint, "distillation", say)
    return small.eval()


def with_part(full: ModelProto, network: ResNet, shares: Shares = (1.0, 1.0)) -> ModelProto:
    """The full model, with its weights folded, and ``network`` in place of its residual network.

    Args:
        shares: Weights of the scores of EfficientNet-Lite and of the residual network.
    """
    changed = copied(full)
    values: dict[str, npt.NDArray[np.float32]] = {}
    for name, (conv, norm) in layers(network).items():
        values[f"{name}.weight"], values[f"{name}.bias"] = fold(conv, norm)
    stored = {one.name: one for one in changed.graph.initializer}
    head = numpy_helper.to_array(stored["head.weight"])
    first, second = shares
    values["head.weight"] = np.concatenate(
        [first * head[:, :LITE_CHANNELS], second * array(network.head.weight)], axis=1
    )
    bias = numpy_helper.to_array(stored["head.bias"])
    values["head.bias"] = first * bias + second * array(network.head.bias)
    for name, value in values.items():
        stored[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    del changed.graph.value_info[:]
    onnx.checker.check_model(changed, full_check=True)
    return changed
