"""Training with the instruction sets of other processors, set by variables of oneDNN and PyTorch.

oneDNN corrupts the heap in the backward pass of a strided 1x1 convolution (docs/log.md), so no trained network may have
one.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from cachenet.models.data import cifar10
from cachenet.models.detect.network import HeatmapNet, HeatmapShape
from cachenet.models.exits.train_heads import NetworkHead
from cachenet.models.export.efficientnet import Lite
from cachenet.models.export.export import export
from cachenet.models.train.fine_tune import ClassifierNetwork
from cachenet.models.train.networks import (
    BASE,
    RESNET18,
    Auxiliary,
    Network,
    Pointwise,
    ResNet,
    Shape,
)
from cachenet.models.train.onnx_network import OnnxNetwork
from cachenet.models.train.training import Recipe, fit, has_bf16, label_loss
from tests.models.test_efficientnet import weights

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
#: With ``BATCH``, sizes with which the strided kernel corrupts the heap in every run.
SHAPE = Shape(widths=(12, 24), blocks=(1, 1))
BATCH, SIDE, STEPS = 35, 16, 5
#: Variables that select an instruction set, and whether it has bf16.
PROCESSORS = {
    "this one": ({}, True),
    "SSE4.1": ({"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}, False),
    "AVX2": ({"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}, False),
    "AVX512": ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, False),
    "AVX512-BF16": ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, True),
}


def steps_of(network: Network, work: Path) -> float:
    """Run some steps of the training loop and return the last loss."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8)
    labels = torch.from_numpy(rng.integers(0, 5, BATCH))
    recipe = Recipe(phases=((1, SIDE * 3 // 4), (1, SIDE)), rate=0.05, batch=BATCH)
    with Progress(console=Console(file=io.StringIO())) as progress:
        rows = fit(
            network,
            cifar10.INPUT,
            recipe,
            lambda _number, _rng: iter([(images, labels)] * STEPS),
            STEPS,
            label_loss(recipe),
            work / "run.pt",
            progress,
            "steps",
        )
    return rows[-1]["loss"]


def train_all(work: Path) -> None:
    """Train every kind of network with two threads; run in a process of its own."""
    torch.set_num_threads(2)
    print("bf16" if has_bf16() else "float32")
    networks: list[Network] = [ResNet(SHAPE, auxiliary) for auxiliary in ("none", "blocks")]
    networks.append(Lite(weights(), 5, SIDE, (127.0,) * 3, (128.0,) * 3))
    for number, network in enumerate(networks):
        assert np.isfinite(steps_of(network, work / str(number)))
    print("trained")


@pytest.mark.parametrize("processor", PROCESSORS)
def test_training_runs_on_every_processor_without_strided_1x1_convolutions(processor: str, tmp_path: Path) -> None:
    variables, bf16 = PROCESSORS[processor]
    clean = {name: value for name, value in os.environ.items() if "CPU_ISA" not in name and "CPU_CAPA" not in name}
    script = (
        "import sys, pathlib; from tests.models import test_processors as t; t.train_all(pathlib.Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT,
        env={**clean, **variables, "ONEDNN_VERBOSE": "1", "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[-1] == "trained", f"{done.returncode}: {done.stderr[-2000:]}"
    here = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    computed = [line for line in lines if line.startswith("onednn_verbose") and ",exec,cpu,convolution," in line]
    assert ("bf16" in lines) is (bf16 and here)
    if not (bf16 and here):
        assert not [line for line in computed if "bf16" in line]
    strided = re.compile(r"kh1sh[2-9]|kw1sw[2-9]")
    assert not [line for line in computed if "backward" in line and strided.search(line)]


def trained_networks(directory: Path) -> list[nn.Module]:
    """One network of every kind that is trained."""
    kinds: tuple[Auxiliary, ...] = ("none", "stages", "blocks")
    residual = [ResNet(shape, kind) for shape in (RESNET18, BASE) for kind in kinds]
    residual += [ResNet(Shape(BASE.widths, BASE.blocks, stem=stem)) for stem in (2, 4)]
    export(residual[0], directory / "a.onnx", {})
    maps = np.random.default_rng(0).normal(size=(4, 8, 4, 4)).astype(np.float32)
    return [
        *residual,
        OnnxNetwork(onnx.load(str(directory / "a.onnx"))),
        ClassifierNetwork(onnx.load(str(directory / "a.onnx"))),
        Lite(weights(), 5, SIDE, (127.0,) * 3, (128.0,) * 3),
        *(NetworkHead(kind, [maps], 5) for kind in ("pooled", "hidden", "convolution")),
        HeatmapNet(HeatmapShape((8, 16, 16), 1)),
    ]


def test_no_network_that_is_trained_has_a_plain_strided_1x1_convolution(tmp_path: Path) -> None:
    networks = trained_networks(tmp_path)
    known = {type(network) for network in networks}
    defined = {kind for kind in Network.__subclasses__() if kind.__module__.startswith("cachenet.models.")}
    assert defined <= known, "a new kind of network belongs into trained_networks"
    plain = [
        module
        for network in networks
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and not isinstance(module, Pointwise)
    ]
    assert plain
    assert not [one for one in plain if one.kernel_size == (1, 1) and one.stride != (1, 1)]


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_pointwise_convolution_has_the_outputs_and_gradients_of_the_plain_one(stride: int) -> None:
    torch.manual_seed(0)
    own, plain = Pointwise(5, 7, stride), nn.Conv2d(5, 7, 1, stride, bias=False)
    plain.load_state_dict(own.state_dict())
    for side in (1, 8, 9):
        x = [
            torch.randn(3, 5, side, side, generator=torch.Generator().manual_seed(side)).requires_grad_() for _ in "ab"
        ]
        outputs = own(x[0]), plain(x[1])
        torch.testing.assert_close(*outputs)
        for output in outputs:
            output.square().sum().backward()
        torch.testing.assert_close(x[0].grad, x[1].grad)
        torch.testing.assert_close(own.weight.grad, plain.weight.grad)


def test_a_shortcut_has_the_weight_names_and_shapes_of_earlier_versions() -> None:
    """Checkpoints and bundles of earlier versions stay readable."""
    state = ResNet(SHAPE).stages[1][0].shortcut.state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "0.weight": (24, 12, 1, 1),
        "1.weight": (24,),
        "1.bias": (24,),
        "1.running_mean": (24,),
        "1.running_var": (24,),
        "1.num_batches_tracked": (),
    }
