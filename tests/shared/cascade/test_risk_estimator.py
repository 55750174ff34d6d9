"""Candidates and their risks: which labels a frame may be answered with, and what an answer teaches of them."""

from __future__ import annotations

import numpy as np
import pytest

from cachenet.shared.cascade.features import FEATURE_COUNT
from cachenet.shared.cascade.probability import softmax
from cachenet.shared.cascade.risk_estimator import (
    FIRST_ANSWERS,
    Lookup,
    RiskEstimator,
    priors_of,
)
from tests.shared.cascade.streams import CLASSES, SURE, frame, grey, logits, priors


def likelihood(label: int, margin: float = SURE) -> np.ndarray:
    return softmax(logits(label, margin))


def answered(estimator: RiskEstimator, index: int, level: float, label: int, predicted: int | None = None) -> Lookup:
    """A frame of one grey, looked at by the base model, that the full model has answered."""
    lookup = estimator.begin(frame(index, picture=grey(level)))
    estimator.add_output(lookup, likelihood(label if predicted is None else predicted))
    estimator.learn(lookup, label)
    return lookup


def test_candidates_are_the_held_and_the_recalled_answer_and_the_models_labels() -> None:
    estimator = RiskEstimator(CLASSES, priors())
    answered(estimator, 0, 50.0, 0)  # looks most like the frame: recalled
    answered(estimator, 1, 200.0, 1)  # the newest: held
    lookup = estimator.begin(frame(2, picture=grey(60.0)))
    assert lookup.candidates.labels == [0], "by the picture alone it is the recalled one"
    estimator.add_output(lookup, likelihood(2))
    assert lookup.candidates.labels == [0, 1, 2]
    estimator.add_output(lookup, likelihood(3))
    assert lookup.candidates.labels == [0, 1, 2, 3]
    assert lookup.stage == "submodel"
    assert set(lookup.earlier) == {"picture", "base"}


def test_only_the_held_answer_carries_what_has_changed_since_its_frame() -> None:
    estimator = RiskEstimator(CLASSES, priors())
    answered(estimator, 0, 50.0, 0)  # recalled
    answered(estimator, 1, 200.0, 1)  # held
    lookup = estimator.begin(frame(2, picture=grey(60.0)))
    estimator.add_output(lookup, likelihood(2))
    recalled, held, other = lookup.candidates.rows
    assert held[4] == 1.0
    assert held[5] > 0.5, "the base model saw another label then"
    assert held[6:9] == pytest.approx(np.log1p([140.0, 140.0**2, 1.0]).tolist(), rel=1e-3)
    assert recalled[4:9] == other[4:9] == [0.0] * 5
    assert recalled[9:12] == pytest.approx([1.0, *np.log1p([10.0, 100.0])], rel=1e-3)
    assert held[9:12] == other[9:12] == [0.0] * 3


def test_before_the_first_answer_a_models_label_is_the_only_candidate() -> None:
    estimator = RiskEstimator(CLASSES, priors())
    lookup = estimator.begin(frame(0))
    assert estimator.best(lookup) is None
    estimator.add_output(lookup, likelihood(2))
    candidate = estimator.best(lookup)
    assert candidate is not None and candidate.label == 2


def test_the_best_candidate_is_that_of_least_risk_or_the_only_one_allowed() -> None:
    estimator = RiskEstimator(CLASSES, priors())
    for index in range(10):
        answered(estimator, index, 50.0, 1)
    lookup = estimator.begin(frame(10, picture=grey(50.0)))
    estimator.add_output(lookup, likelihood(2, 0.5))
    best = estimator.best(lookup)
    only = estimator.best(lookup, only=2)
    assert best is not None and only is not None
    assert (best.label, only.label) == (1, 2)
    assert best.risk < only.risk
    assert best.charge <= best.risk


def test_a_more_confident_model_has_a_lower_risk() -> None:
    def risk(margin: float) -> float:
        estimator = RiskEstimator(CLASSES, priors())
        lookup = estimator.begin(frame(0))
        estimator.add_output(lookup, likelihood(2, margin))
        candidate = estimator.best(lookup)
        assert candidate is not None
        return candidate.risk

    assert risk(6.0) < risk(2.0) < risk(0.5)


def test_an_answer_labels_all_candidates_of_its_frame_at_every_stage() -> None:
    estimator = RiskEstimator(CLASSES, priors())
    answered(estimator, 0, 50.0, 0)
    answered(estimator, 1, 200.0, 1)
    lookup = estimator.begin(frame(2, picture=grey(60.0)))
    estimator.add_output(lookup, likelihood(2))
    estimator.add_output(lookup, likelihood(3))
    outcomes = estimator.outcomes(lookup, 1)
    assert set(outcomes) == set(FEATURE_COUNT)
    assert outcomes["picture"].wrong.tolist() == [True]
    assert outcomes["submodel"].wrong.tolist() == [True, False, True, True]
    assert outcomes["base"].wrong.tolist() == [True, False, True, True], "three candidates and a pair with frame 0"
    assert outcomes["base"].weights.tolist() == [1.0, 1.0, 1.0, 0.5]


def test_pairs_with_the_last_answers_have_a_total_weight_of_at_most_one() -> None:
    estimator = RiskEstimator(CLASSES, priors())
    for index in range(40):
        answered(estimator, index, 6.0 * index, index % 3)
    lookup = estimator.begin(frame(40, picture=grey(245.0)))
    estimator.add_output(lookup, likelihood(1))
    weights = estimator.outcomes(lookup, 1)["base"].weights
    pairs = weights[weights < 1.0]
    assert len(pairs) == 11
    assert pairs.sum() < 1.0


