"""A model with caches between its layers: who answers what, in which order, and which caches are asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachenet.shared.bundle.manifest import Layer
from cachenet.shared.inference.early_exit import (
    FEATURES,
    SCORES,
    Cache,
    EarlyExitModel,
    RequestContext,
)
from cachenet.shared.inference.engine import Batch, EngineError, ModelPart
from cachenet.shared.inference.exit_cost import ExitCostModel

CLASSES = 4
#: So that what comes last in the pipeline is told by the row itself: a picture is ``(number, said by each cache...)``.
_SURE = 20.0


class Clock:
    """Time passes only where somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Pass:
    """A segment that hands on what it gets and takes ``seconds`` a row."""

    provider = "cpu"

    def __init__(self, clock: Clock, seconds: float, output: bool = False) -> None:
        self._clock, self._seconds, self._output = clock, seconds, output
        self.gives = ("scores",) if output else ("x",)
        self.rows: list[int] = []

    def run(self, held: Mapping[str, Batch]) -> dict[str, Batch]:
        rows = held["x"]
        self.rows.append(len(rows))
        self._clock.now += self._seconds * len(rows)
        if not self._output:
            return {"x": rows}
        return {"scores": _SURE * np.eye(CLASSES, dtype=np.float32)[rows[:, 0].astype(int)]}


class Opinion:
    """A cache that says ``column + 1`` of the row: a label, and how sure of it it is, as ``label + sureness / 10``."""

    def __init__(self, clock: Clock, column: int, seconds: float) -> None:
        self._clock, self._column, self._seconds = clock, column, seconds
        self.asked = 0

    def run(self, held: Mapping[str, Batch]) -> dict[str, Batch]:
        said = held["x"][:, self._column + 1]
        self.asked += len(said)
        self._clock.now += self._seconds * len(said)
        label = said.astype(int)
        scores = np.eye(CLASSES, dtype=np.float32)[label] * (10 * (said - label))[:, None] * 2
        return {SCORES: scores.astype(np.float32), FEATURES: held["x"]}


def made(
    caches: int, draw: float = 1.0, seconds: float = 1.0, lookup: float = 0.01, threshold: float = 0.1
) -> tuple[EarlyExitModel, list[Pass], list[Opinion]]:
    """``draw`` 1: no request is drawn to check; 0: all are."""
    clock = Clock()
    segments = [Pass(clock, seconds, output=place == caches) for place in range(caches + 1)]
    opinions = [Opinion(clock, place, lookup) for place in range(caches)]
    layer = Layer("pooled", "gati-1/1/model.onnx", 1, "0" * 64, ("x",), 0.5, 1.0, threshold)
    own = [Cache(layer, cast(ModelPart, opinion), ExitCostModel(place)) for place, opinion in enumerate(opinions)]
    layered = EarlyExitModel(cast(Any, segments), own, "x", 1.0, CLASSES, 0.01, lambda: draw, clock)
    return layered, segments, opinions


def picture(label: int, *said: float) -> list[float]:
    return [float(label), *said]


rows = st.lists(
    st.tuples(st.integers(0, 3), *(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.1, 0.9])) for _ in range(3))),
    min_size=1,
    max_size=9,
)


@given(rows)
@settings(deadline=None)
def test_each_row_is_answered_by_the_first_cache_that_is_sure_and_they_come_back_in_order(drawn: list[Any]) -> None:
    layered, segments, _ = made(3)
    batch = np.array([[label, *(said + sure for said, sure in opinions)] for label, *opinions in drawn], np.float32)
    passed = layered.run(batch, [RequestContext()] * len(drawn))
    reached = [0] * 4
    for (label, *opinions), one in zip(drawn, passed, strict=True):
        expected = next((place for place, (_, sure) in enumerate(opinions) if sure == 0.9), None)
        assert one.layer == expected
        assert one.label == int(one.logits.argmax()) == (label if expected is None else opinions[expected][0])
        for place in range(4 if expected is None else expected + 1):
            reached[place] += 1
    assert [sum(segment.rows) for segment in segments] == reached, "rows that are answered leave the batch"


def test_what_must_run_whole_does() -> None:
    layered, _, _ = made(1)
    batch = np.array([picture(2, 1.9), picture(2, 1.9)], np.float32)
    asked, whole = layered.run(batch, [RequestContext(), None])
    assert (asked.layer, asked.label) == (0, 1)
    assert (whole.layer, whole.label) == (None, 2)


