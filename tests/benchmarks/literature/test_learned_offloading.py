"""The row of learned offloading: environment, budget, rivals, policy file and equal error."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.literature.learned_offloading import links, play, sac
from benchmarks.literature.learned_offloading.answers import PRECISIONS, Answers, Stream, base_rows, stream
from benchmarks.literature.learned_offloading.equal import Curve, ratios
from benchmarks.literature.learned_offloading.measure import BUDGETS
from benchmarks.literature.learned_offloading.policies import FixedRule, Greedy, HiLcbLite, Policy, Static
from benchmarks.literature.learned_offloading.world import (
    ACTIONS,
    ASK,
    DEVICE,
    FEATURES,
    LOCAL,
    Episodes,
    World,
    episodes,
)
from cachenet.shared.cascade.features import Change, base_row
from cachenet.shared.cascade.probability import softmax

FRAMES, BUDGET = 60, 0.05
DEVICE_TIMES = links.durations("rpi4")


def answers(seed: int) -> Answers:
    """Two labels in turns, a base model with errors, and a full model with more errors at lower precisions."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.integers(2, size=FRAMES // 5), 5)
    shown = truth[:, None, None]
    return Answers(
        (3 * np.eye(2)[truth] + 1.5 * rng.standard_normal((FRAMES, 2))).astype(np.float32),
        np.stack([np.where(rng.random(FRAMES) < share, 1 - truth, truth) for share in (0, 0.01, 0.03, 0.1)]),
        (np.array([20_000, 7_000, 2_500, 900]) * rng.uniform(0.9, 1.1, (FRAMES, 1))).astype(np.int64),
        (20 * shown + rng.standard_normal((FRAMES, 12, 16))).astype(np.float32),
        (20 * shown + rng.standard_normal((FRAMES, 24, 32))).astype(np.float32),
    )


@cache
def recorded() -> tuple[Stream, Episodes]:
    fitted = answers(0)
    own = stream("two labels", fitted, fitted, answers(1))
    every = episodes([own], [0, 1])
    return own, every.take(np.arange(2), np.full(2, BUDGET))


