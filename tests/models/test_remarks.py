"""What is told of a finished bundle."""

from __future__ import annotations

import msgspec
import pytest

from cachenet.models.report.remarks import remarks, slow_base
from cachenet.shared.bundle.manifest import Bundle, Certificate, Manifest
from tests.bundles import tiny_bundle


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle"))).manifest


def taking(manifest: Manifest, base: float, full: float) -> Manifest:
    times = {"base": base, "full": full}
    models = {
        name: msgspec.structs.replace(model, milliseconds=times.get(name, model.milliseconds))
        for name, model in manifest.models.items()
    }
    return msgspec.structs.replace(manifest, models=models)


def test_a_base_model_of_over_a_third_of_the_full_models_time_is_warned_of_with_both_times(manifest: Manifest) -> None:
    warned = slow_base(taking(manifest, 4.0, 10.0))
    assert "4.00 ms" in warned and "10.00 ms" in warned and "\n" not in warned
    assert warned in remarks(taking(manifest, 4.0, 10.0))
    assert slow_base(taking(manifest, 3.0, 10.0)) == ""


def test_of_a_certified_bundle_with_a_quick_base_model_nothing_is_told(manifest: Manifest) -> None:
    assert remarks(taking(manifest, 1.0, 10.0)) == []


def test_what_is_not_certified_at_the_default_budget_is_told(manifest: Manifest) -> None:
    missed = msgspec.structs.replace(manifest, certificates=(Certificate(0.02, 0.01, 0.04, 0.95, 0.2, 50, 300),))
    [told] = remarks(taking(missed, 1.0, 10.0))
    assert told.startswith("Not certified for a budget of 2.0%: measured 1.00% disagreement, 20% asked")
    assert "some 23,000 more frames" in told


def test_an_overfitted_base_model_is_told(manifest: Manifest) -> None:
    found = msgspec.structs.replace(manifest, provenance={"overfitted": "98 % before, 78 % after"})
    assert "Overfitted: 98 % before, 78 % after." in remarks(taking(found, 1.0, 10.0))
