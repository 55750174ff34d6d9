"""Adds a general model of another size to a bundle.

A smaller one answers most frames on a small device faster than the base model; a larger one is more accurate.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
from rich.progress import Progress

from cachenet.models.build import results_directory
from cachenet.models.build_config import BuildConfig
from cachenet.models.bundle_writer import TargetError, check_target, link_models
from cachenet.models.certify.recertify import recertify
from cachenet.models.data.dataset import Dataset
from cachenet.models.export import cost, quantise
from cachenet.models.export.export import export
from cachenet.models.train import candidates, local_models, local_networks, teacher_runtime
from cachenet.models.train.candidates import TrainedModel
from cachenet.models.train.local_models import LocalModel
from cachenet.models.train.networks import ResNet, macs
from cachenet.shared.bundle.manifest import MANIFEST, Bundle
from cachenet.shared.command import atomic_files


def add(
    config: BuildConfig,
    bundle: Bundle,
    dataset: Dataset,
    work: Path,
    out: Path,
    progress: Progress,
) -> Bundle:
    """Write ``bundle`` with one more general model to ``out``, and certify it again.

    Args:
        config: Build configuration; ``shares[0]`` is the new model's share of the full model's multiply-adds.
        dataset: Data that it was built from.

    Raises:
        PlaceError: ``out`` cannot be replaced, or the bundle has a model of this size.
        OSError: ``out`` cannot be written.
    """
    check_target(out)
    manifest, classifier = bundle.manifest, dataset.classifier
    spec, full, base = candidates.local_input(classifier.input), manifest.only("full"), manifest.only("base")
    full_macs, [share] = cost.macs(classifier.graph, spec.size), config.shares
    net = candidates.network_shape(share, full_macs, spec.size, len(classifier.labels))
    size = f"1in{full_macs / macs(ResNet(net), spec.size):.3g}"
    name = f"general-{size}"
    if name in manifest.models:
        raise TargetError(f"{manifest.name} has {name} already; name another --share")

    directory = results_directory(config.seed, dataset, work)
    wanted = [TrainedModel(name, size, net)]
    network = local_networks.train(config, dataset, wanted, bundle.path(full), directory, progress)[name].eval()
    staged = out.with_name(out.name + ".staged")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        link_models(bundle, manifest.models, staged)
        path = staged / name / "1" / "model.onnx"
        export(network, path, local_models.properties(manifest.name, classifier.labels, name, spec))
        quantise.match_precision(bundle.path(base), path, teacher_runtime.calibration_inputs(spec, dataset.tune))
        made = LocalModel(spec, network.parameters_count(), macs(network, spec.size))
        # Certification measures temperature and coverage.
        model = local_models.manifest_entry(staged, name, "submodel", made, 1.0, (0.0,) * len(classifier.labels))
        models = {**manifest.models, name: model}
        about = {**manifest.provenance, name: f"from {len(dataset.learn)} frames, {config.epochs} epochs"}
        grown = msgspec.structs.replace(manifest, models=models, provenance=about)
        atomic_files.write(staged / MANIFEST, msgspec.json.encode(grown))
        return recertify(config, Bundle(staged), dataset.tune, dataset.prove, out, progress)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
