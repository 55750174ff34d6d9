"""A lookup records what it has tried, and where the risks come from, and decides the same without that."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachenet.shared.cascade import features
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.types import Answer, Hit, Miss, Reply
from tests.shared.cascade.streams import recorded, trace


def answers(cascade: Cascade, seed: int, frames: int) -> list[Answer]:
    """The answers to a stream, each checked against the record of its decision."""
    shown, found = trace(seed, frames), []
    for index in range(frames):
        step = cascade.lookup(shown.frame(index), float(index))
        threshold = cascade.threshold
        reply = Reply(index, shown.full[index]) if isinstance(step, Miss) else None
        answer = cascade.complete(step, reply, index + 0.1)
        found.append(answer)
        if not cascade.explains:
            assert cascade.decision is None
            continue
        decision = cascade.decision
        assert decision is not None and decision.threshold == threshold and not decision.not_asked
        prediction = step.prediction if isinstance(step, Hit) else step.fallback
        if decision.attempts:
            assert any((one.level, one.label, one.risk) == (prediction.level, prediction.label, prediction.risk)
                       for one in decision.attempts)  # fmt: skip
        assert isinstance(step, Hit) == any(one.risk <= one.limit for one in decision.attempts)
    return found


@given(st.integers(0, 20), st.sampled_from([0.0, 0.3]), st.booleans())
@settings(max_examples=5)
def test_the_record_states_the_decision_and_changes_no_answer(seed: int, audits: float, reuse: bool) -> None:
    explained, plain = (recorded(trace(seed, 100), audit_floor=audits, reuse_answers=reuse) for _ in range(2))
    explained.explains = True
    assert answers(explained, seed, 100) == answers(plain, seed, 100)


def test_every_feature_of_a_stage_is_in_one_group() -> None:
    for stage, count in features.FEATURE_COUNT.items():
        columns = [column for group in features.GROUPS[stage].values() for column in range(count)[group]]
        assert sorted(columns) == list(range(count))


def test_a_part_of_a_risk_is_named_with_the_risk_without_it() -> None:
    """At average features in every group the risks are equal; the uncertainty is what the charge leaves out."""
    shown = trace(3, 60)
    cascade = recorded(shown, submodel_bytes=None)
    cascade.explains = True
    for index in range(60):
        step = cascade.lookup(shown.frame(index), float(index))
        decision = cascade.decision
        assert decision is not None
        for attempt in decision.attempts:
            by_name = {cause.name: cause for cause in attempt.causes}
            assert set(by_name) == set(features.GROUPS["base" if attempt.model else "picture"]) | {"uncertainty"}
            assert all(0.0 <= cause.without <= 1.0 for cause in attempt.causes)
        if isinstance(step, Hit) and decision.attempts[-1].model:
            (uncertainty,) = (one for one in decision.attempts[-1].causes if one.name == "uncertainty")
            assert uncertainty.without == pytest.approx(step.prediction.charge)
        cascade.complete(step, Reply(index, shown.full[index]) if isinstance(step, Miss) else None, index + 0.1)
