from __future__ import annotations

import numpy as np
import pytest
import torch

from cachenet.models.train.distill import distillation_loss, log_prior, mix


@pytest.mark.parametrize("classes", [(0,), (1, 2, 3), (0, 1, 2, 3, 4, 5, 6, 7, 8)])
def test_a_submodels_mix_gives_its_own_classes_most_and_the_rest_a_part(classes: tuple[int, ...]) -> None:
    labels = np.random.default_rng(0).integers(0, 10, 5000)
    inside = np.isin(labels, classes)
    weights = mix(inside)
    assert weights.sum() == pytest.approx(1)
    assert weights[inside].sum() == pytest.approx(0.8)
    assert len(set(weights[inside])) == len(set(weights[~inside])) == 1


def test_what_the_context_rules_out_is_hardly_a_lesson() -> None:
    """A mistake about a label that never comes costs next to nothing beside the same about one that does; and to say
    what the teacher says costs nothing, whatever comes."""
    torch.manual_seed(0)
    teacher, wrong = torch.randn(6, 4), torch.zeros(4)
    rare, seen = wrong.index_fill(0, torch.tensor([3]), 2.0), wrong.index_fill(0, torch.tensor([0]), 2.0)
    foreseen = distillation_loss(log_prior(np.array([0.33, 0.33, 0.33, 0.01]), np.arange(4), 4), softness=1.0)
    anyhow = distillation_loss(softness=1.0)
    assert foreseen([teacher], teacher) == pytest.approx(0, abs=1e-6)
    assert foreseen([teacher + rare], teacher) < 0.2 * foreseen([teacher + seen], teacher)
    assert foreseen([teacher + rare], teacher) < 0.2 * anyhow([teacher + rare], teacher)


def test_the_prior_of_a_mix_is_what_it_shows_beside_all_labels_alike() -> None:
    prior = log_prior(np.array([0.25, 0.25, 0.5]), np.array([0, 0, 2]), 4)
    assert np.exp(prior) == pytest.approx([2, 0, 2, 0], abs=1e-4)
