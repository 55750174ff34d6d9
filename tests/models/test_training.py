"""What training does to images and to what it has trained already."""

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
    fit,
    label_loss,
    rounding,
    sense,
)

pytestmark = pytest.mark.slow

TINY = Shape(widths=(4,), blocks=(1,))


@pytest.fixture(scope="module")
def images() -> Images:
    return sample.load().images[:64]


def test_the_same_seed_gives_the_same_views_and_leaves_the_images_alone(images: Images) -> None:
    before = images.copy()
    views = [augment(images, np.random.default_rng(seed), 8, 0.5) for seed in (1, 1, 2)]
    assert np.array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])
    assert np.array_equal(images, before)
    assert views[0].shape == images.shape
    assert views[0].dtype == np.uint8


def test_a_camera_softens_and_adds_noise_but_moves_nothing_by_a_pixel(images: Images) -> None:
    sensed = sense(images, np.random.default_rng(0)).astype(float)
    flat = sense(np.full((64, 32, 32, 3), 128, np.uint8), np.random.default_rng(0)).astype(float)
    assert flat.std() == pytest.approx(3.5, abs=0.1)
    assert flat.mean() == pytest.approx(128, abs=0.1)
    here = np.abs(sensed - images)[:, 1:-1, 1:-1].mean()
    away = np.abs(sensed[:, :, 2:] - images[:, :, :-2])[:, 1:-1, 1:-1].mean()
    assert here < away


def test_the_share_that_is_sensed_is_the_share_that_was_asked_for() -> None:
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
def test_only_a_processor_that_computes_in_bf16_is_asked_to(
    has: dict[str, bool], kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    with rounding():
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


def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path: Path, images: Images) -> None:
    recipe = Recipe(phases=((2, 16), (2, 32)), rate=0.1)
    whole = train(recipe, tmp_path / "whole.pt", images)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "broken.pt", images, stop_after=2)
    resumed = train(recipe, tmp_path / "broken.pt", images)
    for ours, theirs in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_checkpoint_of_another_recipe_is_not_gone_on_from(tmp_path: Path, images: Images) -> None:
    first, second = Recipe(phases=((1, 32),), rate=0.1), Recipe(phases=((1, 32),), rate=0.2)
    train(first, tmp_path / "run.pt", images)
    after = train(second, tmp_path / "run.pt", images)
    alone = train(second, tmp_path / "alone.pt", images)
    for ours, theirs in zip(after.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("held", "taken"), [((0.5, 0.9, 0.6), 1), ((0.5, 0.6, 0.9), 2), ((0.5, 0.9, 0.89), 2)])
def test_a_network_that_got_clearly_worse_on_later_frames_is_taken_as_it_was(
    held: tuple[float, ...], taken: int, tmp_path: Path, images: Images
) -> None:
    recipe, network, seen = Recipe(phases=((3, 32),), rate=0.1), ResNet(TINY), []

    def evaluate(trained: torch.nn.Module) -> dict[str, float]:
        seen.append({name: tensor.clone() for name, tensor in trained.state_dict().items()})
        return {"held": held[len(seen) - 1]}

    with Progress(console=Console(file=io.StringIO())) as progress:
        epochs, loss, path = (lambda _epoch, _rng: epochs_of(images)), label_loss(recipe), tmp_path / "run.pt"
        fit(network, cifar10.INPUT, recipe, epochs, 1, loss, path, progress, "tiny", evaluate, keep_best="held")
    for ours, theirs in zip(network.state_dict().values(), seen[taken].values(), strict=True):
        assert torch.equal(ours, theirs)