def test_what_a_cache_said_reads_as_the_whole_models_word() -> None:
    """Its logits are of the full model's temperature, whatever its own is, and as sure as that is; it answers by its
    own."""
    clock = Clock()
    layer = Layer("pooled", "gati-1/1/model.onnx", 1, "0" * 64, ("x",), 0.5, 2.0, 0.001, 1.5)
    cache = Cache(layer, cast(ModelPart, Opinion(clock, 0, 0.0)), ExitCostModel())
    segments: Any = [Pass(clock, 1), Pass(clock, 1, True)]
    layered = EarlyExitModel(segments, [cache], "x", 3.0, CLASSES, 0.01, lambda: 1.0, clock)
    [one] = layered.run(np.array([picture(0, 1.9)], np.float32), [RequestContext()])
    assert one.layer == 0
    belief = np.exp(one.logits / 3.0)
    expected = np.exp(np.eye(CLASSES)[1] * 18 / (2.0 * 1.5))
    np.testing.assert_allclose(belief / belief.sum(), expected / expected.sum(), atol=1e-5)


def test_context_makes_a_cache_sure() -> None:
    """Of a label that was just seen; and less sure of one that never was."""
    layered, _, _ = made(1)
    batch = np.array([picture(1, 1.15)], np.float32)
    assert layered.run(batch, [RequestContext()])[0].layer is None
    assert layered.run(batch, [RequestContext((1, 1, 1))])[0].layer == 0
    assert layered.run(np.array([picture(1, 1.2)], np.float32), [RequestContext((2,))])[0].layer is None


def test_requests_drawn_to_check_run_whole() -> None:
    layered, _, _ = made(1, draw=0.0)
    batch = np.array([picture(1, 1.9), picture(1, 1.0)], np.float32)
    assert [one.layer for one in layered.run(batch, [RequestContext(), RequestContext()])] == [None, None]


def test_no_cache_answers_more_than_the_device_lets_it_risk() -> None:
    layered, _, _ = made(1)
    batch = np.array([picture(1, 1.2)], np.float32)
    risk = layered.run(batch, [RequestContext(risk=1.0)])[0].risk
    assert risk is not None and 0.01 < risk < 0.1
    assert layered.run(batch, [RequestContext(risk=risk / 2)])[0].layer is None


def test_caches_that_err_more_than_they_may_answer_nothing_until_checks_show_that_they_may() -> None:
    layered, _, _ = made(2, draw=0.5)  # of the first requests most are checked, and later ones are not
    wrong, right = (np.array([picture(0, said, 1.0)], np.float32) for said in (1.9, 0.9))
    for _ in range(8):
        layered.run(wrong, [RequestContext()])
    assert not layered.watch.trusted
    assert layered.run(right, [RequestContext()])[0].layer is None
    layered._draw = lambda: 0.0
    for _ in range(2000):
        layered.run(right, [RequestContext()])
    assert layered.watch.trusted
    layered._draw = lambda: 1.0
    assert layered.run(right, [RequestContext()])[0].layer == 0


def test_a_cache_that_fails_leaves_the_answer_to_the_model() -> None:
    layered, _, opinions = made(1)

    def fail(_held: Mapping[str, Batch]) -> dict[str, Batch]:
        raise EngineError("out of memory")

    opinions[0].run = fail  # type: ignore[method-assign]
    assert layered.run(np.array([picture(2, 1.9)], np.float32), [RequestContext()])[0].label == 2


def test_a_cache_that_does_not_pay_is_asked_seldom_and_one_that_pays_again_comes_back() -> None:
    layered, _, opinions = made(1, lookup=0.3, seconds=1.0)
    hard, easy = (np.array([picture(1, said)], np.float32) for said in (1.0, 1.9))
    for _ in range(600):
        layered.run(hard, [RequestContext()])
    assert not layered.caches[0].worth.pays
    before = opinions[0].asked
    for _ in range(320):
        layered.run(hard, [RequestContext()])
    assert 0 < opinions[0].asked - before <= 16
    for _ in range(2000):
        layered.run(easy, [RequestContext()])
    assert layered.caches[0].worth.pays


def test_caches_and_segments_must_fit() -> None:
    with pytest.raises(Exception, match="2 segments for 0 caches"):
        EarlyExitModel(cast(Any, [None, None]), [], "x", 1.0, CLASSES, 0.01, lambda: 1.0)
