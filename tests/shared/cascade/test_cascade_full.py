"""The full model on the device, beside a cloud that is slower, quicker or silent."""

from __future__ import annotations

import numpy as np
import pytest

from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.model_cache import LocalModel
from cachenet.shared.cascade.types import Answer, Miss, Reply, Scores
from tests.shared.cascade.streams import CLASSES, UNSURE, build, frame, grey, local, logits

VIEW = {"base": logits(1, UNSURE), "full": logits(2, 6.0)}


def asked(cascade: Cascade, index: int, wait: float | None) -> Answer:
    """A frame that no local model is sure of, and that the cloud answers after ``wait`` seconds, or never; driven as
    the agent drives it."""
    now = float(index)
    cascade._budget.threshold = 1e-9
    step = cascade.lookup(frame(index, VIEW, grey(7.0 * (index % 35))), now)
    assert isinstance(step, Miss)
    reply = cascade.run_full(step, now) if step.on_device else None
    if reply is None:
        now += 0.25 if wait is None else wait
        reply = None if wait is None else Reply(index, logits(2, 6.0))
        reply = reply or cascade.run_full(step, now)
    return cascade.complete(step, reply, now)


@pytest.fixture
def cascade() -> Cascade:
    """One whose full model is on the device and takes 50 ms; a frame may take 250."""
    made = build()
    made.install(local("full", seconds=0.05))
    return made


def test_the_full_model_on_the_device_answers_where_the_cloud_is_slower(cascade: Cascade) -> None:
    answers = [asked(cascade, index, 0.2) for index in range(200)]
    levels = [answer.level for answer in answers]
    assert levels[:5] == ["cloud"] * 5
    tried = [index for index, level in enumerate(levels) if level == "cloud" and index >= 5]
    assert tried == [36, 100], "now and then the cloud is tried again, ever more seldom"
    assert cascade.tally.full == 193
    assert {(answer.label, answer.risk) for answer in answers} == {(2, 0.0)}
    assert cascade.tally.overruled == 0


def test_answers_of_the_full_model_on_the_device_are_learned(cascade: Cascade) -> None:
    for index in range(10):
        asked(cascade, index, 0.2)
    cache = cascade.estimator.cache
    assert (cache.indices[cache.last], cache.labels[cache.last]) == (9, 2)


def test_a_faster_link_is_used_again(cascade: Cascade) -> None:
    for index in range(40):
        asked(cascade, index, 0.2)
    levels = [asked(cascade, index, 0.01).level for index in range(40, 300)]
    assert levels[-1] == "cloud"
    assert levels.count("full") < 100


def test_the_full_model_on_the_device_replaces_a_silent_cloud(cascade: Cascade) -> None:
    """When the deadline is over there is no time left for it; then the cloud is known to be slow."""
    levels = [asked(cascade, index, None).level for index in range(30)]
    assert levels == ["fallback"] * 5 + ["full"] * 25
    step = cascade.lookup(frame(30, VIEW, grey(210.0)), 30.0)
    assert isinstance(step, Miss)
    assert cascade.run_full(step, 30.19) is not None
    assert cascade.run_full(step, 30.21) is None, "50 ms do not fit into the 40 that are left"
    cascade.unload_full()
    assert cascade.run_full(step, 30.0) is None


def test_a_fast_cloud_is_asked_although_the_full_model_is_on_the_device(cascade: Cascade) -> None:
    assert {asked(cascade, index, 0.02).level for index in range(100)} == {"cloud"}


def test_early_exits_on_the_device_receive_their_risk_limit_and_state_their_risk() -> None:
    received: list[tuple[tuple[int, ...], float]] = []

    def judge(_view: object, recent: tuple[int, ...], risk: float) -> tuple[Scores, float | None]:
        received.append((recent, risk))
        return logits(2, 6.0), 0.004

    cascade = build()
    model = LocalModel("full", lambda _: logits(0, 1.0), 1.0, np.full(CLASSES, 0.5), score_with_exits=judge)
    cascade.install(model)
    cascade._budget.threshold = 1e-9
    step = cascade.lookup(frame(0, VIEW), 0.0)
    assert isinstance(step, Miss)
    reply = cascade.run_full(step, 0.0)
    assert reply is not None and not reply.whole
    assert received == [((), step.max_exit_risk)]
    answer = cascade.complete(step, reply, 0.1)
    assert (answer.level, answer.label, answer.risk) == ("full", 2, 0.004)