class AnyLegal:
    """Random legal actions."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def act(self, world: World) -> np.ndarray:
        return np.where(world.legal, self._rng.random(world.legal.shape), -1.0).argmax(1)

    def learn(self, world: World, actions: np.ndarray, outcome: object) -> None: ...


POLICIES: dict[str, Callable[[World], Policy]] = {
    "any legal": lambda _world: AnyLegal(),
    "fixed": FixedRule,
    "greedy": lambda _world: Greedy(),
    "never ask": lambda world: Static(np.full(len(world.episodes), DEVICE)),
    "hi-lcb-lite": lambda world: HiLcbLite(world, np.ones(len(world.episodes))),
}


@pytest.mark.parametrize("name", POLICIES)
def test_the_budget_holds_for_every_policy(name: str) -> None:
    world = World(recorded()[1], DEVICE_TIMES)
    policy, first, spent = POLICIES[name](world), world.threshold, np.zeros(2)
    while not world.done:
        threshold = last = world.threshold
        actions = policy.act(world)
        assert world.legal[np.arange(2), actions].all()
        outcome = world.step(actions)
        policy.learn(world, actions, outcome)
        assert (outcome.charge <= threshold).all()
        spent += outcome.charge
    # The threshold falls by exp(-0.005 (charge / budget - 1)) with each frame: it pays for what exceeds the budget.
    saved = np.log(first / last) / 0.005 + 4.0
    assert (spent / BUDGET <= FRAMES + saved).all()


def test_full_answers_of_the_device_are_never_wrong_and_a_late_reply_is_answered_there() -> None:
    world = World(recorded()[1], DEVICE_TIMES, local=False)
    while not world.done:
        outcome = world.step(np.full(2, ASK))
        assert not outcome.wrong.any()
        late = outcome.latency[outcome.timeout]
        np.testing.assert_allclose(late, links.DEADLINE_S + DEVICE_TIMES.full)


def test_hindsight_is_never_worse_than_a_static_policy_of_its_grid() -> None:
    own = recorded()[1]
    grid = play.static(own, DEVICE_TIMES)
    most = play.play(FixedRule, own, DEVICE_TIMES).error
    best = play.hindsight(grid, most)
    assert (best.error <= most + 1e-9).all()
    error, latency = grid.error.reshape(-1, 2), grid.latency.mean(1).reshape(-1, 2)
    assert (best.latency.mean(1) <= np.where(error <= most, latency, np.inf).min(0) + 1e-6).all()


def test_more_bytes_never_take_less_time_and_a_seed_gives_equal_times() -> None:
    states = links.draw(50, 1)
    sizes = np.tile([20_000, 900], (50, 1))
    total, line = links.question_times(states, sizes, 1)
    assert (line[:, 0] > line[:, 1]).all()
    assert total[:, 0].mean() > total[:, 1].mean()
    np.testing.assert_array_equal(total, links.question_times(states, sizes, 1)[0])
    assert set(links.draw(5000, 2)) == set(range(len(links.STATES)))


def test_the_policy_file_is_small_and_acts_as_torch_does(tmp_path: Path) -> None:
    actor, path = sac.Learner(0).actor, tmp_path / "policy.onnx"
    sac.export(actor, path)
    assert path.stat().st_size < 10_000
    world = World(recorded()[1], DEVICE_TIMES)
    learned = sac.Learned(path)
    while not world.done:
        with torch.no_grad():
            preference = actor(torch.from_numpy(world.observe())).numpy()
        actions = learned.act(world)
        np.testing.assert_array_equal(actions, sac.best(preference, world.legal))
        world.step(actions)
    assert world.observe().shape == (2, FEATURES)


def test_soft_actor_critic_learns_which_action_is_best() -> None:
    learner, rng = sac.Learner(0), np.random.default_rng(0)
    memory = sac.Memory()
    for _ in range(20):
        observation = rng.standard_normal((100, FEATURES)).astype(np.float32)
        legal, action = np.ones((100, ACTIONS), np.bool_), rng.integers(ACTIONS, size=100)
        legal[:, LOCAL] = action == LOCAL
        reward = np.where(action == DEVICE + (observation[:, 0] > 0), 1.0, 0.0).astype(np.float32)
        memory.add(observation, legal, action, reward, observation, legal, np.zeros(100, np.float32))
    for _ in range(150):
        learner.update(memory.sample(rng), 0.01)
    observation = rng.standard_normal((200, FEATURES)).astype(np.float32)
    with torch.no_grad():
        chosen = sac.best(learner.actor(torch.from_numpy(observation)).numpy(), np.ones((200, ACTIONS), np.bool_))
    assert (chosen == DEVICE + (observation[:, 0] > 0)).mean() > 0.8


def test_latency_at_equal_error_is_interpolated_and_infinite_below_the_least_error() -> None:
    def table(values: list[float]) -> np.ndarray:
        return np.array(values)[:, None, None] * np.ones((1, 2, 3))

    base = Curve(table([0.2, 0.1]), table([0.01, 0.03]))
    half = Curve(table([0.1, 0.05]), table([0.01, 0.03]))
    never = Curve(table([0.01]), table([0.5]))
    found = ratios({"base": base, "half": half, "never": never}, "base", 1)
    assert found["half"]["ratio"] == pytest.approx(0.5)
    assert found["half"]["interval"] == pytest.approx([0.5, 0.5])
    assert found["never"]["ratio"] == np.inf
    assert base.at(0.02, np.ones((2, 3))) == pytest.approx(0.15)
    assert base.at(0.9, np.ones((2, 3))) == pytest.approx(0.1)


def test_features_are_the_product_s_without_recalled_answer_and_label_filter() -> None:
    rng = np.random.default_rng(0)
    frames, labels, held = np.arange(20), rng.integers(0, 2, 20), rng.integers(0, 2, 20)
    probabilities, changes = softmax(answers(0).base, 1.0), rng.random((20, 4))
    rows = base_rows(probabilities, labels, frames, held, changes)
    for row, own, label, other, change in zip(rows, probabilities, labels, held, changes, strict=False):
        since = Change(*change[1:]) if label == other else None
        wanted = base_row(own[label], own.max(), own[label] == own.max(), since, change[0], None, 0.5)
        assert row.tolist() == pytest.approx(wanted[:9])


@pytest.mark.slow
def test_a_smoke_run_prints_the_comparison(smoke: Callable[[str], dict[str, Any]]) -> None:
    result = smoke("learned-offloading")
    assert result["bytes"] < 10_000
    assert len(result["policies"]["learned"]["curve"]) == len(BUDGETS)
    assert result["precision"] in range(PRECISIONS)
