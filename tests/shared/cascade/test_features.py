"""Features: as many as ``FEATURE_COUNT`` says, finite, and free of scale."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachenet.shared.cascade import features
from cachenet.shared.cascade.features import FEATURE_COUNT, Change
from cachenet.shared.cascade.frame_cache import FrameCache
from cachenet.shared.cascade.probability import softmax
from cachenet.shared.cascade.risk_estimator import Lookup, RiskEstimator
from tests.shared.cascade.streams import frame, grey, noisy, scenery, signature

Array = npt.NDArray[np.float64]


@st.composite
def lookups(draw: st.DrawFn) -> tuple[int, list[tuple[Lookup, int]]]:
    """Frames of a random stream with random models, as a cascade looks at them; and the number of classes."""
    classes = draw(st.sampled_from([1, 2, 3, 1000]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    margin = draw(st.sampled_from([0.0, 1.0, 30.0, 1e6]))
    estimator, labelled = RiskEstimator(classes), []
    for index in range(draw(st.integers(1, 8))):
        shown = grey(float(rng.choice([0.0, 255.0]))) if rng.random() < 0.5 else signature(noisy(scenery(), index))
        lookup = estimator.begin(frame(int(rng.integers(5)) + 3 * index, picture=shown))
        for _ in range(int(rng.integers(0, 4))):
            scores = (margin * rng.standard_normal(classes)).astype(np.float32)
            estimator.add_output(lookup, softmax(scores))
        label = int(rng.integers(classes))
        labelled.append((lookup, label))
        if rng.random() < 0.7:
            estimator.store(lookup, label)
    return classes, labelled


@settings(max_examples=60)
@given(lookups())
def test_every_stage_has_its_number_of_finite_features(
    drawn: tuple[int, list[tuple[Lookup, int]]],
) -> None:
    classes, labelled = drawn
    for lookup, _ in labelled:
        stages = {**lookup.earlier, lookup.stage: lookup.candidates}
        for stage, (labels, rows) in stages.items():
            own = np.array(rows).reshape(len(rows), FEATURE_COUNT[stage])
            assert len(rows) == len(labels)
            assert np.isfinite(own).all()
            assert np.abs(own).max(initial=0.0) < 20, "logarithms are bounded"
            assert len(set(labels)) == len(labels)
            assert all(0 <= label < classes for label in labels)


def test_outcomes_have_the_features_of_their_candidates() -> None:
    estimator = RiskEstimator(3)
    for index in range(20):
        lookup = estimator.begin(frame(index, picture=grey(12.0 * index)))
        estimator.add_output(lookup, np.eye(3)[index % 3])
        estimator.add_output(lookup, np.eye(3)[index % 2])
        outcomes = estimator.outcomes(lookup, index % 3)
        for stage, own in outcomes.items():
            assert own.features.shape == (len(own.wrong), FEATURE_COUNT[stage])
            assert own.weights.shape == own.wrong.shape
            assert np.isfinite(own.features).all()
        estimator.store(lookup, index % 3)
    assert set(outcomes) == set(FEATURE_COUNT)
    assert len(outcomes["base"].wrong) > len(outcomes["submodel"].wrong), "pairs with the answers before"


def changes(of: Array, then: Array, since: int = 1) -> Array:
    cache = FrameCache(2)
    cache.add(frame(0, picture=signature(then.astype(np.float32))), 0, None)
    shown = frame(since, picture=signature(of.astype(np.float32)))
    [row] = cache.changes(shown, [0], cache.distances(shown.signature))
    return np.asarray(row)


def test_a_picture_that_has_not_changed_has_no_change_but_age() -> None:
    scene = scenery().astype(np.float64)
    np.testing.assert_allclose(changes(scene, scene, since=9), [0.0, 0.0, np.log(10.0)], atol=0.01)


def test_block_change_responds_to_small_objects_and_mean_square_to_large_ones() -> None:
    scene = np.full((24, 32), 100.0)
    small, everywhere = scene.copy(), scene + 10.0
    small[0:2, 0:2] = 200.0
    assert changes(small, scene)[0] > changes(everywhere, scene)[0]
    assert changes(small, scene)[1] < changes(everywhere, scene)[1]
    np.testing.assert_allclose(changes(everywhere, scene)[:2], np.log1p([10.0, 100.0]), atol=0.01)


def test_an_entry_newer_than_the_frame_has_no_age() -> None:
    scene = scenery().astype(np.float64)
    assert changes(scene, scene, since=-5)[2] == 0.0


@pytest.mark.parametrize(("own", "named"), [(0.8, True), (0.2, False)])
def test_whether_a_model_names_the_label_is_a_feature(own: float, named: bool) -> None:
    row = features.submodel_row([0.0] * FEATURE_COUNT["base"], own, named)
    assert row[-1] == named
    assert row[-3:-1] == pytest.approx([np.log(own), np.log(1.0 - own)])


def test_changes_are_features_of_the_held_label_only() -> None:
    """How the picture has changed since an answer says nothing of another label."""
    one, two = Change(1.0, 1.0, 1.0), Change(2.0, 2.0, 2.0)
    held = features.base_row(0.6, 0.6, True, one, 0.5, None, 0.9)
    other = features.base_row(0.4, 0.6, False, None, 0.5, two, 0.1)
    assert held[4:9] == [1.0, 0.5, 1.0, 1.0, 1.0] and held[9:12] == [0.0] * 3
    assert other[4:9] == [0.0] * 5 and other[9:12] == [1.0, 2.0, 2.0]
    assert held[12] == pytest.approx(-other[12]) and held[12] > 0


def test_the_base_models_probabilities_are_features() -> None:
    row = features.base_row(0.3, 0.6, False, None, 0.0, None, 0.25)
    assert row[:4] == pytest.approx(np.log([0.3, 0.7, 1.0, 0.4]).tolist())
    assert row[12] == pytest.approx(np.log(1 / 3))
