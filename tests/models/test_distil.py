from __future__ import annotations

import numpy as np
import pytest

from models.distil import mix


@pytest.mark.parametrize("classes", [(0,), (1, 2, 3), (0, 1, 2, 3, 4, 5, 6, 7, 8)])
def test_a_submodels_mix_gives_its_own_classes_most_and_the_rest_a_part(classes: tuple[int, ...]) -> None:
    labels = np.random.default_rng(0).integers(0, 10, 5000)
    inside = np.isin(labels, classes)
    weights = mix(inside)
    assert weights.sum() == pytest.approx(1)
    assert weights[inside].sum() == pytest.approx(0.8)
    assert len(set(weights[inside])) == len(set(weights[~inside])) == 1
