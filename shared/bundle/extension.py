"""An extension: submodels that a server has trained, beside the manifest that the builder has signed.

A device merges both. An extension can only add submodels for named devices, so the signer of extensions cannot
change what the builder has signed.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from cachenet.shared.bundle.manifest import BundleError, Manifest, Model, digest, parse
from cachenet.shared.cascade.risk_model import RiskPrior

#: Most submodels of an extension; fine-tuning adds 64 at most, and one more name for each that devices share.
MAX_MODELS = 128
#: End of the name under which an extension gives a submodel of the builder to further devices, and its longest start.
_SHARED, _STEM = "-shared", 57


class Extension(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Submodels for devices.

    Attributes:
        version: Version of the manifest that the extension belongs to.
        models: The submodels by name.
        prior: Prior of the risk model for submodels, where the manifest has no submodels.

    Example:
        >>> Extension("0" * 64, {}).models
        {}
    """

    version: str
    models: Annotated[dict[str, Model], msgspec.Meta(max_length=MAX_MODELS)]
    prior: RiskPrior | None = None


def parse_extension(data: bytes) -> Extension:
    """Decode an extension. Raises ``BundleError``."""
    try:
        return msgspec.json.decode(data, type=Extension)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"extension: {error}") from None


def difference(version: str, signed: Manifest, updated: Manifest) -> Extension:
    """The extension that brings what ``updated`` has beyond ``signed``, whose version is ``version``.

    What ``updated`` lacks stays: a device prefers the newest submodel that names it. A submodel of ``signed`` that
    further devices share gets a second name for them.
    """
    models: dict[str, Model] = {}
    for name, model in updated.models.items():
        known = signed.models.get(name)
        if known is None:
            models[name] = model
        elif further := tuple(device for device in model.devices if device not in known.devices):
            alias = name[:_STEM] + _SHARED
            models[alias] = msgspec.structs.replace(model, file=f"{alias}/1/model.onnx", devices=further)
    prior = updated.priors.get("submodel") if models and _takes_prior(signed) else None
    return Extension(version, models, prior)


def merge(signed: bytes, extension: Extension) -> bytes:
    """The manifest ``signed`` with the submodels of ``extension``.

    Raises:
        BundleError: The extension belongs to another manifest, or would do more than add submodels for devices.
    """
    manifest = parse(signed)
    if extension.version != digest(signed):
        raise BundleError("extension: it belongs to another version of the bundle")
    if not extension.models and extension.prior is None:
        return signed
    for name, model in extension.models.items():
        if name in manifest.models:
            raise BundleError(f"extension: it names {name[:64]}, which is the bundle's")
        if model.role != "submodel" or not model.devices:
            raise BundleError(f"extension: {name[:64]} is no submodel for named devices")
    if extension.prior is not None and not _takes_prior(manifest):
        raise BundleError("extension: it has a prior, and the bundle has submodels of its own")
    priors = manifest.priors if extension.prior is None else {**manifest.priors, "submodel": extension.prior}
    merged = msgspec.structs.replace(manifest, models={**manifest.models, **extension.models}, priors=priors)
    data = msgspec.json.encode(merged)
    parse(data)
    return data


def _takes_prior(manifest: Manifest) -> bool:
    """Whether no submodel of the manifest would be judged by an extension's prior."""
    return not manifest.submodels()
