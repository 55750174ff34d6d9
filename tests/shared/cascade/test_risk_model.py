"""The risk of a candidate is a probability, near one half for unusual features, and safe to restore."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachenet.shared.cascade.features import FEATURE_COUNT
from cachenet.shared.cascade.risk_model import RiskModel, RiskPrior, fit_prior
from tests.shared.cascade.streams import priors

Array = npt.NDArray[np.float64]


def footage(seed: int = 0, n: int = 300) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Two features, the first of which tells what is wrong, mostly."""
    rng = np.random.default_rng(seed)
    features = rng.normal(0.0, 1.0, (n, 2))
    return features, features[:, 0] + rng.normal(0.0, 0.5, n) > 1.0


def learned(model: RiskModel, features: Array, wrong: npt.NDArray[np.bool_]) -> RiskModel:
    for row, one in zip(features, wrong, strict=True):
        model.learn(row[None], np.array([one]), np.ones(1))
    return model


def same(first: RiskModel, second: RiskModel) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first.state, second.state, strict=True))


@st.composite
def batches(draw: st.DrawFn) -> list[tuple[Array, npt.NDArray[np.bool_], Array]]:
    seed, scale = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.0, 0.1, 1.0, 10.0, 1e3, 1e6]))
    share = draw(st.sampled_from([0.0, 0.5, 1.0]))
    rng = np.random.default_rng(seed)
    made = []
    for size in draw(st.lists(st.integers(0, 13), min_size=1, max_size=8)):
        weights = np.full(size, draw(st.sampled_from([0.05, 1.0, 50.0])))
        made.append((scale * rng.standard_normal((size, 13)), rng.random(size) < share, weights))
    return made


@settings(max_examples=150)
@given(batches(), st.sampled_from([0.1, 1.0]))
def test_a_risk_is_finite_and_a_probability_after_any_batches(
    learned_of: list[tuple[Array, npt.NDArray[np.bool_], Array]], share: float
) -> None:
    model = RiskModel(priors()["base"])
    model.reset(share)
    for batch in learned_of:
        model.learn(*batch)
        assert all(np.isfinite(part).all() for part in model.state)
        for features in (*(one for one, _, _ in learned_of), np.zeros((1, 13))):
            risks = model.risk(features)[0]
            assert risks.shape == (len(features),)
            assert ((risks >= 0) & (risks <= 1)).all()
            for row in features:
                assert 0 <= float(model.risk(row[None])[1][0]) <= 1


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_ignored(bad: float) -> None:
    model, untouched = RiskModel(priors()["base"]), RiskModel(priors()["base"])
    model.learn(np.full((2, 13), bad), np.array([True, False]), np.ones(2))
    assert same(model, untouched)


def test_the_prior_of_separable_outcomes_is_bounded() -> None:
    features = np.linspace(-1.0, 1.0, 400)[:, None]
    prior = fit_prior(features, features[:, 0] > 0)
    assert prior.check(1)
    assert max(abs(weight) for weight in prior.weights) < 20
    low, high = RiskModel(prior).risk(np.array([[-1.0], [1.0]]))[0]
    assert low < 0.05 and high > 0.95


@given(st.integers(1, 40), st.integers(0, 3), st.sampled_from([0.0, 1.0, 100.0]), st.integers(0, 99))
def test_any_footage_gives_a_prior_that_works(n: int, wrong: int, scale: float, seed: int) -> None:
    """One frame, nothing wrong, all wrong, features that do not vary."""
    features = scale * np.random.default_rng(seed).standard_normal((n, 4))
    prior = fit_prior(features, np.arange(n) % 4 < wrong)
    assert prior.check(4)
    risks = RiskModel(prior).risk(features)[0]
    assert ((risks > 0) & (risks < 1)).all()


def test_repeated_footage_hardly_increases_the_precision() -> None:
    """Neighbouring frames say the same: ten times the frames are not ten times the evidence."""
    features, wrong = footage()
    once, often = fit_prior(features, wrong), fit_prior(np.tile(features, (10, 1)), np.tile(wrong, 10))
    np.testing.assert_allclose(often.weights, once.weights, atol=0.02)
    np.testing.assert_allclose(often.precision, once.precision, rtol=0.05, atol=0.1)


def test_unusual_features_are_less_certain() -> None:
    """Two candidates at equal odds: the one with unusual features is nearer to one half."""
    model = RiskModel(fit_prior(*footage()))
    weights, _ = model.state
    usual = np.array([-1.0, 0.0])
    across = np.array([-weights[1], weights[0]]) / np.hypot(*weights[:2])  # changes nothing of the odds
    unusual = usual + 30.0 * across * np.array([1.0, 1.0])
    assert float(model.risk(unusual[None])[1][0]) == pytest.approx(float(model.risk(usual[None])[1][0]), abs=0.02)
    low, unsure = model.risk(np.stack([usual, unusual]))[0]
    assert low < unsure < 0.5


def test_observations_change_the_predicted_risk() -> None:
    model, at = RiskModel(fit_prior(*footage())), np.array([[-1.0, 0.0]])
    before = float(model.risk(at)[0][0])
    learned(model, np.repeat(at, 40, 0), np.ones(40, np.bool_))
    assert before < 0.1
    assert model.risk(at)[0][0] > 0.5


def test_an_observation_of_higher_weight_changes_more() -> None:
    def after(weight: float) -> float:
        model = RiskModel(fit_prior(*footage()))
        model.learn(np.array([[-1.0, 0.0]]), np.array([True]), np.array([weight]))
        return float(model.risk(np.array([[-1.0, 0.0]]))[0][0])

    assert after(0.1) < after(1.0) < after(5.0)


