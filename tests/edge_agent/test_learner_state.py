"""What was learned, as bytes: the same to the last bit, or refused."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.edge_agent.learner_state import MAX_BYTES, BadLearnerState, LearnerState, decode
from cachenet.edge_agent.learner_state import encode as encode_state
from cachenet.shared.cascade.features import FEATURE_COUNT, Array, Stage
from cachenet.shared.cascade.risk_model import RiskPrior, fit_prior

State = dict[Stage, tuple[Array, Array]]


def encode(state: State, version: str) -> bytes:
    return encode_state(LearnerState(state), version)


def state(seed: int, stages: tuple[Stage, ...] = tuple(FEATURE_COUNT)) -> State:
    rng = np.random.default_rng(seed)
    sizes = {stage: FEATURE_COUNT[stage] + 1 for stage in stages}
    return {stage: (rng.normal(size=size), rng.normal(size=(size, size))) for stage, size in sizes.items()}


@given(st.integers(0, 2**32), st.sets(st.sampled_from(list(FEATURE_COUNT))), st.text())
def test_a_state_comes_back_to_the_last_bit(seed: int, stages: set[Stage], version: str) -> None:
    before = state(seed, tuple(stages))
    data = encode(before, version)
    after = decode(data, version).stages
    assert len(data) < MAX_BYTES / 4
    assert after.keys() == before.keys()
    for stage in stages:
        for one, other in zip(before[stage], after[stage], strict=True):
            np.testing.assert_array_equal(one, other)


@given(st.binary(max_size=300))
def test_any_bytes_are_decoded_or_refused_and_nothing_else(data: bytes) -> None:
    with pytest.raises(BadLearnerState):
        decode(data, "v")


@given(st.integers(0, len(encode(state(0), "v")) - 1))
def test_a_state_that_was_cut_off_is_refused(length: int) -> None:
    with pytest.raises(BadLearnerState):
        decode(encode(state(0), "v")[:length], "v")


@pytest.mark.parametrize("directory", [0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(directory: int, value: float) -> None:
    bad = state(0)
    bad["base"][directory].flat[3] = value
    with pytest.raises(BadLearnerState, match="not finite"):
        decode(encode(bad, "v"), "v")


def test_another_version_size_or_shape_is_refused() -> None:
    with pytest.raises(BadLearnerState, match="bundle version old, not new"):
        decode(encode(state(0), "old"), "new")
    with pytest.raises(BadLearnerState, match="at most"):
        decode(bytes(MAX_BYTES + 1), "v")
    small = {"picture": (np.zeros(3), np.zeros((3, 3)))}
    with pytest.raises(BadLearnerState, match="3 weights, 5 are expected"):
        decode(encode(small, "v"), "v")  # type: ignore[arg-type]
    deep = msgspec.msgpack.encode({"bundle_version": "v", "stages": {"other": ((0.0,), (0.0,))}, "fitted": {}})
    with pytest.raises(BadLearnerState, match="damaged"):
        decode(deep, "v")


def test_priors_that_were_fitted_on_the_device_come_back_too_and_are_checked() -> None:
    rng = np.random.default_rng(0)
    prior = fit_prior(rng.normal(size=(30, FEATURE_COUNT["base"])), rng.random(30) < 0.3)
    fitted: dict[Stage, RiskPrior] = {"base": prior}
    assert decode(encode_state(LearnerState({}, fitted), "v"), "v").fitted == fitted
    with pytest.raises(BadLearnerState, match="prior has a wrong shape"):
        decode(encode_state(LearnerState({}, {"picture": prior}), "v"), "v")
