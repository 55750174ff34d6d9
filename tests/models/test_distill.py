from __future__ import annotations

import numpy as np
import pytest
import torch

from cachenet.models.train.distill import distillation_loss, log_prior, mix


@pytest.mark.parametrize("classes", [(0,), (1, 2, 3), (0, 1, 2, 3, 4, 5, 6, 7, 8)])
def test_the_mix_gives_the_partition_four_fifths_of_the_weight(classes: tuple[int, ...]) -> None:
    labels = np.random.default_rng(0).integers(0, 10, 5000)
    inside = np.isin(labels, classes)
    weights = mix(inside)
    assert weights.sum() == pytest.approx(1)
    assert weights[inside].sum() == pytest.approx(0.8)
    assert len(set(weights[inside])) == len(set(weights[~inside])) == 1


def test_with_a_prior_an_error_about_an_improbable_label_costs_little() -> None:
    """The teacher's own scores cost nothing."""
    torch.manual_seed(0)
    teacher, zeros = torch.randn(6, 4), torch.zeros(4)
    rare, common = zeros.index_fill(0, torch.tensor([3]), 2.0), zeros.index_fill(0, torch.tensor([0]), 2.0)
    with_prior = distillation_loss(log_prior(np.array([0.33, 0.33, 0.33, 0.01]), np.arange(4), 4), temperature=1.0)
    without = distillation_loss(temperature=1.0)
    assert with_prior([teacher], teacher) == pytest.approx(0, abs=1e-6)
    assert with_prior([teacher + rare], teacher) < 0.2 * with_prior([teacher + common], teacher)
    assert with_prior([teacher + rare], teacher) < 0.2 * without([teacher + rare], teacher)


def test_the_prior_of_a_mix_is_relative_to_uniform_frequencies() -> None:
    prior = log_prior(np.array([0.25, 0.25, 0.5]), np.array([0, 0, 2]), 4)
    assert np.exp(prior) == pytest.approx([2, 0, 2, 0], abs=1e-4)
