"""Training: augmentation, checkpoints and early stopping."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from cachenet.models.data import cifar10, sample
from cachenet.models.train.networks import ResNet, Shape
from cachenet.models.train.training import (
    Batch,
    Images,
    Recipe,
    augment,
    bf16_autocast,
    camera_augment,
    fit,
    label_loss,
)

pytestmark = pytest.mark.slow

TINY = Shape(widths=(4,), blocks=(1,))


@pytest.fixture(scope="module")
def images() -> Images:
    return sample.load().images[:64]


def test_augmentation_depends_on_the_seed_alone_and_does_not_change_its_input(images: Images) -> None:
    before = images.copy()
    views = [augment(images, np.random.default_rng(seed), 8, 0.5) for seed in (1, 1, 2)]
    assert np.array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])
    assert np.array_equal(images, before)
    assert views[0].shape == images.shape
    assert views[0].dtype == np.uint8


def test_camera_augmentation_blurs_and_adds_noise_without_a_shift_of_a_pixel(images: Images) -> None:
    augmented = camera_augment(images, np.random.default_rng(0)).astype(float)
    flat = camera_augment(np.full((64, 32, 32, 3), 128, np.uint8), np.random.default_rng(0)).astype(float)
    assert flat.std() == pytest.approx(3.5, abs=0.1)
    assert flat.mean() == pytest.approx(128, abs=0.1)
    aligned = np.abs(augmented - images)[:, 1:-1, 1:-1].mean()
    shifted = np.abs(augmented[:, :, 2:] - images[:, :, :-2])[:, 1:-1, 1:-1].mean()
    assert aligned < shifted


def test_camera_augmentation_applies_to_the_requested_share() -> None:
    flat = np.full((2000, 8, 8, 3), 100, np.uint8)
    touched = (augment(flat, np.random.default_rng(0), 0, 0.3) != 100).any(axis=(1, 2, 3)).mean()
    assert touched == pytest.approx(0.3, abs=0.05)
    assert not (augment(flat, np.random.default_rng(0), 0, 0.0) != 100).any()


@pytest.mark.parametrize(
    ("has", "kind"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, torch.float32),
        ({"avx2": True, "avx512_bf16": True}, torch.bfloat16),
        ({"neon": True, "bf16": False}, torch.float32),
        ({"neon": True, "bf16": True}, torch.bfloat16),
    ],
)
def test_bf16_is_used_only_where_the_processor_has_it(
    has: dict[str, bool], kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    with bf16_autocast():
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == kind


def epochs_of(images: Images) -> Iterator[Batch]:
    yield images, torch.zeros(len(images), dtype=torch.int64)


def train(recipe: Recipe, checkpoint: Path, images: Images, stop_after: int | None = None) -> ResNet:
    torch.manual_seed(3)
    network = ResNet(TINY)
    epochs = 0

    def evaluate(_network: ResNet) -> dict[str, float]:
        nonlocal epochs
        if epochs == stop_after:
            raise KeyboardInterrupt
        epochs += 1
        return {}

    with Progress(console=Console(file=io.StringIO())) as progress:
        fit(
            network,
            cifar10.INPUT,
            recipe,
            lambda _epoch, rng: epochs_of(augment(images, rng)),
            1,
            label_loss(recipe),
            checkpoint,
            progress,
            "tiny",
            evaluate,
        )
    return network


@pytest.mark.usefixtures("no_recordings")
def test_interrupted_training_gives_the_same_weights(tmp_path: Path, images: Images) -> None:
    recipe = Recipe(phases=((2, 16), (2, 32)), rate=0.1)
    complete = train(recipe, tmp_path / "whole.pt", images)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "broken.pt", images, stop_after=2)
    resumed = train(recipe, tmp_path / "broken.pt", images)
    for own, expected in zip(complete.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(own, expected)


def test_a_checkpoint_of_another_recipe_is_ignored(tmp_path: Path, images: Images) -> None:
    first, second = Recipe(phases=((1, 32),), rate=0.1), Recipe(phases=((1, 32),), rate=0.2)
    train(first, tmp_path / "run.pt", images)
    after = train(second, tmp_path / "run.pt", images)
    alone = train(second, tmp_path / "alone.pt", images)
    for own, expected in zip(after.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(own, expected)


@pytest.mark.parametrize(("accuracies", "chosen"), [((0.5, 0.9, 0.6), 1), ((0.5, 0.6, 0.9), 2), ((0.5, 0.9, 0.89), 2)])
def test_early_stopping_restores_a_clearly_better_epoch(
    accuracies: tuple[float, ...], chosen: int, tmp_path: Path, images: Images
) -> None:
    recipe, network, states = Recipe(phases=((3, 32),), rate=0.1), ResNet(TINY), []

    def evaluate(trained: torch.nn.Module) -> dict[str, float]:
        states.append({name: tensor.clone() for name, tensor in trained.state_dict().items()})
        return {"held": accuracies[len(states) - 1]}

    with Progress(console=Console(file=io.StringIO())) as progress:
        epochs, loss, path = (lambda _epoch, _rng: epochs_of(images)), label_loss(recipe), tmp_path / "run.pt"
        fit(network, cifar10.INPUT, recipe, epochs, 1, loss, path, progress, "tiny", evaluate, keep_best="held")
    for own, expected in zip(network.state_dict().values(), states[chosen].values(), strict=True):
        assert torch.equal(own, expected)
