"""What more frames would buy: an extrapolated power law whose interval holds the truth on drawn errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.models.data.frames import FramesError
from cachenet.models.report.learning_curve import Errors, divided, gains, latest, power_law, sentences

SIZES = [100, 200, 400, 800]


def drawn(b: float, c: float, seed: int, frames: int = 3000) -> list[Errors]:
    """Errors of a model after each size, whose error is ``b * n ** -c``; hard frames are hard for all sizes."""
    hardness = np.random.default_rng(seed).random(frames)
    return [Errors((hardness < b * n**-c).astype(np.float64), np.ones(frames)) for n in SIZES]


@given(st.floats(0.05, 0.9), st.floats(0.0, 1.0))
def test_the_fit_finds_a_power_law(b: float, c: float) -> None:
    sizes = np.array(SIZES, np.float64)
    log_b, found = power_law(sizes, (b * sizes**-c)[None])
    assert (np.exp(log_b[0]), found[0]) == pytest.approx((b, c), abs=1e-6)


def test_the_interval_holds_the_gain_of_the_law() -> None:
    truth = 100 * (0.8 * 800**-0.4 - 0.8 * 1600**-0.4)
    inside = 0
    for seed in range(20):
        (gain,) = gains(SIZES, drawn(0.8, 0.4, seed), [800])
        inside += gain.low <= truth <= gain.high
        assert gain.points == pytest.approx(truth, abs=1.5)
    assert inside >= 15  # of a 90 % interval


def test_errors_that_do_not_fall_buy_nothing_and_a_line_says_so() -> None:
    flat = gains(SIZES, drawn(0.2, 0.0, 0), [800])
    assert flat[0].points == pytest.approx(0.0, abs=0.2)
    more = [{"frames": 800, "points": 0.0, "interval": [0.0, 0.0]}]
    results = {"measured": "F1", "frames_measured_on": 300, "more": more}
    bought = "800 more frames would buy 0.0 +- 0.0 points of F1 (90 %: 0.0 to 0.0): not shown to buy anything"
    assert sentences(results) == [bought]
    _, remark = sentences(results | {"frames_measured_on": 299})
    assert "too narrow: 299 later frames were measured on, and 300 are needed. Give 1,500 frames or more" in remark


def test_the_same_errors_give_the_same_gains() -> None:
    assert gains(SIZES, drawn(0.5, 0.3, 1), [800, 2400]) == gains(SIZES, drawn(0.5, 0.3, 1), [800, 2400])


@given(st.lists(st.integers(200, 300), min_size=1, max_size=3), st.sampled_from([1 / 8, 1 / 4, 1 / 2, 1.0]))
def test_a_model_learns_from_the_latest_frames_before_those_it_is_measured_on(runs: list[int], share: float) -> None:
    sequences = np.concatenate([np.full(length, number) for number, length in enumerate(runs)])
    learn, tune, prove = divided(sequences)
    rows = latest(learn, sequences, share)
    assert abs(len(rows) - share * len(learn)) <= len(runs) and set(rows) <= set(learn)
    for number in range(len(runs)):
        own, later = rows[sequences[rows] == number], tune[sequences[tune] == number]
        assert own[-1] == learn[sequences[learn] == number][-1]
        assert own[-1] < later[0] and later[-1] < prove[sequences[prove] == number][0]


def test_too_little_footage_is_refused() -> None:
    with pytest.raises(FramesError, match="are needed; give more frames"):
        divided(np.zeros(60, np.int64))
