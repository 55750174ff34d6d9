"""One training loop for every network: seeded, checkpointed after each epoch, resumable, bf16 where it pays.

An epoch draws all its randomness from ``(seed, epoch)``, so a resumed run sees the batches that an uninterrupted
one would have seen.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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

_GREY = 125
#: What processors call it that they compute in bf16: those of Intel and AMD, and ARM's.
_ROUNDING = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
#: Variables that keep oneDNN and PyTorch to the instructions of an older processor, with the values that name one
#: without bf16. oneDNN ignores upper and lower case, and still reads the variable by its former name.
_WITHOUT_BF16 = ("sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni")
_OLDER_PROCESSOR = {
    "ONEDNN_MAX_CPU_ISA": _WITHOUT_BF16,
    "DNNL_MAX_CPU_ISA": _WITHOUT_BF16,
    "ATEN_CPU_CAPABILITY": ("default", "avx2"),
}
#: By how much an earlier epoch must have been better to be taken in the end: less is chance.
_BETTER = 0.02
#: Temperature of what the last head teaches those before it.
_SOFTNESS = 3.0


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with Nesterov momentum, the rate rising over ``warmup`` of the steps and falling
    linearly to zero. ``phases`` are ``(epochs, size in pixels)``: early epochs on smaller images cost less and lose
    little (J. Howard's progressive resizing, DAWNBench 2018). ``cutout`` and ``sensed``: see ``augment``."""

    phases: tuple[tuple[int, Size], ...]
    rate: float
    batch: int = 128
    decay: float = 5e-4
    warmup: float = 0.2
    smoothing: float = 0.1
    auxiliary: float = 0.2
    cutout: int = 8
    sensed: float = 0.0
    seed: int = 0

    @property
    def epochs(self) -> int:
        return sum(count for count, _ in self.phases)

    def side(self, epoch: int) -> Size:
        for count, side in self.phases:
            if epoch < count:
                return side
            epoch -= count
        raise IndexError(epoch)


#: A batch: images ``(n, 32, 32, 3)`` uint8 and what the loss compares with: labels or a teacher's logits.
Batch = tuple[Images, Tensor]
#: Yields the batches of an epoch, given its number; all randomness comes from the generator.
Epoch = Callable[[int, np.random.Generator], Iterator[Batch]]
#: Scalar loss of the logits of every head (the real one last) against the target.
Loss = Callable[[list[Tensor], Tensor], Tensor]


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def rounds() -> bool:
    """Whether this machine computes in bf16 by itself, and no variable keeps PyTorch from these instructions."""
    if device().type == "cuda":
        return True
    if any(os.environ.get(name, "").lower() in values for name, values in _OLDER_PROCESSOR.items()):
        return False
    has = torch.cpu.get_capabilities()
    return any(has.get(name) for name in _ROUNDING)


def rounding() -> torch.autocast:
    """Computes in bf16 where the machine does so by itself; a processor that has to imitate it takes up to twelve times
    as long as in float32 (docs/decisions.md)."""
    return torch.autocast(device().type, torch.bfloat16, enabled=rounds())


def layout() -> torch.memory_format:
    """Channels last for bf16. In float32 a network of few channels may take a hundred times as long so."""
    return torch.channels_last if rounds() else torch.contiguous_format


def normalise(images: Images | Tensor, spec: Input) -> Tensor:
    """``(n, h, w, 3)`` uint8 RGB to ``(n, 3, h, w)`` float32, normalised, in ``layout``."""
    x = torch.as_tensor(images, device=device()).permute(0, 3, 1, 2).float()
    shape = (1, 3, 1, 1)
    x = (x - torch.tensor(spec.mean, device=x.device).view(shape)) / torch.tensor(spec.std, device=x.device).view(shape)
    return x.contiguous(memory_format=layout())


