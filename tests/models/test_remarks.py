"""Remarks on a finished bundle."""

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


def test_a_warning_about_a_slow_base_model_has_both_times(manifest: Manifest) -> None:
    warning = slow_base(taking(manifest, 4.0, 10.0))
    assert "4.00 ms" in warning and "10.00 ms" in warning and "\n" not in warning
    assert warning in remarks(taking(manifest, 4.0, 10.0))
    assert slow_base(taking(manifest, 3.0, 10.0)) == ""


def test_a_certified_bundle_with_a_fast_base_model_has_no_remarks(manifest: Manifest) -> None:
    assert remarks(taking(manifest, 1.0, 10.0)) == []


def test_a_missing_certificate_for_the_default_budget_is_a_remark(manifest: Manifest) -> None:
    missed = msgspec.structs.replace(manifest, certificates=(Certificate(0.02, 0.01, 0.04, 0.95, 0.2, 50, 300),))
    [remark] = remarks(taking(missed, 1.0, 10.0))
    assert remark.startswith("Not certified for a budget of 2.0%: measured 1.00% disagreement, 20% asked")
    assert "some 23,000 more certification frames" in remark


def test_an_overfitted_base_model_is_a_remark(manifest: Manifest) -> None:
    found = msgspec.structs.replace(manifest, provenance={"overfitted": "98 % before, 78 % after"})
    assert "Overfitted: 98 % before, 78 % after." in remarks(taking(found, 1.0, 10.0))
