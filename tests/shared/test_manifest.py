"""Bundles: what is whole opens, and what is damaged, hostile or wrong is refused with one clear line."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.bundle.manifest import (
    MANIFEST,
    Bundle,
    BundleError,
    digest,
    file_digest,
    parse,
)
from tests.bundles import tiny_bundle

Fields = dict[str, Any]
LABELS = ["cat", "dog", "ship"]


def model(name: str, role: str, classes: tuple[int, ...] = ()) -> Fields:
    content = contents(name)
    return {
        "role": role,
        "file": f"{name}/1/model.onnx",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "input": {"side": 32, "mean": [125.0] * 3, "std": [60.0] * 3},
        "temperature": 1.2,
        "parameters": 1000,
        "macs": 10_000,
        "milliseconds": 0.2,
        "coverage": [0.5, 0.25, 1.0],
        "classes": list(classes),
    }


def prior(features: int) -> Fields:
    ones = [1.0] * features
    return {
        "mean": ones,
        "deviation": ones,
        "weights": [*ones, 0.0],
        "precision": np.eye(features + 1).ravel().tolist(),
    }


def contents(name: str) -> bytes:
    """Opening a bundle checks digests and loads nothing, so any bytes will do for a model."""
    return name.encode() * 1000


def manifest() -> Fields:
    return {
        "format": 3,
        "name": "tiny",
        "task": "classification",
        "labels": LABELS,
        "models": {
            "full": model("full", "full"),
            "base": model("base", "base"),
            "pets": model("pets", "submodel", (0, 1)),
        },
        "priors": {"picture": prior(4), "base": prior(13)},
        "certificates": [
            {
                "max_disagreement": budget,
                "disagreement": 0.004,
                "at_most": 0.02,
                "confidence": 0.95,
                "asked": 0.2,
                "blocks": 200,
                "blocks_needed": 160,
            }
            for budget in (0.01, 0.05)
        ],
        "distribution": {"full": [0.0, 1.0], "base": [0.0, 1.0], "least": 0.3},
        "entropy": 0.1,
        "provenance": {"data": "none"},
    }


def encoded(fields: Fields) -> bytes:
    return msgspec.json.encode(fields)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in manifest()["models"]:
        path = tmp_path / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(contents(name))
    (tmp_path / MANIFEST).write_bytes(encoded(manifest()))
    return tmp_path


def refused(directory: Path) -> str:
    with pytest.raises(BundleError) as refusal:
        Bundle(directory)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_complete_bundle_opens(directory: Path) -> None:
    bundle = Bundle(directory)
    assert bundle.version == digest(encoded(manifest())) == file_digest(directory / MANIFEST)
    assert bundle.path("pets") == directory / "pets" / "1" / "model.onnx"
    assert bundle.manifest.only("full") == "full"
    assert bundle.manifest.only("base") == "base"
    assert bundle.manifest.submodels() == ["pets"]
    assert bundle.manifest.models["pets"].classes == (0, 1)
    assert bundle.manifest.expected_coverage("base", np.array([0.5, 0.5, 0.0])) == pytest.approx(0.375)


def test_a_bundle_of_real_models_opens(tmp_path: Path) -> None:
    assert Bundle(tiny_bundle(tmp_path)).manifest.submodels() == ["vehicles", "animals"]


def test_a_manifest_of_the_earlier_format_has_the_same_models_and_no_priors() -> None:
    """A device that is upgraded without a network goes on with the models that it has."""
    fields = {name: value for name, value in manifest().items() if name not in ("priors", "certificates")}
    before = parse(encoded({**fields, "format": 2, "gates": [{"claim": 0.01}], "context": {"switch": 0.03}}))
    assert before.models == parse(encoded(manifest())).models
    assert (before.format, before.priors, before.certificates) == (3, {}, ())
    with pytest.raises(BundleError):
        parse(encoded({**fields, "format": 2, "extra": 1}))


def test_devices_of_a_submodel_are_stored_and_a_manifest_without_them_is_read() -> None:
    before = parse(encoded(manifest()))
    assert (before.own_submodel("cam"), before.common_submodels()) == (None, ["pets"])
    assert b"devices" not in msgspec.json.encode(before), "an agent of an earlier version reads such a manifest"
    pets = msgspec.structs.replace(before.models["pets"], classes=(), devices=("cam", "door"))
    after = parse(msgspec.json.encode(msgspec.structs.replace(before, models={**before.models, "pets": pets})))
    assert after.models["pets"].devices == ("cam", "door")
    assert (after.own_submodel("cam"), after.own_submodel("gate")) == ("pets", None)
    assert (after.common_submodels(), after.general_models()) == ([], []), "not for all devices"


def test_a_budget_has_a_certificate_of_its_own_or_none() -> None:
    tiny = parse(encoded(manifest()))
    found = [tiny.certificate(budget) for budget in (0.001, 0.01, 0.04, 0.5)]
    assert [one and one.max_disagreement for one in found] == [None, 0.01, None, None]


def test_a_budget_is_certified_where_the_bound_is_within_it() -> None:
    strict, lax = parse(encoded(manifest())).certificates
    assert (strict.holds, lax.holds) == (False, True)


def test_a_label_is_named_and_none_is_unknown() -> None:
    tiny = parse(encoded(manifest()))
    assert [tiny.label(index) for index in (1, None)] == ["dog", "unknown"]


def test_a_damaged_model_is_named(directory: Path) -> None:
    path = directory / "base" / "1" / "model.onnx"
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    assert str(path) in refused(directory)
    path.write_bytes(data[:500])
    assert "damaged" in refused(directory)


def test_a_missing_model_manifest_or_directory_is_named(directory: Path, tmp_path: Path) -> None:
    (directory / "pets" / "1" / "model.onnx").unlink()
    assert "pets" in refused(directory)
    (directory / MANIFEST).unlink()
    assert MANIFEST in refused(directory)
    assert "is no bundle" in refused(tmp_path / "nowhere")


def changed(*keys: str, to: Any) -> Callable[[Fields], None]:
    def change(fields: Fields) -> None:
        for key in keys[:-1]:
            fields = fields[key]
        fields[keys[-1]] = to

    return change


def renamed(name: str) -> Callable[[Fields], None]:
    """A model whose name, and file to match, reach out of the bundle."""

    def change(fields: Fields) -> None:
        fields["models"][name] = fields["models"].pop("pets") | {"file": f"{name}/1/model.onnx"}

    return change


BASE = ("models", "base")
PETS = ("models", "pets")
WRONG = {
    "unknown key": changed("extra", to=1),
    "unknown key of a model": changed(*BASE, "extra", to=1),
    "unknown key of an input": changed(*BASE, "input", "extra", to=1),
    "unknown key of a certificate": changed("certificates", to=[{"max_disagreement": 0.01, "claim": 0.1}]),
    "unknown stage of a prior": changed("priors", "last", to=prior(4)),
    "a prior of another number of features": changed("priors", "base", to=prior(12)),
    "a prior that is not finite": changed("priors", "picture", "weights", to=[1e999] * 5),
    "a deviation of zero": changed("priors", "picture", "deviation", to=[0.0] * 4),
    "unknown role": changed(*BASE, "role", to="other"),
    "another format": changed("format", to=1),
    "another task": changed("task", to="detection"),
    "a name with a slash": changed("name", to="a/b"),
    "a name that climbs": changed("name", to=".."),
    "one label": changed("labels", to=["cat"]),
    "no base model": changed(*BASE, "role", to="submodel"),
    "two full models": changed(*BASE, "role", to="full"),
    "a file elsewhere": changed(*BASE, "file", to="/etc/passwd"),
    "a file that climbs": changed(*BASE, "file", to="../base/1/model.onnx"),
    "a file of another model": changed(*BASE, "file", to="full/1/model.onnx"),
    "a model name that climbs": renamed("../pets"),
    "a model name that is a path": renamed("a/b"),
    "a model name of nothing": renamed(""),
    "a model name of dots": renamed(".."),
    "a digest out of form": changed(*BASE, "sha256", to="A" * 64),
    "a digest that is a path": changed(*BASE, "sha256", to="../" + "a" * 61),
    "too little coverage": changed(*BASE, "coverage", to=[1.0]),
    "a class beyond the labels": changed(*PETS, "classes", to=[3]),
    "a negative class": changed(*PETS, "classes", to=[-1]),
    "temperature zero": changed(*BASE, "temperature", to=0),
    "no bytes": changed(*BASE, "bytes", to=0),
    "no side": changed(*BASE, "input", "side", to=0),
    "a side beyond bounds": changed(*BASE, "input", "side", to=5000),
    "deviation zero": changed(*BASE, "input", "std", to=[0.0, 1.0, 1.0]),
    "a crop beyond the picture": changed(*BASE, "input", "crop", to=1.5),
    "a negative entropy": changed("entropy", to=-0.1),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_an_invalid_manifest_is_refused(change: Callable[[Fields], None]) -> None:
    fields = manifest()
    change(fields)
    with pytest.raises(BundleError, match=MANIFEST) as refusal:
        parse(encoded(fields))
    assert "\n" not in str(refusal.value)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_manifest(data: bytes) -> None:
    with pytest.raises(BundleError):
        parse(data)


@given(st.data())
def test_a_damaged_manifest_is_refused_or_still_one(data: st.DataObject) -> None:
    damaged = bytearray(encoded(manifest()))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BundleError):
        parse(bytes(damaged))
