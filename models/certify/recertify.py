"""Certifying a bundle again: its models stay, and temperatures, priors and certificates come from other footage."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import torch
from rich.progress import Progress

from cachenet.models.build_config import BuildConfig
from cachenet.models.bundle_writer import check_place, lay, put
from cachenet.models.certify import calibrate
from cachenet.models.certify.certify import Certified, certify
from cachenet.models.data.dataset import LabelledFrames
from cachenet.shared.bundle.manifest import Bundle, Manifest
from cachenet.shared.bundle.trust import Signer
from cachenet.shared.inference.engine import Session


def again(
    plan: BuildConfig,
    bundle: Bundle,
    tune: LabelledFrames,
    prove: LabelledFrames,
    out: Path,
    progress: Progress,
    signer: Signer | None = None,
) -> Bundle:
    """Write ``bundle`` to ``out`` with temperatures, coverage, priors and certificates as other frames show them.
    Raises ``PlaceError`` and ``OSError``."""
    check_place(out)
    old, full = bundle.manifest, bundle.manifest.only("full")
    building = out.with_name(out.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    try:
        lay(bundle, old.models, building)
        paths = {name: building / model.file for name, model in old.models.items()}
        special = {name: model.classes for name, model in old.models.items() if model.classes}
        inputs = {name: model.input for name, model in old.models.items()}
        degrees, coverage = calibrate.measure(tune, inputs, full, paths, special, plan.seed, progress)
        models = {
            name: msgspec.structs.replace(model, temperature=degrees[name], coverage=coverage[name])
            for name, model in old.models.items()
        }
        sessions = {name: (Session(path, "cpu", torch.get_num_threads()), inputs[name]) for name, path in paths.items()}
        found = certify(plan, tune, prove, models, sessions, progress)
        about = {"proven": f"again, with {len(tune)} frames to tune and {len(prove)} to prove"}
        changed = msgspec.structs.replace(old, models=models, provenance=old.provenance | about)
        return put(building, with_certified(changed, found, calibrate.accuracy(tune)), out, signer)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def with_certified(manifest: Manifest, found: Certified, accuracy: dict[str, str], trained: bool = False) -> Manifest:
    """``manifest`` with what was ``found``, in the place of what was found before. ``trained``: whether the base model
    has just learned from the same footage: only then is a drop of agreement called overfitting."""
    kept = {key: value for key, value in manifest.provenance.items() if key != "overfitted"}
    told = {key: value for key, value in found.about.items() if trained or key != "overfitted"}
    return msgspec.structs.replace(
        manifest,
        priors=found.priors,
        certificates=found.certificates,
        distribution=found.distribution,
        entropy=found.entropy,
        provenance={**kept, **accuracy, **told},
    )
