"""A model with early exits: which exit answers which row, in which order, and which exits are looked up."""

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
    EarlyExitModel,
    ExitHead,
    RequestContext,
)
from cachenet.shared.inference.engine import Batch, EngineError, ModelPart
from cachenet.shared.inference.exit_cost import ExitCostModel

CLASSES = 4
#: Logit of the whole model's label. A picture is ``(label of the whole model, output of each exit ...)``.
_SURE = 20.0


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Identity:
    """A segment that returns its input and takes ``seconds`` a row."""

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


class Head:
    """An exit head that reads its output from ``column + 1`` of the row: label, plus a tenth of its certainty."""

    def __init__(self, clock: Clock, column: int, seconds: float) -> None:
        self._clock, self._column, self._seconds = clock, column, seconds
        self.asked = 0

    def run(self, held: Mapping[str, Batch]) -> dict[str, Batch]:
        output = held["x"][:, self._column + 1]
        self.asked += len(output)
        self._clock.now += self._seconds * len(output)
        label = output.astype(int)
        scores = np.eye(CLASSES, dtype=np.float32)[label] * (10 * (output - label))[:, None] * 2
        return {SCORES: scores.astype(np.float32), FEATURES: held["x"]}


def exits(
    caches: int, draw: float = 1.0, seconds: float = 1.0, lookup: float = 0.01, threshold: float = 0.1
) -> tuple[EarlyExitModel, list[Identity], list[Head]]:
    """``draw`` 1: no request is drawn to check; 0: all are."""
    clock = Clock()
    segments = [Identity(clock, seconds, output=place == caches) for place in range(caches + 1)]
    heads = [Head(clock, place, lookup) for place in range(caches)]
    layer = Layer("pooled", "gati-1/1/model.onnx", 1, "0" * 64, ("x",), 0.5, 1.0, threshold)
    own = [ExitHead(layer, cast(ModelPart, head), ExitCostModel(place)) for place, head in enumerate(heads)]
    model = EarlyExitModel(cast(Any, segments), own, "x", 1.0, CLASSES, 0.01, lambda: draw, clock)
    return model, segments, heads


def picture(label: int, *output: float) -> list[float]:
    return [float(label), *output]


rows = st.lists(
    st.tuples(st.integers(0, 3), *(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.1, 0.9])) for _ in range(3))),
    min_size=1,
    max_size=9,
)


@given(rows)
@settings(deadline=None)
def test_the_first_exit_within_its_threshold_answers_a_row_and_results_keep_their_order(drawn: list[Any]) -> None:
    model, segments, _ = exits(3)
    batch = np.array([[label, *(output + sure for output, sure in heads)] for label, *heads in drawn], np.float32)
    results = model.run(batch, [RequestContext()] * len(drawn))
    reached = [0] * 4
    for (label, *heads), one in zip(drawn, results, strict=True):
        expected = next((place for place, (_, sure) in enumerate(heads) if sure == 0.9), None)
        assert one.layer == expected
        assert one.label == int(one.logits.argmax()) == (label if expected is None else heads[expected][0])
        for place in range(4 if expected is None else expected + 1):
            reached[place] += 1
    assert [sum(segment.rows) for segment in segments] == reached, "rows that are answered leave the batch"


def test_a_picture_without_context_runs_through_the_whole_model() -> None:
    model, _, _ = exits(1)
    batch = np.array([picture(2, 1.9), picture(2, 1.9)], np.float32)
    asked, whole = model.run(batch, [RequestContext(), None])
    assert (asked.layer, asked.label) == (0, 1)
    assert (whole.layer, whole.label) == (None, 2)


