"""Training of a row's networks, with a line after each epoch in place of a bar."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from cachenet.models.train import training
from cachenet.models.train.networks import Network
from cachenet.models.train.training import Epoch, Loss, Recipe
from cachenet.shared.inference.image import Input


def fit(
    network: Network,
    spec: Input,
    recipe: Recipe,
    batches: Epoch,
    steps: int,
    loss: Loss,
    checkpoint: Path,
    title: str,
    say: Callable[[str], None],
) -> None:
    """Train ``network`` in place, or continue from ``checkpoint``; see ``cachenet.models.train.training.fit``."""

    def evaluate(_network: Network) -> dict[str, float]:
        say(f"{title}: an epoch is done")
        return {}

    say(f"{title}: {recipe.epochs} epochs of {steps} steps")
    silent = Progress(console=Console(quiet=True))
    history = training.fit(network, spec, recipe, batches, steps, loss, checkpoint, silent, title, evaluate)
    say(f"{title}: loss {history[-1]['loss']:.4g}")
