from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.cloud_server.serving.selector import MARGIN, label_distribution, recommend
from cachenet.shared.bundle.manifest import Bundle, Manifest
from tests.bundles import LABELS, tiny_bundle

CLASSES = len(LABELS)
UNIFORM = np.full(CLASSES, 1 / CLASSES)
SHIP, TRUCK, CAT, DOG = 8, 9, 3, 5


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle"))).manifest


def sure(label: int) -> np.ndarray:
    return np.eye(CLASSES)[label]


def covering(manifest: Manifest, name: str, share: float) -> Manifest:
    """The same bundle, with a model that answers this share of every label."""
    model = msgspec.structs.replace(manifest.models[name], coverage=(share,) * CLASSES)
    return msgspec.structs.replace(manifest, models={**manifest.models, name: model})


def test_the_submodel_of_the_working_set_is_recommended(manifest: Manifest) -> None:
    assert recommend(manifest, sure(SHIP), [SHIP, TRUCK, SHIP]) == "vehicles"
    assert recommend(manifest, sure(CAT), [DOG, CAT, CAT]) == "animals"


def test_one_stranger_does_not_turn_the_advice(manifest: Manifest) -> None:
    assert recommend(manifest, sure(CAT), [SHIP, TRUCK] * 8) == "vehicles"


def test_no_advice_where_the_base_model_does_about_as_well(manifest: Manifest) -> None:
    ships = [SHIP] * 16
    best = manifest.expected_coverage("vehicles", label_distribution(sure(SHIP), ships))
    assert recommend(covering(manifest, "base", best - MARGIN * 1.01), sure(SHIP), ships) == "vehicles"
    assert recommend(covering(manifest, "base", best - MARGIN * 0.99), sure(SHIP), ships) is None


def test_no_advice_where_nothing_is_known(manifest: Manifest) -> None:
    """All labels alike: neither specialist beats the generalist of this bundle by the margin."""
    assert recommend(covering(manifest, "base", 0.6), UNIFORM, []) is None


def test_no_advice_without_submodels(manifest: Manifest) -> None:
    general = {name: model for name, model in manifest.models.items() if model.role != "submodel"}
    assert recommend(msgspec.structs.replace(manifest, models=general), sure(SHIP), [SHIP] * 16) is None


@given(recent=st.lists(st.integers(0, CLASSES - 1), max_size=16), seen=st.integers(0, CLASSES - 1))
def test_the_estimate_is_a_distribution_that_excludes_nothing(recent: list[int], seen: int) -> None:
    labels = label_distribution(sure(seen), recent)
    assert labels.shape == (CLASSES,)
    assert labels.sum() == pytest.approx(1.0)
    assert (labels > 0).all()
    assert labels.argmax() in {*recent, seen}
