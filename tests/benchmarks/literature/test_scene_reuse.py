"""The store of submodels: what each way to choose one sees, and what it may not see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.literature.scene_reuse import choice, report
from benchmarks.literature.scene_reuse.classifiers import LABELS, agreement_counts, state_logits
from benchmarks.literature.scene_reuse.detectors import divided
from benchmarks.literature.scene_reuse.key import SceneKey, distances, mix
from benchmarks.literature.scene_reuse.places import Place, Segment, within
from benchmarks.literature.scene_reuse.trial import CASES, Outcomes, Store, Submodel, Trial
from cachenet.models.detect.footage import Block
from cachenet.models.train import fine_tune
from cachenet.shared.cascade.detect.detections import NOTHING, checked, pooled_f1

PLACES, QUESTIONS = 4, (0, 3)


def key(angle: float, *, one: float = 0.5) -> SceneKey:
    return SceneKey(np.array([np.cos(angle), np.sin(angle)]), np.array([1 - one, one]))


def outcomes(right: float, rng: np.random.Generator) -> Outcomes:
    hits = rng.random(120) < right
    counts = np.stack([hits, ~hits, ~hits], 1).astype(np.int64)
    return Outcomes(counts[:6], np.log(np.where(hits[:6], 0.9, 0.1)), counts[6:])


@pytest.fixture(scope="module")
def fleet() -> tuple[Store, list[Trial]]:
    """Places in two cameras. A submodel is better the nearer the place is that it was trained on."""
    rng = np.random.default_rng(0)
    names = [(f"p{number}", f"camera{number % 2}", 0.4 * number) for number in range(PLACES)]
    submodels = [
        Submodel(name, camera, time, key(angle + 0.01 * time)) for name, camera, angle in names for time in (0, 1)
    ]
    angles = [angle for _, _, angle in names for _ in (0, 1)]
    trials = [
        Trial(
            name,
            camera,
            time,
            key(angle + 0.02),
            rng.integers(0, 2, 6),
            [outcomes(0.55, rng), *(outcomes(0.98 - 0.3 * abs(angle - other), rng) for other in angles)],
            outcomes(0.6, rng).measured,
        )
        for name, camera, angle in names
        for time in (1, 2)
    ]
    return Store(submodels), trials


def test_a_query_sees_only_earlier_submodels_of_its_case(fleet: tuple[Store, list[Trial]]) -> None:
    store, trials = fleet
    for trial in trials:
        sets = [{store.submodels[number - 1] for number in store.at(trial, case)} for case in CASES]
        assert sets[0] > sets[1] > sets[2]
        assert all(one.time < trial.time for one in sets[0])
        assert all(one.place != trial.place for one in sets[1])
        assert all(one.camera != trial.camera for one in sets[2])


def test_the_key_finds_a_place_again_without_any_question(fleet: tuple[Store, list[Trial]]) -> None:
    store, trials = fleet
    way = choice.ways(store, 2, QUESTIONS, trials)["key, 0 questions"]
    for trial in trials:
        [number] = way(trial, "returning")
        assert store.submodels[number - 1].place == trial.place


def test_every_way_chooses_from_the_store_or_the_general_model(fleet: tuple[Store, list[Trial]]) -> None:
    store, trials = fleet
    for name, way in choice.ways(store, 2, QUESTIONS, trials).items():
        for trial in trials:
            for case in CASES:
                found = way(trial, case)
                assert found and set(found) <= {choice.GENERAL, *store.at(trial, case)}, name


def test_no_way_loses_less_than_the_best_in_the_store(fleet: tuple[Store, list[Trial]]) -> None:
    store, trials = fleet
    for way in choice.ways(store, 2, QUESTIONS, trials).values():
        for trial in trials:
            found = way(trial, "returning")
            if found != [choice.GENERAL]:
                assert choice.regret(trial, store, "returning", found) >= 0


def test_the_measured_frames_decide_nothing_but_the_best(fleet: tuple[Store, list[Trial]]) -> None:
    store, trials = fleet
    before = choice.ways(store, 2, QUESTIONS, trials)
    first = trials[0]
    worthless = [Outcomes(one.audits, one.certainty, one.measured[:, [1, 0, 0]]) for one in first.outcomes]
    other = Trial(first.place, first.camera, first.time, first.key, first.labels, worthless, first.pooled)
    after = choice.ways(store, 2, QUESTIONS, [other, *trials[1:]])
    for name in before:
        if name != "best in the store":
            assert before[name](first, "returning") == after[name](other, "returning"), name


def test_without_submodels_the_general_model_answers(fleet: tuple[Store, list[Trial]]) -> None:
    _, trials = fleet
    empty = Store([])
    assert all(
        way(trials[0], "returning") == [choice.GENERAL] for way in choice.ways(empty, 2, QUESTIONS, trials).values()
    )


def test_the_threshold_refuses_what_is_worse_than_the_general_model(fleet: tuple[Store, list[Trial]]) -> None:
    store, trials = fleet
    limit = choice.threshold(choice.Nearest(store, 2, 0, 0.0), trials)
    assert limit > 0
    worst = [
        Trial(
            *(one.place, one.camera, one.time, one.key, one.labels),
            [outcomes(1.0, np.random.default_rng(1)), *one.outcomes[1:]],
            one.pooled,
        )
        for one in trials
    ]
    assert choice.threshold(choice.Nearest(store, 2, 0, 0.0), worst) == -1.0


def test_the_interval_of_a_way_against_itself_is_empty(fleet: tuple[Store, list[Trial]]) -> None:
    store, trials = fleet
    found = report.case(store, trials, choice.ways(store, 2, QUESTIONS, trials), "returning")
    own = found["ways"]["best in the store"]["less_best"]
    assert own == {"mean": 0.0, "interval": [0.0, 0.0]}
    low, high = found["ways"]["key, 0 questions"]["less_general"]["interval"]
    assert 0 < low < high


def test_the_weight_of_the_mix_tells_equal_backgrounds_apart() -> None:
    others = [key(0.0, one=0.9), key(0.0, one=0.1)]
    assert distances(key(0.0, one=0.2), others, 0.0).tolist() == pytest.approx([0, 0])
    assert distances(key(0.0, one=0.2), others, 1.0).tolist() == pytest.approx([0.7, 0.1])
    assert mix(np.zeros(0, np.int64), 4).tolist() == [0.25] * 4


def test_the_state_of_a_zone_follows_its_objects() -> None:
    boxes = [[0.1, 0.1, 0.3, 0.5], [0.5, 0.1, 0.7, 0.5]]

    def state(*scores: float) -> str:
        return LABELS[int(state_logits(checked(boxes[: len(scores)], [0] * len(scores), scores, 1), 0.35).argmax())]

    assert state_logits(NOTHING, 0.35).argmax() == 0
    assert [state(0.9), state(0.2), state(0.9, 0.9), state(0.9, 0.1)] == ["one", "none", "several", "one"]


def test_an_object_belongs_to_the_region_of_its_centre() -> None:
    found = checked([[0.2, 0.2, 0.4, 0.4], [0.45, 0.2, 0.75, 0.4]], [0, 0], [0.9, 0.8], 1)
    left = within(found, (0, 0, 50, 100), (100, 100))
    right = within(found, (50, 0, 50, 100), (100, 100))
    assert left.boxes[0].tolist() == pytest.approx([0.4, 0.2, 0.8, 0.4])
    assert right.boxes[0].tolist() == pytest.approx([0.0, 0.2, 0.5, 0.4])


def test_f1_of_agreement_counts_is_the_agreement() -> None:
    counts = agreement_counts(np.array([0, 1, 2, 0]), np.array([0, 1, 1, 0]))
    assert pooled_f1(counts) == 0.75


def test_a_detector_is_tuned_on_frames_after_those_that_it_learns_from() -> None:
    place = Place("p", "camera", (0, 0, 8, 8))
    blocks = [
        Block(np.full((8, 8, 8, 3), start, np.uint8), (NOTHING,) * 8, np.zeros(8, np.int64), 0.35) for start in (0, 100)
    ]
    for block in blocks:
        block.pictures[:] += np.arange(8, dtype=np.uint8)[:, None, None, None]
    learn, tune = divided([Segment(place, time, block) for time, block in enumerate(blocks)])
    assert learn.pictures[:, 0, 0, 0].tolist() == [*range(6), *range(100, 106)]
    assert tune.pictures[:, 0, 0, 0].tolist() == [6, 7, 106, 107]
    assert learn.sequences.tolist() == [0] * 6 + [1] * 6


@pytest.mark.slow
def test_the_row_runs(smoke: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fine_tune, "EPOCHS", 1)
    assert smoke("scene-reuse")["classifiers"]["queries"] == 4