def test_old_observations_are_forgotten_in_favour_of_the_prior() -> None:
    """Ten half-lives of observations in which the feature that was learned about does not vary."""
    prior = fit_prior(*footage())
    model, at = RiskModel(prior), np.array([[0.0, 3.0]])
    learned(model, np.repeat(at, 100, 0), np.ones(100, np.bool_))
    after = model.state[0][1]
    features, wrong = footage(1, 200)
    features[:, 1] = prior.mean[1]
    for _ in range(100):
        model.learn(features, wrong, np.ones(200))
    fresh = prior.weights[1]
    assert abs(after - fresh) > 0.5
    assert abs(model.state[0][1] - fresh) < 0.2 * abs(after - fresh)


def test_one_observation_moves_the_weights_a_bounded_distance() -> None:
    """However heavy, however little the model was sure of: two steps of one standardised weight."""
    model = RiskModel(priors()["base"])
    model.reset(0.1)
    before = model.state[0].copy()
    model.learn(np.tile(priors()["base"].mean, (13, 1)), np.ones(13, np.bool_), np.full(13, 20.0))
    assert 0.1 < np.linalg.norm(model.state[0] - before) <= 2.0 + 1e-6


def test_a_reset_restores_the_prior_and_a_smaller_share_learns_faster() -> None:
    prior, at = fit_prior(*footage()), np.array([[-1.0, 0.0]])
    model = learned(RiskModel(prior), np.repeat(at, 30, 0), np.ones(30, np.bool_))
    model.reset()
    assert same(model, RiskModel(prior))
    light = RiskModel(prior)
    light.reset(0.1)
    assert float(light.risk(at)[1][0]) == float(model.risk(at)[1][0]), "the same is expected"
    assert light.risk(at)[0][0] > model.risk(at)[0][0], "and less is certain"
    for one in (model, light):
        learned(one, np.repeat(at, 3, 0), np.ones(3, np.bool_))
    assert light.risk(at)[0][0] > model.risk(at)[0][0]


def test_a_restored_model_continues_identically() -> None:
    features, wrong = footage(2, 60)
    model, again = RiskModel(fit_prior(*footage())), RiskModel(fit_prior(*footage()))
    learned(model, features[:30], wrong[:30])
    weights, precision = model.state
    assert again.restore(weights.copy(), precision.copy())
    for one in (model, again):
        learned(one, features[30:], wrong[30:])
    assert same(model, again)


def test_a_restored_model_does_not_share_memory_with_what_it_was_restored_from() -> None:
    model, other = RiskModel(fit_prior(*footage())), RiskModel(fit_prior(*footage()))
    weights, precision = (part.copy() for part in other.state)
    assert model.restore(weights, precision)
    weights[:], precision[:] = 7.0, 7.0
    assert same(model, other)


def poisoned(part: Array) -> Array:
    part = part.copy()
    part.flat[0] = np.nan
    return part


@pytest.mark.parametrize(
    "damage",
    [
        lambda w, p: (w[:-1], p),
        lambda w, p: (w, p[:-1]),
        lambda w, p: (w, p[0]),
        lambda w, p: (np.r_[w, 0.0], np.eye(len(p) + 1)),
        lambda w, p: (poisoned(w), p),
        lambda w, p: (w, poisoned(p)),
        lambda w, p: (w, np.full_like(p, np.inf)),
        lambda w, p: (w, -p),
        lambda w, p: (w, np.zeros_like(p)),
        lambda w, p: (w, np.eye(len(p)) * 1e-320),
        lambda w, p: (w, p + np.triu(np.ones_like(p), 1)),
    ],
    ids=["short", "not square", "a row", "one feature more", "NaN weight", "NaN precision", "infinite", "negative",
         "zero", "vanishing", "not symmetric"],
)  # fmt: skip
def test_an_invalid_state_is_refused_and_changes_nothing(
    damage: Callable[[Array, Array], tuple[Array, Array]],
) -> None:
    features, wrong = footage(3, 20)
    model = learned(RiskModel(fit_prior(*footage())), features, wrong)
    before = RiskModel(fit_prior(*footage()))
    assert before.restore(*model.state)
    assert not model.restore(*damage(*model.state))
    assert same(model, before)


def changed(prior: RiskPrior, **parts: tuple[float, ...]) -> RiskPrior:
    fields = {name: getattr(prior, name) for name in ("mean", "deviation", "weights", "precision")}
    return RiskPrior(**{**fields, **parts})


def test_an_invalid_prior_is_detected() -> None:
    prior = fit_prior(*footage())
    assert prior.check(2)
    assert not prior.check(3)
    assert not changed(prior, mean=prior.mean[:1]).check(2)
    assert not changed(prior, weights=(float("nan"), *prior.weights[1:])).check(2)
    assert not changed(prior, deviation=(0.0, 1.0)).check(2)
    assert not changed(prior, precision=prior.precision[:-1]).check(2)
    assert not changed(prior, precision=(0.0,) * 9).check(2), "or a cascade could not be built from it"
    assert not changed(prior, precision=tuple(-one for one in prior.precision)).check(2)


def test_priors_of_footage_have_the_features_of_their_stage() -> None:
    assert set(priors()) == set(FEATURE_COUNT)
    assert all(prior.check(FEATURE_COUNT[stage]) for stage, prior in priors().items())