def augment(images: Images, rng: np.random.Generator, cutout: int = 0, sensed: float = 0.0) -> Images:
    """Random shift by up to an eighth (reflected border), mirror and a grey square of ``cutout`` pixels; the share
    ``sensed`` of them as a camera would see them."""
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
    if sensed:
        chosen = np.flatnonzero(rng.random(n) < sensed)
        for rows in np.array_split(chosen, len(chosen) // 1000 + 1):
            out[rows] = sense(out[rows], rng)
    return out


def sense(images: Images, rng: np.random.Generator) -> Images:
    """The images as a camera sees them: off its pixel grid by a fraction of a pixel either way, which softens them, and
    with the noise of a sensor."""
    n = len(images)
    x = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge").astype(np.float32)
    right, down = rng.random((2, n, 1, 1, 1), np.float32)
    x = (1 - right) * x[:, :, :-1] + right * x[:, :, 1:]
    x = (1 - down) * x[:, :-1] + down * x[:, 1:]
    x += NOISE * rng.standard_normal(x.shape, np.float32)
    sensed: Images = np.clip(np.rint(x), 0, 255).astype(np.uint8)
    return sensed


def labelled(split: Split, recipe: Recipe) -> Epoch:
    """Fresh augmented views of a labelled split."""

    def epoch(_number: int, rng: np.random.Generator) -> Iterator[Batch]:
        order = rng.permutation(len(split))
        for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
            rows = order[start : start + recipe.batch]
            yield augment(split.images[rows], rng, recipe.cutout, recipe.sensed), torch.from_numpy(split.labels[rows])

    return epoch


def label_loss(recipe: Recipe) -> Loss:
    """Cross-entropy with label smoothing; auxiliary heads at ``recipe.auxiliary`` each."""

    def loss(logits: list[Tensor], labels: Tensor) -> Tensor:
        *auxiliary, real = [F.cross_entropy(head, labels, label_smoothing=recipe.smoothing) for head in logits]
        return real + recipe.auxiliary * sum(auxiliary, torch.zeros_like(real))

    return loss


def passed_down_loss(recipe: Recipe) -> Loss:
    """``label_loss``, and what the last head says is a lesson for those before it (L. Zhang et al., "Be Your Own
    Teacher", arXiv 1905.08094): a cache between the layers is to say what the whole says, right or wrong."""
    of_labels = label_loss(recipe)

    def loss(logits: list[Tensor], labels: Tensor) -> Tensor:
        *auxiliary, real = (head / _SOFTNESS for head in logits)
        lesson = F.log_softmax(real.detach(), 1)
        off = [F.kl_div(F.log_softmax(own, 1), lesson, reduction="batchmean", log_target=True) for own in auxiliary]
        return of_labels(logits, labels) + recipe.auxiliary * _SOFTNESS**2 * torch.stack(off).sum()

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
    """Train ``network`` in place and return one row of figures per epoch.

    Continues from ``checkpoint`` where that file holds a run of the same recipe; ``steps`` are the optimiser steps of
    an epoch. ``keep_best``: the figure by which the weights of an earlier epoch are taken in the end, where it was
    better by ``_BETTER`` then: early stopping.
    """
    torch.manual_seed(recipe.seed)
    network.to(device()).to(memory_format=layout())  # type: ignore[call-overload]
    decayed = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    optimiser = torch.optim.SGD(
        [{"params": decayed, "weight_decay": recipe.decay}, {"params": rest, "weight_decay": 0.0}],
        lr=recipe.rate,
        momentum=0.9,
        nesterov=True,
    )
    total = recipe.epochs * steps
    peak = max(1, int(recipe.warmup * total))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: (step + 1) / peak if step < peak else (total - step) / max(1, total - peak),
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
        (width, height), losses = pixels(recipe.side(epoch)), torch.zeros((), dtype=torch.float64, device=device())
        for images, expected in batches(epoch, np.random.default_rng((recipe.seed, epoch))):
            x, target = normalise(images, spec), expected.to(device())
            if (height, width) != x.shape[-2:]:
                x = F.interpolate(x, size=(height, width), mode="bilinear", antialias=True)
                x = x.contiguous(memory_format=layout())
            with rounding():
                logits = network.heads(x)
            value = loss([head.float() for head in logits], target)
            optimiser.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses += value.detach()  # not read: a GPU is not to be waited for
            progress.advance(task)
        row = {"epoch": float(epoch + 1), "side": float(width), "loss": float(losses) / steps}
        if evaluate is not None:
            row |= evaluate(network)
        history.append(row)
        if keep_best and row[keep_best] >= max((one[keep_best] for one in history[:-1]), default=0.0):
            best = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        progress.console.print(f"{title}: " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
        _save(checkpoint, recipe, network, optimiser, schedule, history, best)
    progress.remove_task(task)
    if best and max(row[keep_best] for row in history) - history[-1][keep_best] > _BETTER:
        network.load_state_dict(best)
    return history


def _save(
    path: Path,
    recipe: Recipe,
    network: Network,
    optimiser: Any,
    schedule: Any,
    history: list[dict[str, float]],
    best: dict[str, Any],
) -> None:
    # By way of memory: what torch says of a full disk is no OSError.
    data = io.BytesIO()
    torch.save(
        {
            "recipe": asdict(recipe),
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
            "history": history,
            "best": best,
        },
        data,
    )
    atomic_files.write(path, data.getbuffer())


def _load(path: Path, recipe: Recipe) -> dict[str, Any] | None:
    """The state saved at ``path``, or None where there is none or it is of another recipe."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device(), weights_only=True)
    known = {**asdict(Recipe(phases=(), rate=0.0)), **state["recipe"]}  # a field that it lacks had its default
    same = {**known, "phases": tuple(map(tuple, known["phases"]))} == asdict(recipe)
    return state if same else None


def scores(network: Network, images: Images, spec: Input, batch: int = 500) -> npt.NDArray[np.float32]:
    """Logits ``(n, classes)`` of the network in evaluation mode, bf16 where training uses it."""
    was_training = network.training
    network.eval()
    with torch.no_grad(), rounding():
        parts = [network(normalise(images[at : at + batch], spec)).float().cpu() for at in range(0, len(images), batch)]
    network.train(was_training)
    return torch.cat(parts).numpy()


def accuracy(network: Network, split: Split, spec: Input) -> float:
    """Share of ``split`` whose label the network ranks first."""
    return float((scores(network, split.images, spec).argmax(1) == split.labels).mean())
