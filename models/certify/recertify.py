"""Certifies a bundle again: its models stay; temperatures, priors and certificates come from other footage."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch
from rich.progress import Progress

from cachenet.models.build_config import BuildConfig
from cachenet.models.bundle_writer import link_models, publish, under_construction
from cachenet.models.certify import calibrate
from cachenet.models.certify.certify import Certification, certify
from cachenet.models.data.dataset import LabelledFrames
from cachenet.shared.bundle.manifest import Bundle, Manifest
from cachenet.shared.inference.engine import Session


def recertify(
    config: BuildConfig,
    bundle: Bundle,
    tune: LabelledFrames,
    prove: LabelledFrames,
    out: Path,
    progress: Progress,
) -> Bundle:
    """Write ``bundle`` to ``out`` with temperatures, coverage, priors and certificates from other frames.

    Raises:
        PlaceError: Something other than a bundle is at ``out``.
        OSError: The bundle cannot be written.
    """
    old, full = bundle.manifest, bundle.manifest.only("full")
    with under_construction(out) as building:
        link_models(bundle, old.models, building)
        paths = {name: building / model.file for name, model in old.models.items()}
        special = {name: model.classes for name, model in old.models.items() if model.classes}
        inputs = {name: model.input for name, model in old.models.items()}
        temperatures, coverage = calibrate.calibrate_models(tune, inputs, full, paths, special, config.seed, progress)
        models = {
            name: msgspec.structs.replace(model, temperature=temperatures[name], coverage=coverage[name])
            for name, model in old.models.items()
        }
        sessions = {name: (Session(path, "cpu", torch.get_num_threads()), inputs[name]) for name, path in paths.items()}
        found = certify(config, tune, prove, models, sessions, progress)
        about = {"proven": f"again, with {len(tune)} frames to tune and {len(prove)} to prove"}
        changed = msgspec.structs.replace(old, models=models, provenance=old.provenance | about)
        return publish(building, with_certified(changed, found, calibrate.accuracy(tune)), out)


def with_certified(
    manifest: Manifest, found: Certification, accuracy: dict[str, str], trained: bool = False
) -> Manifest:
    """``manifest`` with a new certification; ``accuracy`` of the full model is for the provenance.

    A drop of agreement is overfitting only if the base model was ``trained`` on the same footage.
    """
    before = {key: value for key, value in manifest.provenance.items() if key != "overfitted"}
    about = {key: value for key, value in found.about.items() if trained or key != "overfitted"}
    return msgspec.structs.replace(
        manifest,
        priors=found.priors,
        certificates=found.certificates,
        distribution=found.distribution,
        entropy=found.entropy,
        provenance={**before, **accuracy, **about},
    )