def test_a_frame_is_never_paired_with_later_answers() -> None:
    estimator = RiskEstimator(CLASSES, priors())
    for index in (0, 1, 8, 9):
        answered(estimator, index, 20.0 * index, 0)
    lookup = estimator.begin(frame(5, picture=grey(100.0)))
    estimator.add_output(lookup, likelihood(0))
    outcomes = estimator.outcomes(lookup, 0)
    assert len(outcomes["base"].weights) == len(lookup.candidates.labels) + 1, "of frames 0 and 1 the newer is held"


def test_priors_are_fitted_on_the_first_answers_where_there_are_none() -> None:
    estimator = RiskEstimator(CLASSES)
    for index in range(FIRST_ANSWERS):
        assert not estimator.ready
        lookup = answered(estimator, index, 4.0 * index, index // 10 % CLASSES)
        assert estimator.best(lookup) is None or estimator.ready
    assert estimator.ready
    answered(estimator, FIRST_ANSWERS, 4.0 * FIRST_ANSWERS, 0)  # the first frame of all had nothing to be compared with
    assert set(estimator.models) == {"picture", "base"}


def test_a_stage_without_a_prior_is_fitted_from_its_first_answers() -> None:
    """Submodels are pushed later, to bundles that had none."""
    estimator = RiskEstimator(CLASSES, {stage: prior for stage, prior in priors().items() if stage != "submodel"})
    for index in range(FIRST_ANSWERS + 1):
        lookup = estimator.begin(frame(index, picture=grey(4.0 * index)))
        estimator.add_output(lookup, likelihood(index % CLASSES))
        estimator.add_output(lookup, likelihood(0))
        assert (estimator.best(lookup) is None) == (index < FIRST_ANSWERS)
        estimator.learn(lookup, 0)
    assert set(estimator.fitted) == {"submodel"}


def test_a_stage_without_models_has_no_prior() -> None:
    assert priors_of([]) == {}
    estimator = RiskEstimator(CLASSES)
    answered(estimator, 0, 50.0, 0)
    lookup = estimator.begin(frame(1, picture=grey(50.0)))
    assert set(priors_of([estimator.outcomes(lookup, 0)])) == {"picture"}


def test_a_reset_forgets_the_answers_and_keeps_the_priors() -> None:
    estimator = RiskEstimator(CLASSES, priors())
    fresh = {stage: parts[0].copy() for stage, parts in estimator.state.items()}
    for index in range(20):
        answered(estimator, index, 12.0 * index, 1, predicted=2)
    assert any(not np.array_equal(parts[0], fresh[stage]) for stage, parts in estimator.state.items())
    estimator.reset(0.1)
    assert len(estimator.cache) == 0
    np.testing.assert_allclose(estimator.filter.belief, 1.0 / CLASSES)
    assert all(np.array_equal(parts[0], fresh[stage]) for stage, parts in estimator.state.items())


def test_a_restored_estimator_states_the_same_risks() -> None:
    learned, again = RiskEstimator(CLASSES, priors()), RiskEstimator(CLASSES, priors())
    for index in range(20):
        answered(learned, index, 12.0 * index, 1, predicted=2)
    assert again.restore(learned.state)
    risks = []
    for estimator in (learned, again):
        estimator.cache.clear()
        estimator.filter = RiskEstimator(CLASSES).filter
        lookup = estimator.begin(frame(30))
        estimator.add_output(lookup, likelihood(1))
        risks.append(estimator.best(lookup))
    assert risks[0] == risks[1] is not None


@pytest.mark.parametrize("stage", list(FEATURE_COUNT))
def test_the_valid_part_of_a_state_is_restored_and_the_result_is_false(stage: str) -> None:
    learned, again = RiskEstimator(CLASSES, priors()), RiskEstimator(CLASSES, priors())
    for index in range(20):
        lookup = learned.begin(frame(index, picture=grey(12.0 * index)))
        learned.add_output(lookup, likelihood(1))
        learned.add_output(lookup, likelihood(2))
        learned.learn(lookup, 1)
    state = dict(learned.state)
    weights, precision = state[stage]  # type: ignore[index]
    state[stage] = np.full_like(weights, np.nan), precision  # type: ignore[index]
    untouched = again.state[stage][0].copy()  # type: ignore[index]
    assert not again.restore(state)
    for name, (found, _) in again.state.items():
        assert np.array_equal(found, untouched if name == stage else learned.state[name][0])


def test_a_state_of_an_unknown_stage_is_refused() -> None:
    whole = RiskEstimator(CLASSES, priors())
    part = RiskEstimator(CLASSES, {"base": priors()["base"]})
    assert not part.restore(whole.state)
    assert set(part.models) == {"base"}


def test_only_the_base_model_updates_the_label_filter() -> None:
    """A submodel knows some labels only, and sees the same picture."""
    estimator = RiskEstimator(CLASSES, priors())
    lookup = estimator.begin(frame(0))
    estimator.add_output(lookup, likelihood(1))
    belief = estimator.filter.belief.copy()
    assert belief.argmax() == 1 and belief[1] > 0.5
    estimator.add_output(lookup, likelihood(2))
    np.testing.assert_array_equal(estimator.filter.belief, belief)


def test_an_answer_without_probes_is_compared_by_its_picture_alone() -> None:
    estimator = RiskEstimator(CLASSES, priors())
    estimator.store(estimator.begin(frame(0)), 1)
    lookup = estimator.begin(frame(1))
    estimator.add_output(lookup, likelihood(2))
    assert np.isfinite(lookup.candidates.rows).all()
    assert estimator.best(lookup) is not None


def test_an_observation_keeps_no_view() -> None:
    estimator = RiskEstimator(CLASSES, priors())
    assert estimator.begin(frame(0, logits(1, SURE))).frame.view is None
