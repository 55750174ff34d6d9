"""Recommendation of submodels."""

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
CAM = "cam"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle"))).manifest


def certain(label: int) -> np.ndarray:
    """A posterior with all probability on ``label``."""
    return np.eye(CLASSES)[label]


def covering(manifest: Manifest, name: str, share: float) -> Manifest:
    """The manifest, with this coverage of every label for one model."""
    model = msgspec.structs.replace(manifest.models[name], coverage=(share,) * CLASSES)
    return msgspec.structs.replace(manifest, models={**manifest.models, name: model})


def test_the_submodel_of_the_working_set_is_recommended(manifest: Manifest) -> None:
    assert recommend(manifest, certain(SHIP), [SHIP, TRUCK, SHIP], CAM) == "vehicles"
    assert recommend(manifest, certain(CAT), [DOG, CAT, CAT], CAM) == "animals"


def test_one_frame_of_another_label_does_not_change_the_recommendation(manifest: Manifest) -> None:
    assert recommend(manifest, certain(CAT), [SHIP, TRUCK] * 8, CAM) == "vehicles"


def test_no_recommendation_where_the_base_model_covers_about_as_much(manifest: Manifest) -> None:
    ships = [SHIP] * 16
    best = manifest.expected_coverage("vehicles", label_distribution(certain(SHIP), ships))
    assert recommend(covering(manifest, "base", best - MARGIN * 1.01), certain(SHIP), ships, CAM) == "vehicles"
    assert recommend(covering(manifest, "base", best - MARGIN * 0.99), certain(SHIP), ships, CAM) is None


def test_no_recommendation_for_a_uniform_label_distribution(manifest: Manifest) -> None:
    """No submodel exceeds the base model by the margin on the average of all labels."""
    assert recommend(covering(manifest, "base", 0.6), UNIFORM, [], CAM) is None


def test_no_recommendation_without_submodels(manifest: Manifest) -> None:
    general = {name: model for name, model in manifest.models.items() if model.role != "submodel"}
    assert recommend(msgspec.structs.replace(manifest, models=general), certain(SHIP), [SHIP] * 16, CAM) is None


def proven_for(manifest: Manifest, **devices: tuple[str, ...]) -> Manifest:
    """The manifest, with submodels of these names after all others that were proven for these devices."""
    some = manifest.models["vehicles"]
    own = {name: msgspec.structs.replace(some, devices=names) for name, names in devices.items()}
    return msgspec.structs.replace(manifest, models={**manifest.models, **own})


def test_the_newest_submodel_that_was_proven_for_a_device_comes_first(manifest: Manifest) -> None:
    proven = proven_for(manifest, first=("cam", "door"), second=("cam",))
    assert recommend(proven, certain(CAT), [CAT] * 16, CAM) == "second"
    assert recommend(proven, certain(CAT), [CAT] * 16, "door") == "first"


def test_a_submodel_that_was_proven_for_other_devices_is_never_recommended(manifest: Manifest) -> None:
    ships = certain(SHIP), [SHIP] * 16
    proven = covering(proven_for(manifest, own=("door",)), "own", 1.0)
    assert recommend(proven, *ships, CAM) == recommend(manifest, *ships, CAM) == "vehicles"
    only = {name: model for name, model in proven.models.items() if name not in ("vehicles", "animals")}
    assert recommend(msgspec.structs.replace(proven, models=only), *ships, CAM) is None


@given(recent=st.lists(st.integers(0, CLASSES - 1), max_size=16), label=st.integers(0, CLASSES - 1))
def test_the_label_distribution_sums_to_one_and_excludes_no_label(recent: list[int], label: int) -> None:
    labels = label_distribution(certain(label), recent)
    assert labels.shape == (CLASSES,)
    assert labels.sum() == pytest.approx(1.0)
    assert (labels > 0).all()
    assert labels.argmax() in {*recent, label}
