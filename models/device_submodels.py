"""Submodels of devices in a manifest, of classifiers and of detectors."""

from __future__ import annotations

import msgspec

from cachenet.shared.bundle.manifest import Manifest


def without(manifest: Manifest, devices: tuple[str, ...]) -> Manifest:
    """The manifest in which no submodel names ``devices``. A submodel that names no others is left out."""
    models = {}
    for name, model in manifest.models.items():
        others = tuple(device for device in model.devices if device not in devices)
        if others or not model.devices:
            models[name] = msgspec.structs.replace(model, devices=others)
    return msgspec.structs.replace(manifest, models=models)
