"""Extensions only add submodels for devices."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachenet.shared.bundle.extension import MAX_MODELS, Extension, difference, merge, parse_extension
from cachenet.shared.bundle.manifest import Bundle, BundleError, Manifest, Model, digest, parse
from tests.bundles import tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle")))


def own(bundle: Bundle, name: str, devices: tuple[str, ...] = ("cam",)) -> Model:
    """A submodel for devices, with the file of the base model."""
    return msgspec.structs.replace(
        bundle.manifest.models["base"], role="submodel", file=f"{name}/1/model.onnx", devices=devices
    )


def with_models(manifest: Manifest, **models: Model) -> Manifest:
    return msgspec.structs.replace(manifest, models={**manifest.models, **models})


def test_the_difference_to_an_update_merges_to_the_update(bundle: Bundle) -> None:
    updated = with_models(bundle.manifest, new=own(bundle, "new"), newer=own(bundle, "newer"))
    extension = difference(bundle.version, bundle.manifest, updated)
    merged = parse(merge(bundle.data, parse_extension(msgspec.json.encode(extension))))
    assert merged == updated
    assert list(merged.models) == list(updated.models), "the newest submodel of a device counts"


def test_an_empty_extension_changes_no_byte(bundle: Bundle) -> None:
    extension = difference(bundle.version, bundle.manifest, bundle.manifest)
    assert merge(bundle.data, extension) == bundle.data


def test_what_an_update_lacks_or_shares_changes_nothing_that_is_signed(bundle: Bundle) -> None:
    """A signed submodel that a further device shares gets a second name for that device."""
    signed = with_models(bundle.manifest, scene=own(bundle, "scene", ("cam",)), gone=own(bundle, "gone", ("door",)))
    data = msgspec.json.encode(signed)
    updated = with_models(bundle.manifest, scene=own(bundle, "scene", ("cam", "door")))
    merged = parse(merge(data, difference(digest(data), signed, updated)))
    assert {name: merged.models[name] for name in signed.models} == signed.models
    assert merged.own_submodel("door") == "scene-shared" and merged.own_submodel("cam") == "scene"
    assert merged.models["scene-shared"].sha256 == signed.models["scene"].sha256


def test_a_prior_of_submodels_comes_only_to_a_bundle_without_submodels(bundle: Bundle) -> None:
    priors = {stage: prior for stage, prior in bundle.manifest.priors.items() if stage != "submodel"}
    models = {name: bundle.manifest.models[name] for name in ("full", "base")}
    signed = msgspec.structs.replace(bundle.manifest, models=models, priors=priors)
    data, prior = msgspec.json.encode(signed), bundle.manifest.priors["submodel"]
    updated = msgspec.structs.replace(with_models(signed, new=own(bundle, "new")), priors=bundle.manifest.priors)
    assert parse(merge(data, difference(digest(data), signed, updated))) == updated
    for other in (bundle.manifest, msgspec.structs.replace(bundle.manifest, priors=priors)):
        changed = msgspec.json.encode(other)
        with pytest.raises(BundleError, match="it has a prior"):
            merge(changed, Extension(digest(changed), {}, prior))
        assert difference("", other, msgspec.structs.replace(updated, models=updated.models)).prior is None


@given(
    name=st.sampled_from(["full", "base", "vehicles", "new"]),
    change=st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["full", "base"]),
            "devices": st.just(()),
            "file": st.sampled_from(["base/1/model.onnx", "../../x", "new/1/model.onnx"]),
            "sha256": st.just("0"),
            "coverage": st.just((0.5,)),
            "temperature": st.just(-1.0),
            "classes": st.just((99,)),
        },
    ),
)
@settings(deadline=None)
def test_an_extension_adds_or_is_refused(bundle: Bundle, name: str, change: dict[str, Any]) -> None:
    model = msgspec.structs.replace(own(bundle, name), **change)
    try:
        merged = parse(merge(bundle.data, Extension(bundle.version, {name: model})))
    except BundleError:
        return
    assert merged == with_models(bundle.manifest, new=model)
    assert model.role == "submodel" and model.devices == ("cam",) and model.file == "new/1/model.onnx"


def test_an_extension_of_another_version_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="another version"):
        merge(bundle.data, Extension("0" * 64, {"new": own(bundle, "new")}))


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"version": "0", "models": {}, "labels": []}'])
def test_what_is_no_extension_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"^extension: "):
        parse_extension(data)


def test_the_number_of_submodels_is_bounded(bundle: Bundle) -> None:
    many = {f"m{number}": own(bundle, f"m{number}") for number in range(MAX_MODELS + 1)}
    with pytest.raises(BundleError, match=r"^extension: "):
        parse_extension(msgspec.json.encode(Extension(bundle.version, many)))
    del many["m0"]
    assert len(parse_extension(msgspec.json.encode(Extension(bundle.version, many))).models) == MAX_MODELS
