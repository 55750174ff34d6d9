"""Recorded models: the cascade over frames whose models have been run already, and priors of footage."""

from __future__ import annotations

import numpy as np
import pytest

from cachenet.shared.cascade import replay
from cachenet.shared.cascade.features import FEATURE_COUNT
from cachenet.shared.cascade.replay import ModelTrace, RecordedScores, fit_priors
from tests.shared.cascade.streams import SURE, build, logits, recorded, trace


def test_a_run_has_one_answer_per_frame_and_counts_misses() -> None:
    shown = trace(1, 200)
    cascade = recorded(shown, audit_floor=0.1)
    run = replay.run(cascade, shown)
    assert len(run.labels) == len(run.levels) == len(shown) == cascade.tally.frames
    assert run.misses.sum() == cascade.tally.cloud == run.levels.count("cloud")
    assert cascade.audits is not None
    assert run.asked.sum() == cascade.tally.cloud + cascade.audits.sent
    assert cascade.audits.judged == cascade.audits.sent > 0
    assert np.array_equal(run.labels[run.misses], shown.labels[run.misses])
    assert ((run.risks >= 0) & (run.risks <= 1)).all()


def test_probes_are_counted_by_frame() -> None:
    shown = trace(2, 200)
    run = replay.run(recorded(shown), shown)
    held = np.array([level == "frames" for level in run.levels])
    assert set(run.probes[held].tolist()) <= {0, 1, 2}
    assert 0 in run.probes[held]
    assert run.probes[np.array([level == "submodels" for level in run.levels])].min() >= 2
    assert run.probes.max() <= 3


def test_recorded_scores_are_those_of_the_frame_and_calls_are_counted() -> None:
    score = RecordedScores(np.stack([logits(1, SURE), logits(2, SURE)]))
    assert score(1).argmax() == 2 and score(0).argmax() == 1
    assert score.calls == 2


@pytest.mark.parametrize(("length", "gap", "blocks"), [(30, 0, 3), (30, 10, 2), (100, 5, 1), (101, 0, 0)])
def test_blocks_are_complete_and_separated_by_a_gap(length: int, gap: int, blocks: int) -> None:
    shown = trace(3, 100)
    found = shown.blocks(length, gap)
    assert [len(block) for block in found] == [length] * blocks
    for number, block in enumerate(found):
        first = number * (length + gap)
        assert np.array_equal(block.full, shown.full[first : first + length])
        assert np.array_equal(block.submodels["special"], shown.submodels["special"][first : first + length])
        assert block.frame(0).signature is shown.signatures[first]


def test_priors_have_the_stages_of_the_trace_and_are_deterministic() -> None:
    with_submodel, without = trace(4, 80), trace(4, 80, submodel=False)
    fitted = fit_priors([with_submodel], {"special": 1.0}, 1.0)
    assert set(fitted) == {"picture", "base", "submodel"}
    assert all(prior.check(FEATURE_COUNT[stage]) for stage, prior in fitted.items())
    assert fitted == fit_priors([with_submodel], {"special": 1.0}, 1.0)
    assert set(fit_priors([without], {}, 1.0)) == {"picture", "base"}
    assert fit_priors([], {}, 1.0) == {}


def test_priors_distinguish_a_good_base_model_from_a_bad_one() -> None:
    """Over footage on which it errs often, a student's label is riskier, however sure it looks."""

    def risk(error: float) -> float:
        fitted = fit_priors([trace(5, 200, error=error, submodel=False)], {}, 1.0)
        cascade = build()
        cascade.estimator = type(cascade.estimator)(4, fitted)
        lookup = cascade.estimator.begin(trace(6, 1).frame(0))
        cascade.estimator.add_output(lookup, np.array([0.7, 0.1, 0.1, 0.1]))
        candidate = cascade.estimator.best(lookup)
        assert candidate is not None
        return candidate.risk

    assert risk(0.05) < risk(0.4)


def test_one_frame_of_footage_is_enough_for_a_prior() -> None:
    one: ModelTrace = trace(7, 1, submodel=False)
    assert set(fit_priors([one], {}, 1.0)) <= {"picture", "base"}
