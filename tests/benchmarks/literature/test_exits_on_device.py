"""Exits in the base model: choice of stages, their cost, and the price of a question."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from benchmarks.literature.exits_on_device import asking
from benchmarks.literature.exits_on_device.cases import Case, Part
from benchmarks.literature.exits_on_device.choice import Times, choose, ends, play, subsets
from benchmarks.literature.exits_on_device.measure import ratio
from benchmarks.literature.exits_on_device.stages import Stage, head_cost
from cachenet.models.data.cifar10 import INPUT
from cachenet.models.exits import train_heads
from cachenet.models.export.cost import Cost
from cachenet.simulator.world import hardware_profiles

FULL = Cost(10**9, 30, False)
#: Times of a smaller model, two exits and the base model.
TIMES = Times([0.0, 1.0, 2.0, 4.0], [1.5, 0.1, 0.1, 0.0], 20.0)


def drawn(seed: int, noise: tuple[float, ...] = (3.0, 3.0, 2.0, 1.0)) -> tuple[Case, list[Stage]]:
    """A case of 120 tuning and test frames, and stages whose logits are the full model's with noise."""
    rng = np.random.default_rng(seed)
    tune, test = (6 * rng.normal(size=(120, 4)).astype(np.float32) for _ in range(2))
    first, second = (Part([], own, own) for own in (tune, test))
    case = Case("drawn", ModelProto(), INPUT, (ModelProto(), INPUT), FULL, 1000, first, first, second, tune, 1)
    stages = []
    for site, sigma in enumerate(noise):
        noisy = [own + sigma * rng.normal(size=own.shape).astype(np.float32) for own in (tune, test)]
        stages.append(Stage(str(site), site, None, *noisy))
    return case, stages


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 1000), st.sampled_from((0.0, 0.01, 0.05)))
def test_a_chosen_policy_keeps_the_limit_where_it_was_chosen(seed: int, limit: float) -> None:
    case, stages = drawn(seed)
    for policy, sets in subsets(stages).items():
        outcome = play(choose(sets, case, TIMES, limit, "test"), case, TIMES)
        assert outcome.false.mean() <= limit, policy
        assert not (outcome.false & ~outcome.local).any(), "the full model's answers are never false"


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 1000))
def test_exits_that_are_chosen_never_make_a_decision_slower_where_they_were_chosen(seed: int) -> None:
    case, stages = drawn(seed)
    sets = subsets(stages)

    def seconds(policy: str) -> float:
        chosen = choose(sets[policy], case, TIMES, 0.02, "test")
        outcome = play(chosen, case, TIMES)
        return float(outcome.device(ends(chosen, TIMES)).mean() + TIMES.ask * (~outcome.local).mean())

    assert seconds("ee-hi") <= seconds("hi") + 1e-9


def test_an_exit_as_good_as_the_base_model_takes_its_place() -> None:
    case, stages = drawn(0, (3.0, 0.0, 3.0, 0.0))
    chosen = choose(subsets(stages)["ee-hi"], case, TIMES, 0.01)
    assert chosen.stages == (stages[1],)


def test_a_decision_ends_after_the_stages_in_front_of_the_answer() -> None:
    case, stages = drawn(0)
    chosen = choose([(stages[0], stages[3])], case, TIMES, 0.02)
    assert ends(chosen, TIMES) == [1.5, 5.5]
    device = play(chosen, case, TIMES).device(ends(chosen, TIMES))
    assert set(device.tolist()) <= {1.5, 5.5}


def test_the_ratio_of_a_policy_with_itself_is_one() -> None:
    times, mask = np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, True, False, True])
    assert ratio((2 * times, mask), (2 * times, mask), 2) == {"mean": 1.0, "interval": [1.0, 1.0]}
    assert ratio((times, mask), (times, ~mask & mask), 1) is None


def test_a_question_takes_longer_on_a_slower_link_and_costs_energy() -> None:
    device = hardware_profiles.device("rpi4")
    lan, wifi, mobile = (asking.question(device, link, FULL, 2500) for link in ("lan", "wifi", "3g"))
    assert lan.seconds < wifi.seconds < mobile.seconds
    spent = [asking.joules(device, 0.01, share, wifi) for share in (0.0, 0.5, 1.0)]
    assert spent == sorted(spent)
    assert spent[0] == pytest.approx(0.01 * 2.45)


def test_a_head_costs_its_matrices_and_its_operators() -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, 8], np.zeros(24))
    nodes = [
        helper.make_node("AveragePool", ["maps"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["row"]),
        helper.make_node("Gemm", ["row", "w"], ["scores"], transB=1),
    ]
    maps = helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["n", 8, 2, 2])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "head", [maps], [scores], [weight])
    assert head_cost(helper.make_model(graph)) == Cost(24, 3, False)


@pytest.mark.slow
def test_the_row_runs(smoke: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_heads, "_STEPS", 20)
    assert {"hi", "ee-hi", "small"} <= set(smoke("exits-on-device")["ob"]["rpi4"]["0.01"])
