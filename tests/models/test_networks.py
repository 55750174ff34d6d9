"""Trained networks, their auxiliary heads, and their sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cachenet.models.export.export import export
from cachenet.models.train import candidates
from cachenet.models.train.networks import Auxiliary, ResNet, Shape, macs
from cachenet.models.train.training import Recipe, label_loss, self_distillation_loss
from cachenet.shared.inference.engine import Session

SHAPE = Shape(widths=(4, 8), blocks=(2, 1))
RECIPE = Recipe(phases=((1, 32),), rate=0.1)
LABELS = torch.tensor([1, 4])


@pytest.mark.parametrize(("auxiliary", "heads"), [("none", 1), ("stages", 2), ("blocks", 3)])
def test_auxiliary_heads_do_not_change_the_output_and_are_not_exported(
    auxiliary: Auxiliary, heads: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network, plain = ResNet(SHAPE, auxiliary).eval(), ResNet(SHAPE).eval()
    plain.load_state_dict(network.state_dict(), strict=False)
    picture = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        outputs = network.heads(picture)
        assert [head.shape for head in outputs] == heads * [(2, 10)]
        assert torch.equal(outputs[-1], plain(picture))
    export(network, tmp_path / "own.onnx", {})
    export(plain, tmp_path / "plain.onnx", {})
    assert (tmp_path / "own.onnx").stat().st_size == (tmp_path / "plain.onnx").stat().st_size
    assert network.parameters_count() == plain.parameters_count()
    assert np.allclose(Session(tmp_path / "own.onnx", "cpu", 1).run(picture.numpy()), outputs[-1].numpy(), atol=0.02)


def test_there_is_an_exit_after_each_block_but_the_last() -> None:
    """Its gradient reaches the blocks before it and no others."""
    network = ResNet(SHAPE, "blocks")
    for number, head in enumerate(network.heads(torch.randn(2, 3, 32, 32))):
        network.zero_grad()
        head.sum().backward(retain_graph=True)
        blocks = [block for stage in network.stages for block in stage.children()]
        assert [block.conv1.weight.grad is not None for block in blocks] == [at <= number for at in range(3)]


def test_self_distillation_trains_the_auxiliary_heads_and_not_the_output_head() -> None:
    torch.manual_seed(0)
    first, last = (torch.randn(2, 10, requires_grad=True) for _ in range(2))

    def gradients(loss: Tensor) -> tuple[Tensor, Tensor]:
        own, other = torch.autograd.grad(loss, (last, first))
        return own, other

    distilled, alone = (gradients(loss(RECIPE)([first, last], LABELS)) for loss in (self_distillation_loss, label_loss))
    assert torch.equal(distilled[0], alone[0])
    towards = (first - last).detach()
    assert ((distilled[1] - alone[1]) * towards).sum() > 0, "a step reduces the difference"
    same = [last.detach(), last.detach()]
    assert self_distillation_loss(RECIPE)(same, LABELS) == pytest.approx(float(label_loss(RECIPE)(same, LABELS)))


@pytest.mark.parametrize(("full", "side"), [(8_500_000, 96), (8_500_000, 32), (100_000_000, 224)])
def test_a_network_stays_within_its_share_of_a_small_full_model(full: int, side: int) -> None:
    """The narrowest network of six blocks takes 6.6 million multiply-adds for 96 pixels."""
    assert macs(ResNet(candidates.network_shape(1 / 13, full, side, 3)), side) <= full / 13
