"""Submodels of devices in a manifest, of classifiers and of detectors."""

from __future__ import annotations

from collections.abc import Iterable

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


def making_room(manifest: Manifest, devices: tuple[str, ...], prefix: str, most: int) -> Manifest:
    """The manifest ``without`` submodels for ``devices``, and with room for one more of at most ``most``.

    Args:
        prefix: Start of the names of these submodels; the oldest ones are left out.
    """
    left = without(manifest, devices)
    numbered = [name for name in left.models if name.startswith(prefix)]
    dropped = numbered[: max(0, len(numbered) + 1 - most)]
    models = {name: model for name, model in left.models.items() if name not in dropped}
    return msgspec.structs.replace(left, models=models)


def next_name(names: Iterable[str], prefix: str) -> str:
    """``prefix`` and the number after the largest of ``names``."""
    numbers = [int(name.removeprefix(prefix).split("-")[0]) for name in names if name.startswith(prefix)]
    return f"{prefix}{max(numbers, default=0) + 1:03}"
