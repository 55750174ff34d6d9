"""The training loop of all networks: seeded, checkpointed after each epoch, resumable, bf16 where it is fast.

An epoch draws all its randomness from ``(seed, epoch)``, so a resumed run gives the result of an uninterrupted one.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional as F

from cachenet.models.data.camera import NOISE
from cachenet.models.data.cifar10 import Images, Split
from cachenet.models.train.networks import Network
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.image import Input, Size, pixels

#: Colour of cutout squares, grey level.
_GREY = 125
#: CPU capabilities of PyTorch that mean bf16 arithmetic (Intel, AMD, ARM).
_BF16_CAPABILITIES = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
#: Values of oneDNN's variables that name an instruction set without bf16; oneDNN ignores case.
_WITHOUT_BF16 = ("sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni")
#: Variables that restrict oneDNN (present and former name) and PyTorch to older instructions, and values without bf16.
_ISA_LIMITS = {
    "ONEDNN_MAX_CPU_ISA": _WITHOUT_BF16,
    "DNNL_MAX_CPU_ISA": _WITHOUT_BF16,
    "ATEN_CPU_CAPABILITY": ("default", "avx2"),
}
#: Minimum advantage of an earlier epoch for early stopping; less is chance.
_MIN_ADVANTAGE = 0.02
#: Temperature of self-distillation.
_TEMPERATURE = 3.0


@dataclass(frozen=True)
class Recipe:
    """Training hyperparameters: SGD with Nesterov momentum, or AdamW; linear warm-up, linear decay to zero.

    >>> Recipe(phases=((4, 24), (8, 32)), rate=0.1).epochs
    12
    """

    #: ``(epochs, image size in pixels)``. Early epochs on smaller images cost less and lose little (J. Howard,
    #: progressive resizing, DAWNBench 2018).
    phases: tuple[tuple[int, Size], ...]
    rate: float  # Peak learning rate
    batch: int = 128  # Images of a batch
    decay: float = 5e-4  # Weight decay of convolutions and matrices
    warmup: float = 0.2  # Share of the steps in which the rate rises
    smoothing: float = 0.1  # Label smoothing
    auxiliary: float = 0.2  # Weight of each auxiliary head's loss
    cutout: int = 8  # See ``augment``
    camera_share: float = 0.0  # See ``augment``
    optimiser: Literal["sgd", "adamw"] = "sgd"
    seed: int = 0  # Seed of all randomness

    @property
    def epochs(self) -> int:
        return sum(count for count, _ in self.phases)

    def size(self, epoch: int) -> Size:
        """Return the image size of an epoch."""
        return [size for count, size in self.phases for _ in range(count)][epoch]


#: Images ``(n, h, w, 3)`` uint8 RGB, and the target: labels ``(n,)`` or a teacher's logits ``(n, classes)``.
Batch = tuple[Images, Tensor]
#: Function from the number of an epoch to its batches; all randomness comes from the generator.
Epoch = Callable[[int, np.random.Generator], Iterator[Batch]]
#: Function from the logits of every head (the output head last) and the target to a scalar loss.
Loss = Callable[[list[Tensor], Tensor], Tensor]


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bf16() -> bool:
    """Whether the machine has bf16 arithmetic and no variable disables these instructions."""
    if device().type == "cuda":
        return True
    if any(os.environ.get(name, "").lower() in values for name, values in _ISA_LIMITS.items()):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in _BF16_CAPABILITIES)


def bf16_autocast() -> torch.autocast:
    """Return the autocast to bf16, enabled where the machine has it.

    Emulated bf16 takes up to twelve times as long as float32 (docs/decisions.md).
    """
    return torch.autocast(device().type, torch.bfloat16, enabled=has_bf16())


def layout() -> torch.memory_format:
    """Return channels last for bf16; in float32 it can slow a network of few channels down a hundredfold."""
    return torch.channels_last if has_bf16() else torch.contiguous_format


def normalise(images: Images | Tensor, spec: Input) -> Tensor:
    """Convert ``(n, h, w, 3)`` uint8 RGB to ``(n, 3, h, w)`` float32, normalised, in ``layout``.

    The channels are in the order of ``spec``, which is no grey one.
    """
    x = torch.as_tensor(images, device=device()).permute(0, 3, 1, 2).float()
    if spec.colour == "bgr":
        x = x.flip(1)
    shape = (1, 3, 1, 1)
    x = (x - torch.tensor(spec.mean, device=x.device).view(shape)) / torch.tensor(spec.std, device=x.device).view(shape)
    return x.contiguous(memory_format=layout())


def augment(images: Images, rng: np.random.Generator, cutout: int = 0, camera_share: float = 0.0) -> Images:
    """Shift images randomly by up to an eighth (reflected border) and mirror half of them.

    Args:
        images: ``(n, h, w, 3)`` uint8 RGB.
        cutout: Side of a grey square, pixels; 0 for none.
        camera_share: Share of the images that get camera augmentation.
    """
    n, height, width = images.shape[:3]
    down, across = height // 8, width // 8
    padded = np.pad(images, ((0, 0), (down, down), (across, across), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    dy, dx = (rng.integers(0, 2 * reach + 1, n) for reach in (down, across))
    out: Images = windows[np.arange(n), dy, dx].transpose(0, 2, 3, 1).copy()
    mirrored = rng.random(n) < 0.5
    out[mirrored] = out[mirrored, :, ::-1]
    if cutout:
        y, x = (rng.integers(0, side - cutout + 1, n) for side in (height, width))
        rows, columns = y[:, None] + np.arange(cutout), x[:, None] + np.arange(cutout)
        out[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]] = _GREY
    if camera_share:
        chosen = np.flatnonzero(rng.random(n) < camera_share)
        for rows in np.array_split(chosen, len(chosen) // 1000 + 1):
            out[rows] = camera_augment(out[rows], rng)
    return out


def camera_augment(images: Images, rng: np.random.Generator) -> Images:
    """Shift images by a random fraction of a pixel, which blurs them, and add sensor noise."""
    n = len(images)
    x = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge").astype(np.float32)
    right, down = rng.random((2, n, 1, 1, 1), np.float32)
    x = (1 - right) * x[:, :, :-1] + right * x[:, :, 1:]
    x = (1 - down) * x[:, :-1] + down * x[:, 1:]
    x += NOISE * rng.standard_normal(x.shape, np.float32)
    augmented: Images = np.clip(np.rint(x), 0, 255).astype(np.uint8)
    return augmented


def augmented_batches(split: Split, recipe: Recipe) -> Epoch:
    """Return new augmented views of a labelled split for each epoch."""

    def epoch(_number: int, rng: np.random.Generator) -> Iterator[Batch]:
        order = rng.permutation(len(split))
        for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
            rows = order[start : start + recipe.batch]
            images = augment(split.images[rows], rng, recipe.cutout, recipe.camera_share)
            yield images, torch.from_numpy(split.labels[rows])

    return epoch


def label_loss(recipe: Recipe) -> Loss:
    """Return cross-entropy with label smoothing; each auxiliary head has weight ``recipe.auxiliary``."""

    def loss(logits: list[Tensor], labels: Tensor) -> Tensor:
        *auxiliary, output = [F.cross_entropy(head, labels, label_smoothing=recipe.smoothing) for head in logits]
        return output + recipe.auxiliary * sum(auxiliary, torch.zeros_like(output))

    return loss


def self_distillation_loss(recipe: Recipe) -> Loss:
    """Return ``label_loss`` plus the divergence of each auxiliary head from the output head.

    L. Zhang et al., "Be Your Own Teacher", arXiv 1905.08094. An early exit has to agree with the output, right or
    wrong.
    """
    of_labels = label_loss(recipe)

    def loss(logits: list[Tensor], labels: Tensor) -> Tensor:
        *auxiliary, output = (head / _TEMPERATURE for head in logits)
        target = F.log_softmax(output.detach(), 1)
        divergence = [
            F.kl_div(F.log_softmax(head, 1), target, reduction="batchmean", log_target=True) for head in auxiliary
        ]
        return of_labels(logits, labels) + recipe.auxiliary * _TEMPERATURE**2 * torch.stack(divergence).sum()

    return loss


def fit(
    network: Network,
    spec: Input,
    recipe: Recipe,
    batches: Epoch,
    steps: int,
    loss: Loss,
    checkpoint: Path,
    progress: Progress,
    title: str,
    evaluate: Callable[[Network], dict[str, float]] | None = None,
    keep_best: str = "",
) -> list[dict[str, float]]:
    """Train ``network`` in place.

    Args:
        steps: Optimiser steps of an epoch.
        checkpoint: File of the state after each epoch; training continues from a file of the same recipe.
        evaluate: Function that returns metrics after each epoch.
        keep_best: Metric for early stopping: the weights of the best epoch are restored if its value is higher by
            ``_MIN_ADVANTAGE`` than the last one's. Empty for none.

    Returns:
        The metrics of each epoch.
    """
    torch.manual_seed(recipe.seed)
    network.to(device()).to(memory_format=layout())  # type: ignore[call-overload]
    decayed = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.decay}, {"params": rest, "weight_decay": 0.0}]
    optimiser: torch.optim.Optimizer
    if recipe.optimiser == "sgd":
        optimiser = torch.optim.SGD(groups, lr=recipe.rate, momentum=0.9, nesterov=True)
    else:
        optimiser = torch.optim.AdamW(groups, lr=recipe.rate)
    total = recipe.epochs * steps
    peak = max(1, int(recipe.warmup * total))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: (step + 1) / peak if step < peak else (total - step) / max(1, total - peak)
    )
    history: list[dict[str, float]] = []
    best: dict[str, Any] = {}
    if state := _load(checkpoint, recipe):
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        history, best = state["history"], state.get("best", {})

    task = progress.add_task(title, total=total, completed=len(history) * steps)
    for epoch in range(len(history), recipe.epochs):
        network.train()
        (width, height), losses = pixels(recipe.size(epoch)), torch.zeros((), dtype=torch.float64, device=device())
        for images, expected in batches(epoch, np.random.default_rng((recipe.seed, epoch))):
            x, target = normalise(images, spec), expected.to(device())
            if (height, width) != x.shape[-2:]:
                x = F.interpolate(x, size=(height, width), mode="bilinear", antialias=True)
                x = x.contiguous(memory_format=layout())
            with bf16_autocast():
                logits = network.heads(x)
            value = loss([head.float() for head in logits], target)
            optimiser.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses += value.detach()  # not read here, because reading waits for the GPU
            progress.advance(task)
        row = {"epoch": float(epoch + 1), "side": float(width), "loss": float(losses) / steps}
        if evaluate is not None:
            row |= evaluate(network)
        history.append(row)
        if keep_best and row[keep_best] >= max((past[keep_best] for past in history[:-1]), default=0.0):
            best = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        progress.console.print(f"{title}: " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
        state = {
            "recipe": asdict(recipe),
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
            "history": history,
            "best": best,
        }
        data = io.BytesIO()  # serialised in memory, because torch raises no OSError on a full disk
        torch.save(state, data)
        atomic_files.write(checkpoint, data.getbuffer())
    progress.remove_task(task)
    if best and max(row[keep_best] for row in history) - history[-1][keep_best] > _MIN_ADVANTAGE:
        network.load_state_dict(best)
    return history


def _load(path: Path, recipe: Recipe) -> dict[str, Any] | None:
    """Load a state; None if there is none or its recipe differs."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device(), weights_only=True)
    same = {**state["recipe"], "phases": tuple(map(tuple, state["recipe"]["phases"]))} == asdict(recipe)
    return state if same else None


def scores(network: Network, images: Images, spec: Input, batch: int = 500) -> npt.NDArray[np.float32]:
    """Return the logits ``(n, classes)`` in evaluation mode, in bf16 where training uses it."""
    was_training = network.training
    network.eval()
    with torch.no_grad(), bf16_autocast():
        parts = [network(normalise(images[at : at + batch], spec)).float().cpu() for at in range(0, len(images), batch)]
    network.train(was_training)
    return torch.cat(parts).numpy()


def accuracy(network: Network, split: Split, spec: Input) -> float:
    """Return the share of ``split`` that the network classifies correctly."""
    return float((scores(network, split.images, spec).argmax(1) == split.labels).mean())