def test_logits_of_an_exit_have_the_whole_models_temperature() -> None:
    clock = Clock()
    layer = Layer("pooled", "gati-1/1/model.onnx", 1, "0" * 64, ("x",), 0.5, 2.0, 0.001, 1.5)
    cache = ExitHead(layer, cast(ModelPart, Head(clock, 0, 0.0)), ExitCostModel())
    segments: Any = [Identity(clock, 1), Identity(clock, 1, True)]
    model = EarlyExitModel(segments, [cache], "x", 3.0, CLASSES, 0.01, lambda: 1.0, clock)
    [one] = model.run(np.array([picture(0, 1.9)], np.float32), [RequestContext()])
    assert one.layer == 0
    belief = np.exp(one.logits / 3.0)
    expected = np.exp(np.eye(CLASSES)[1] * 18 / (2.0 * 1.5))
    np.testing.assert_allclose(belief / belief.sum(), expected / expected.sum(), atol=1e-5)


def test_recent_labels_decide_whether_an_exit_answers() -> None:
    model, _, _ = exits(1)
    batch = np.array([picture(1, 1.15)], np.float32)
    assert model.run(batch, [RequestContext()])[0].layer is None
    assert model.run(batch, [RequestContext((1, 1, 1))])[0].layer == 0
    assert model.run(np.array([picture(1, 1.2)], np.float32), [RequestContext((2,))])[0].layer is None


def test_requests_drawn_to_check_run_whole() -> None:
    model, _, _ = exits(1, draw=0.0)
    batch = np.array([picture(1, 1.9), picture(1, 1.0)], np.float32)
    assert [one.layer for one in model.run(batch, [RequestContext(), RequestContext()])] == [None, None]


def test_no_exit_exceeds_the_risk_of_the_request() -> None:
    model, _, _ = exits(1)
    batch = np.array([picture(1, 1.2)], np.float32)
    risk = model.run(batch, [RequestContext(risk=1.0)])[0].risk
    assert risk is not None and 0.01 < risk < 0.1
    assert model.run(batch, [RequestContext(risk=risk / 2)])[0].layer is None


def test_exits_over_their_error_limit_answer_nothing_until_checks_show_otherwise() -> None:
    model, _, _ = exits(2, draw=0.5)  # of the first requests most are checked, and later ones are not
    wrong, right = (np.array([picture(0, output, 1.0)], np.float32) for output in (1.9, 0.9))
    for _ in range(8):
        model.run(wrong, [RequestContext()])
    assert not model.monitor.trusted
    assert model.run(right, [RequestContext()])[0].layer is None
    model._draw = lambda: 0.0
    for _ in range(2000):
        model.run(right, [RequestContext()])
    assert model.monitor.trusted
    model._draw = lambda: 1.0
    assert model.run(right, [RequestContext()])[0].layer == 0


def test_the_whole_model_answers_where_an_exit_fails() -> None:
    model, _, heads = exits(1)

    def fail(_held: Mapping[str, Batch]) -> dict[str, Batch]:
        raise EngineError("out of memory")

    heads[0].run = fail  # type: ignore[method-assign]
    assert model.run(np.array([picture(2, 1.9)], np.float32), [RequestContext()])[0].label == 2


def test_an_exit_that_is_not_worthwhile_is_explored_seldom_and_returns_when_it_is() -> None:
    model, _, heads = exits(1, lookup=0.3, seconds=1.0)
    hard, easy = (np.array([picture(1, output)], np.float32) for output in (1.0, 1.9))
    for _ in range(600):
        model.run(hard, [RequestContext()])
    assert not model.exits[0].cost.is_worthwhile
    before = heads[0].asked
    for _ in range(320):
        model.run(hard, [RequestContext()])
    assert 0 < heads[0].asked - before <= 16
    for _ in range(2000):
        model.run(easy, [RequestContext()])
    assert model.exits[0].cost.is_worthwhile


def test_the_numbers_of_exits_and_segments_must_match() -> None:
    with pytest.raises(Exception, match="2 segments for 0 exits"):
        EarlyExitModel(cast(Any, [None, None]), [], "x", 1.0, CLASSES, 0.01, lambda: 1.0)
